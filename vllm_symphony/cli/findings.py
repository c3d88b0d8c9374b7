"""What gc and fsck found, as people see it (cli/findings.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vllm_symphony.abi.plain import plain
from vllm_symphony.abi.types import Finding
from vllm_symphony.cli import size
from vllm_symphony.cli.table import show

BROKEN = frozenset(("corrupt", "missing", "lost"))
_COLUMNS: dict[str, Callable[[Finding], str]] = {
    "FOUND": lambda f: f.kind,
    "BYTES": lambda f: size.shown(f.num_bytes),
    "PATH": lambda f: plain(f.path) or f"ino {f.ino}",
    "DETAIL": lambda f: plain(f.detail),
}


def show_findings(findings: Sequence[Finding]) -> None:
    """A table; nothing where nothing was found."""
    if findings:
        show(findings, _COLUMNS, as_json=False)
