"""Pages of the manual on a terminal (cli/markdown.py): the part of Markdown that they are written in, as plain text.

# title         left out                        | a | table |      columns, the last one wrapped
## SECTION      bold                            ```              code: as it is, further in
paragraphs      filled to the width             - a list         with its lines under each other
`code`, **strong**, [text](link)                their text
"""

from __future__ import annotations

import re
import textwrap

BOLD, PLAIN = "\x1b[1m", "\x1b[0m"
MAX_WIDTH = 100
_INDENT = "    "


def render(text: str, width: int) -> str:
    """The page for a terminal of `width` columns, headings in bold."""
    width = min(width, MAX_WIDTH)
    blocks = re.findall(r"^```\w*\n.*?^```$|^[^\n]+(?:\n(?!```)[^\n]+)*", text, re.DOTALL | re.MULTILINE)
    return "\n".join(_block(block, width) for block in blocks if not block.startswith("# "))


def _block(block: str, width: int) -> str:
    lines = block.splitlines()
    if block.startswith("## "):
        return f"{BOLD}{block[3:]}{PLAIN}"
    if block.startswith("```"):
        return "\n".join(f"{_INDENT}{_INDENT}{line}".rstrip() for line in lines[1:-1]) + "\n"
    if block.startswith("|"):
        return _table(lines, width) + "\n"
    items = re.split(r"\n(?=- |\d+\. )", block)
    return "\n".join(_filled(item, width) for item in items) + "\n"


def _filled(text: str, width: int) -> str:
    mark = re.match(r"- |\d+\. ", text)
    hanging = _INDENT + " " * len(mark[0] if mark else "")
    return textwrap.fill(_inline(text), width, initial_indent=_INDENT, subsequent_indent=hanging, break_on_hyphens=False)


def _table(lines: list[str], width: int) -> str:
    """Columns; the rule is left out, and the head where the columns are a field's name, type and default."""
    body = lines[2:] if lines[0].startswith("| field |") else [lines[0], *lines[2:]]
    rows = [[_inline(cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body]
    widths = [max(len(cell) for cell in column) for column in list(zip(*rows, strict=True))[:-1]]
    shown: list[str] = []
    for row in rows:
        head = _INDENT + "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=False)) + "  "
        rest = textwrap.wrap(row[-1], max(width - len(head), 20)) or [""]
        shown += [(head + rest[0]).rstrip(), *(" " * len(head) + line for line in rest[1:])]
    return "\n".join(shown)


def _inline(text: str) -> str:
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(text.split()))
    return re.sub(r"`([^`]*)`|\*\*([^*]+)\*\*", lambda m: m[1] if m[1] is not None else m[2], text).replace("\\|", "|")
