"""The programs that benchmarks run at the server; each is read as text and uploaded."""

from pathlib import Path


def source(name: str) -> str:
    """The text of one of them."""
    return (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
