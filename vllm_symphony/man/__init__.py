"""The manual: a page for each system call, and what they share (man/*.md, also as docs/calls).

`symphony man CALL` shows a page. Tests hold the pages to the call table, the dataclasses, the library and the kernel.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

_PAGES = files(__name__)


@cache
def names() -> tuple[str, ...]:
    """All pages, by name."""
    return tuple(sorted(entry.name.removesuffix(".md") for entry in _PAGES.iterdir() if entry.name.endswith(".md")))


def page(name: str) -> str:
    """The page's Markdown."""
    return (_PAGES / f"{name}.md").read_text(encoding="utf-8")


def summary(name: str) -> str:
    """What its NAME says it is."""
    return page(name).split("\n## NAME\n\n", 1)[1].split("\n", 1)[0].removeprefix(f"{name} - ")
