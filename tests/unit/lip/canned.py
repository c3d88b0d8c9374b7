"""The toy machine with answers laid ready, for calls that it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.unit.lip.toy import ToyTransport
from vllm_symphony.abi.types import FileStat
from vllm_symphony.errors import SymphonyError


class Canned(ToyTransport):
    """`answers`: by call, the result or the error; of what is not in it the toy's own."""

    def __init__(self, **answers: Any) -> None:
        super().__init__()
        self.answers = answers

    async def _answer(self, op: str, args: Any, on_part: Callable[[object], None] | None) -> Any:
        if op in self.hold:
            await self.release.wait()
        if op not in self.answers:
            return await super()._answer(op, args, on_part)
        answer = self.answers[op]
        if isinstance(answer, SymphonyError):
            raise answer
        return answer

    def asked(self, op: str) -> list[Any]:
        """The arguments of each call of that name."""
        return [args for name, _, args in self.log if name == op]


def stat(path: str, **more: Any) -> FileStat:
    return FileStat(**{
        "ino": 5, "path": path, "nlink": 1, "owner": "me", "mode": 0o640, "length": 3, "frontier": 3, "num_pages": 1,
        "fidelity": "exact", "num_open": 0, "busy": False, "created_ns": 0, "modified_ns": 0, **more,
    })  # fmt: skip
