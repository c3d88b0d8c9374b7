"""Short forms of the store's records."""

from __future__ import annotations

from vllm_symphony.abi.record import ROOT_INO, NodeRecord, SavedPage
from vllm_symphony.abi.types import Ino, pack_tokens

ROOT = NodeRecord(ROOT_INO, "dir", "root", "root", 0o1777, "", 1, 1, (), durable="tokens")


def directory(ino: int, name: str, *, parent: int = 1, **fields: object) -> NodeRecord:
    return NodeRecord(Ino(ino), "dir", "ann", "ann", 0o755, "", 1, 1, ((Ino(parent), name),), **fields)  # type: ignore[arg-type]


def file(ino: int, name: str, tokens: list[int], *, kept: int = 0, parent: int = 1, **fields: object) -> NodeRecord:
    """`tokens` are all of the file's; the record holds those from `kept` on."""
    names = ((Ino(parent), name),) if name else ()
    given = {"names": names, "runs": ((0, 0),), **fields}
    return NodeRecord(
        Ino(ino),
        "file",
        "ann",
        "staff",
        0o640,
        "ann",
        5,
        6,
        length=len(tokens),
        kept=kept,
        tokens=pack_tokens(tokens[kept:]),
        **given,
    )  # type: ignore[arg-type]


def page(segment: str, slot: int = 0, num_tokens: int = 16) -> SavedPage:
    return SavedPage(segment, slot, num_tokens)
