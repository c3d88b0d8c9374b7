"""The fused decoding loop as programs see it (lip/generation.py).

    done = await file.generate(200, temperature=0.8)           one call, one reply
    async for piece in file.generate(200):                     the same call, streamed
        print(piece, end="")

Every token that was returned is in the file. Like a coroutine, a `Generation` runs when it is awaited or iterated, once.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.calls import Generate, GeneratePart, GenerateResult
from vllm_symphony.abi.types import unpack_floats, unpack_tokens
from vllm_symphony.errors import InvalidArgument, SymphonyError
from vllm_symphony.lip import transport
from vllm_symphony.lip.distribution import Distribution

if TYPE_CHECKING:
    from vllm_symphony.lip.file import File


@dataclass(frozen=True)
class Piece:
    """What came since the last piece; `str(piece)` is its text. `logprobs` only when asked for."""

    tokens: list[int]
    text: str = ""
    logprobs: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Completion:
    """How a `generate` ended; `str(completion)` is its text.

    `reason` is `stop` (which string or token: `stop`), `length`, `until` (`distribution` is the one that fired) or `grammar` (it is
    complete). `length` is the file's. `logprobs` are the unmasked model's, empty unless asked for.
    """

    text: str
    tokens: list[int]
    reason: str
    stop: str | None
    logprobs: list[float]
    length: int
    distribution: Distribution | None = None

    @cached_property
    def logprob(self) -> float:
        """Log-probability of all tokens together. InvalidArgument unless `generate` was asked for logprobs=True."""
        if len(self.logprobs) != len(self.tokens):
            raise InvalidArgument("no log-probabilities: ask generate for logprobs=True")
        return sum(self.logprobs)

    def __str__(self) -> str:
        return self.text


class Generation:
    """A `generate` call: await it for its `Completion`, or iterate over its `Piece`s while it runs (then await it, if you like)."""

    def __init__(self, file: File, args: Generate) -> None:
        self._file = file
        self._args = args
        self._reply: asyncio.Future[Any] | None = None
        self._pieces: deque[GeneratePart] = deque()
        self._news = asyncio.Event()
        self._completion: Completion | None = None
        self._num_tokens = 0  # in pieces so far
        self._num_chars = 0

    def __await__(self) -> Generator[Any, None, Completion]:
        """Wait for the end. Cancelling ends the call at the server; what it delivered stays in the file.

        Raises:
            FileBusy: another call writes the file.
            StaleFile: the length was not `at`.
            InvalidArgument: sampler, grammar, stop or predicate is out of range.
            OutOfPages, TimedOut: the file keeps what was delivered.
        """
        if self._completion is None:
            try:
                result = yield from self._start(stream=False).__await__()
            except SymphonyError as e:
                self._file.note_error(e)
                raise
            self._completion = self._complete(result)
        return self._completion

    def __aiter__(self) -> AsyncIterator[Piece]:
        self._start(stream=True)
        return self

    async def __anext__(self) -> Piece:
        reply = self._start(stream=True)
        while not self._pieces:
            if reply.done():
                return self._rest(await self)  # does not suspend: keeps the completion, or raises the error
            self._news.clear()
            try:
                await self._news.wait()
            except asyncio.CancelledError:
                reply.cancel()
                raise
        part = self._pieces.popleft()
        return self._piece(unpack_tokens(part.tokens), part.text, unpack_floats(part.logprobs))

    def cancel(self) -> None:
        """End the call at the server; awaiting it then raises CancelledError. What it delivered stays in the file (`stat` says)."""
        if self._reply is not None:
            self._reply.cancel()

    def in_flight(self) -> asyncio.Future[Any]:
        """The call that it is, for `select`; it begins if it has not."""
        return self._reply or self._start(stream=False)

    def __del__(self) -> None:
        if self._reply is None:
            warnings.warn(f"generate on {self._file!r} was never awaited: nothing ran", RuntimeWarning, source=self, stacklevel=2)
        self.cancel()  # a loop that was left by `break`: nobody can see the rest

    def _start(self, *, stream: bool) -> asyncio.Future[Any]:
        if self._reply is None:
            args = replace(self._args, stream=True) if stream else self._args
            session = transport.session()
            pieces, news = self._pieces, self._news  # not self: a generation that nobody holds must end (`__del__`)

            def take(part: object) -> None:
                assert isinstance(part, GeneratePart)
                pieces.append(part)
                news.set()

            on_part = take if stream else None
            self._reply = session.transport.call("generate", args, tid=transport.tid(), on_part=on_part)
            self._reply.add_done_callback(lambda _: news.set())
        return self._reply

    def _piece(self, tokens: list[int], text: str, logprobs: list[float]) -> Piece:
        self._num_tokens += len(tokens)
        self._num_chars += len(text)
        return Piece(tokens, text, logprobs)

    def _rest(self, done: Completion) -> Piece:
        """What no part brought: they are left out for a remote program that was not there to take them. Then StopAsyncIteration."""
        if self._num_tokens >= len(done.tokens):
            raise StopAsyncIteration
        return self._piece(done.tokens[self._num_tokens :], done.text[self._num_chars :], done.logprobs[self._num_tokens :])

    def _complete(self, result: GenerateResult) -> Completion:
        self._file.note_length(result.length)
        return Completion(
            text=result.text,
            tokens=unpack_tokens(result.tokens),
            reason=result.reason,
            stop=result.stop,
            logprobs=unpack_floats(result.logprobs),
            length=result.length,
            distribution=Distribution(self._file, result.distribution) if result.distribution else None,
        )
