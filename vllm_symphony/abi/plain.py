"""Text of programs on a terminal (abi/plain.py).

    done ESC [2J  ->  done\\x1b[2J

What would move the cursor, colour, hide, turn the reading direction or ring is shown as its escape: who looks at a process must not
be shown what another process wants him to see. Letters, spaces and the joiners of scripts and emoji stay as they are.
"""

from __future__ import annotations

from unicodedata import category

_JOINERS = "\u200c\u200d"
_LINES = "\n\t"


def plain(text: str) -> str:
    """On one line: line breaks are shown as escapes too."""
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def plain_lines(text: str) -> str:
    """On as many lines as it has. A carriage return that ends a line goes with it."""
    return "".join(c if c in _LINES else _shown(c) for c in text.replace("\r\n", "\n"))


def _shown(c: str) -> str:
    if c.isprintable() or c in _JOINERS or category(c) == "Zs":
        return c
    return c.encode("unicode_escape").decode("ascii")
