"""Rights as people write and read them (cli/mode.py).

0o640 <-> -rw-r-----      drwxrwxrwt: a sticky directory      drwxr-sr-x: what is made in it gets its group
640, u+rw, g=r, go-w, a+rX, +t, g+s, with commas: as chmod(1)
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

SETGID, STICKY = 0o2000, 0o1000
_SHIFT = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXst]*)+)")


def shown(mode: int, kind: str) -> str:
    """-rw-r-----, as ls(1) shows it."""
    bits = ["rwx"[i % 3] if mode >> (8 - i) & 1 else "-" for i in range(9)]
    for flag, place, letter in ((SETGID, 5, "s"), (STICKY, 8, "t")):
        if mode & flag:
            bits[place] = letter if bits[place] == "x" else letter.upper()
    return ("d" if kind == "dir" else "-") + "".join(bits)


def change(text: str) -> Callable[[int, str], int]:
    """What `text` makes of a mode: a function of the mode and the kind of file it is; for argparse."""
    if re.fullmatch(r"[0-7]{1,4}", text):
        return lambda mode, kind: int(text, 8)
    clauses = [_CLAUSE.fullmatch(clause) for clause in text.split(",")]
    if not all(clauses):
        raise argparse.ArgumentTypeError(f"{text!r} is neither like 640 nor like u+rw,o-r")

    def changed(mode: int, kind: str) -> int:
        for clause in clauses:
            assert clause is not None
            for sign, letters in re.findall(r"([-+=])([rwxXst]*)", clause[2]):
                mode = _apply(mode, kind, clause[1] or "a", sign, letters)
        return mode

    return changed


def octal(text: str) -> int:
    """A mode of octal digits; for argparse."""
    if not re.fullmatch(r"[0-7]{1,4}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no mode like 640 or 1777")
    return int(text, 8)


def _apply(mode: int, kind: str, who: str, sign: str, letters: str) -> int:
    classes = "ugo" if "a" in who else who
    one = sum(_BITS[letter] for letter in set(letters) & set(_BITS))
    if "X" in letters and (kind == "dir" or mode & 0o111):
        one |= _BITS["x"]
    bits = sum(one << _SHIFT[c] for c in set(classes))
    bits |= (SETGID if "s" in letters and "g" in classes else 0) | (STICKY if "t" in letters else 0)
    if sign == "+":
        return mode | bits
    if sign == "-":
        return mode & ~bits
    return mode & ~sum(7 << _SHIFT[c] for c in set(classes)) | bits
