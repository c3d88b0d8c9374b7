"""What the reactor and the tool host say to each other (tools/wire.py).

    reactor                                   tool host (tools/host.py)
      Start job, principal, name, args ... -->    queued, fairly by principal; run
                                           <--    Done job, result   or   Failed job, reason      exactly one for each Start
      Cancel job                           -->    ends soon: Failed EINTR, unless it was done
                                           <--    Table principal, tools      "" = of everybody who has none of his own
                                           <--    Ready                       or, before it ends, Broken
      Ping                                 -->    Pong       only a host that takes them is alive

Frames of abi/frame.py over a SOCK_STREAM socketpair, msgpack inside. When either side closes, the other ends what is in flight.
"""

from __future__ import annotations

import msgspec

from vllm_symphony.abi.calls import ToolResult
from vllm_symphony.abi.frame import FrameReader, frame
from vllm_symphony.abi.types import ToolInfo
from vllm_symphony.errors import InvalidArgument, SymphonyError, Value, from_reason


class Message(msgspec.Struct, tag_field="is", frozen=True, gc=False):
    """Any of these."""


class Start(Message, frozen=True, tag="start"):
    job: int
    principal: str
    name: str
    args: str
    timeout_s: float | None = None


class Cancel(Message, frozen=True, tag="cancel"):
    job: int


class Ping(Message, frozen=True, tag="ping"):
    number: int


class Pong(Message, frozen=True, tag="pong"):
    number: int


class Done(Message, frozen=True, tag="done"):
    job: int
    result: ToolResult


class Failed(Message, frozen=True, tag="failed"):
    job: int
    reason: str
    message: str
    values: dict[str, Value] = {}
    retry_after_s: float | None = None

    @classmethod
    def of(cls, job: int, error: SymphonyError) -> Failed:
        return cls(job, error.reason, error.message, dict(error.values), error.retry_after_s)

    def error(self) -> SymphonyError:
        return from_reason(self.reason, self.message, self.values, self.retry_after_s)


class Table(Message, frozen=True, tag="table"):
    principal: str
    tools: tuple[ToolInfo, ...]


class Ready(Message, frozen=True, tag="ready"): ...


class Broken(Message, frozen=True, tag="broken"):
    """It cannot start: what the operator must mend."""

    message: str


ToHost = Start | Cancel | Ping
FromHost = Done | Failed | Table | Ready | Broken | Pong
_encode = msgspec.msgpack.Encoder().encode
_to_host = msgspec.msgpack.Decoder(ToHost)
_from_host = msgspec.msgpack.Decoder(FromHost)


def pack(message: ToHost | FromHost) -> bytes:
    """As a frame."""
    return frame(_encode(message))


class Inbox:
    """Cuts what one side hears into messages. Raises InvalidArgument on what is none."""

    def __init__(self, *, in_host: bool) -> None:
        self._reader = FrameReader()
        self._decoder: msgspec.msgpack.Decoder[ToHost | FromHost] = _to_host if in_host else _from_host

    def feed(self, data: bytes) -> list[ToHost | FromHost]:
        try:
            return [self._decoder.decode(body) for body in self._reader.feed(data)]
        except msgspec.MsgspecError as e:
            raise InvalidArgument(f"no message of the tool host: {e}") from None
