"""Which calls to show, as `strace -e` says it (trace/choice.py).

forward,generate    these        file    all calls on files        !sleep    all but these        !text,sleep    the same
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vllm_symphony.abi.table import CALLS
from vllm_symphony.errors import InvalidArgument

KINDS: Mapping[str, frozenset[str]] = {
    "file": frozenset((
        "open", "close", "dup", "fork", "truncate", "append", "read", "link", "unlink", "rename", "stat", "list",
    )),
    "model": frozenset(("model_info", *(op for op, spec in CALLS.items() if spec.kind == "model"))),
    "process": frozenset(("spawn", "wait", "kill", "ps", "getpid", "emit", "exit", "thread_start", "thread_end", "cancel")),
    "text": frozenset(op for op, spec in CALLS.items() if spec.kind == "text"),
}  # fmt: skip


class Choice:
    """All that were named, or all but these."""

    def __init__(self, ops: Iterable[str], but: bool = False) -> None:
        self._ops = frozenset(ops)
        self._but = but

    @classmethod
    def of(cls, words: str) -> Choice:
        """Read one. Raises InvalidArgument for a word that is neither a call nor a kind of calls."""
        but = words.startswith("!")
        ops: set[str] = set()
        for word in words.removeprefix("!").split(","):
            word = word.strip()
            if word not in KINDS and word not in CALLS:
                raise InvalidArgument(f"no such call: {word!r} (kinds: {', '.join(KINDS)})", word=word)
            ops |= KINDS.get(word) or {word}
        return cls(ops, but)

    def takes(self, op: str) -> bool:
        """Whether this call is one of them."""
        return (op in self._ops) != self._but


ALL = Choice((), but=True)
