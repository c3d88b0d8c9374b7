"""Bars as a small SVG (simulate/bars.py): text that a review can read, the same to the byte for the same values, and no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, LABEL, LINE, TITLE = 640, 170, 18, 28


class Bar(NamedTuple):
    label: str
    value: float


def draw(groups: Mapping[str, Sequence[Bar]]) -> str:
    """A title for each group, and its bars under it, the longest as long as there is room."""
    lines: list[str] = []
    y = 0
    for title, bars in groups.items():
        y += TITLE
        lines.append(f'<text x="4" y="{y - 8}" font-weight="bold">{escape(title)}</text>')
        most = max((bar.value for bar in bars), default=0.0) or 1.0
        for bar in bars:
            length = round((WIDTH - LABEL - 70) * bar.value / most)
            lines.append(f'<text x="{LABEL - 6}" y="{y + 12}" text-anchor="end">{escape(bar.label)}</text>')
            lines.append(f'<rect x="{LABEL}" y="{y + 2}" width="{length}" height="{LINE - 6}" fill="#4a7ab5"/>')
            lines.append(f'<text x="{LABEL + length + 5}" y="{y + 12}">{bar.value:.3g}</text>')
            y += LINE
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 8}" font-family="sans-serif" font-size="12">'
    return "\n".join((head, '<rect width="100%" height="100%" fill="white"/>', *lines, "</svg>\n"))
