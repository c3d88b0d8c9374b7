"""KV files as programs hold them (lip/file.py): a list of tokens with positions, whose KV the machine keeps.

    async with lip.open(tokens=lip.render_chat("hi")) as chat:       anonymous: gone with its last holder
        async with chat.fork() as draft:                              shares everything computed; no device work
            await draft.generate(100)

One call at a time may write a file; a second one is `FileBusy`; readers fork. What is not about its tokens: handle.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack, overload

from vllm_symphony.abi import calls
from vllm_symphony.abi.types import Grammar, OpenFlags, Predicate, Sampler, unpack_floats, unpack_tokens
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.lip import transport
from vllm_symphony.lip.distribution import Distribution
from vllm_symphony.lip.generation import Generation
from vllm_symphony.lip.handle import Handle
from vllm_symphony.lip.predicate import Condition, data_of
from vllm_symphony.lip.sampling import Sampling, Token, pack, sampler_of
from vllm_symphony.lip.span import Positions, Spans, spans_of
from vllm_symphony.lip.text import detokenize, tokenize

Tokens = int | Iterable[int] | str
"""One token id, several, or text (tokenized without the tokens that begin a document)."""
Outputs = Literal["last", "all"] | Iterable[int]
Keep = Literal["last", "all", "none"]


class Opening:
    """A file on its way: `file = await opening`, or `async with opening as file`, which closes it."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, File]]) -> None:
        self._make = make
        self._file: File | None = None

    def __await__(self) -> Generator[Any, None, File]:
        return self._make().__await__()

    async def __aenter__(self) -> File:
        self._file = await self._make()
        return self._file

    async def __aexit__(self, *_: object) -> None:
        if self._file is not None:
            await self._file.close()


def open(
    path: str | None = None,
    *,
    tokens: Iterable[int] | Awaitable[Iterable[int]] | None = None,
    text: str | None = None,
    write: bool = False,
    create: bool = False,
    exclusive: bool = False,
    truncate: bool = False,
    mode: int = 0o600,
    require: Literal["", "exact"] = "",
) -> Opening:
    """Open the file at `path`, or make a new one.

    Without a path the file is anonymous and writable, empty or with `tokens` (or `text`, tokenized as the start of a document).
    With a path it must exist, unless `create` (make it if missing), `exclusive` (make it, it must not exist) or tokens (as
    `create`; the file must be new) say otherwise; these and `truncate` imply `write`. `mode`: POSIX rights of a new file, less the
    process's umask. `require="exact"` refuses a file whose keys and values are no plain function of its tokens.

    Raises:
        NoSuchFile, FileExists, NotDirectory, IsDirectory, ReadOnly: as in POSIX.
        AccessDenied: the rights do not allow it.
        InvalidArgument: a token id is out of the vocabulary, both tokens and text are given, or it is not as required.
        TooManyFiles, QuotaExceeded, ContextTooLong: a limit of the process or of the model.
    """
    if tokens is not None and text is not None:
        raise InvalidArgument("open takes tokens or text, not both")
    has_content = tokens is not None or text is not None
    flags = OpenFlags.RDWR if write or create or exclusive or truncate or has_content else OpenFlags.RDONLY
    if path is None:
        flags = OpenFlags.RDWR | OpenFlags.TMPFILE
    elif create or exclusive or has_content:
        flags |= OpenFlags.CREAT
    flags |= (OpenFlags.EXCL if exclusive else 0) | (OpenFlags.TRUNC if truncate else 0)

    async def make() -> File:
        packed = None
        if text is not None:
            packed = pack(await tokenize(text))
        elif tokens is not None:
            packed = pack(await tokens if isinstance(tokens, Awaitable) else tokens)
        opened = await transport.call_fd("open", calls.Open(path, packed, int(flags), mode, require))
        return File(opened, path)

    return Opening(make)


class File(Handle):
    """An open KV file."""

    def __init__(self, opened: calls.FdResult, path: str | None = None) -> None:
        super().__init__(opened, path)
        self._penalty_from: int | None = None  # where a local draw came first: the kernel has not seen it
        self._was_drawn = False

    # ---- tokens

    def fork(self) -> Opening:
        """A writable anonymous copy that shares all computed KV. Costs no device work; either side may then change."""

        async def make() -> File:
            fork = File(await transport.call_fd("fork", calls.FdArgs(self.fd)))
            fork._penalty_from, fork._was_drawn = self._penalty_from, self._was_drawn
            return fork

        return Opening(make)

    async def append(self, tokens: Tokens, *, start: int | None = None, at: int | None = None) -> int:
        """Add tokens without computing anything yet; returns the new length. The next forward or generate computes them.

        `start`: position of the first (default: the next one). `at`: the length that the caller expects, else StaleFile.
        """
        args = calls.Append(self.fd, await packed(tokens), start, at)
        return self.note_length((await self._call("append", args)).length)

    async def truncate(self, length: int, *, at: int | None = None) -> None:
        """Forget all tokens from index `length` on."""
        await self._call("truncate", calls.Truncate(self.fd, length, at))
        self.note_length(length)
        if self._penalty_from is not None and self._penalty_from > length:
            self._penalty_from, self._was_drawn = None, False

    async def read(self, offset: int = 0, count: int | None = None) -> list[int]:
        """Token ids [offset, offset + count), by default to the end."""
        result = await self._call("read", calls.Read(self.fd, None, offset, count))
        self.note_length(result.length)
        return unpack_tokens(result.tokens)

    async def text(self, offset: int = 0, count: int | None = None, *, skip_special: bool = True) -> str:
        """The same tokens as text."""
        return await detokenize(await self.read(offset, count), skip_special=skip_special)

    def extract(self, spans: Spans, *, positions: Positions = "keep", timeout_s: float | None = None) -> Opening:
        """A new anonymous file with the tokens of `spans`: slices, ranges or (start, stop), ascending and apart.

        Their keys and values are copied, not computed again. positions: "keep" (as they were: lineage `pruned`, or `exact` of one
        span from 0) or "compact" (0, 1, 2, ...: keys are rotated, lineage `approximate`). What was left out has been seen by the
        tokens after it: this hides no secret.

        Raises:
            InvalidArgument: the spans are empty, overlap, or pass the end.
            NotSupported: the model's cache cannot be cut so; the message says why.
            OutOfPages, QuotaExceeded, TooManyFiles, TimedOut.
        """
        args = calls.Extract(self.fd, spans_of(spans, self._length), positions, timeout_s)

        async def make() -> File:
            return File(await transport.call_fd("extract", args))

        return Opening(make)

    # ---- model

    @overload
    async def forward(
        self,
        tokens: Tokens = (),
        *,
        outputs: Literal["last"] = "last",
        top_k: int = 20,
        temperature: float = 1.0,
        entropy: bool = False,
        keep: Keep = "last",
        start: int | None = None,
        at: int | None = None,
        timeout_s: float | None = None,
    ) -> Distribution: ...
    @overload
    async def forward(
        self,
        tokens: Tokens = (),
        *,
        outputs: Literal["all"] | Iterable[int],
        top_k: int = 20,
        temperature: float = 1.0,
        entropy: bool = False,
        keep: Keep = "last",
        start: int | None = None,
        at: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Distribution]: ...
    async def forward(
        self,
        tokens: Tokens = (),
        *,
        outputs: Outputs = "last",
        top_k: int = 20,
        temperature: float = 1.0,
        entropy: bool = False,
        keep: Keep = "last",
        start: int | None = None,
        at: int | None = None,
        timeout_s: float | None = None,
    ) -> Distribution | list[Distribution]:
        """Append `tokens`, run the model over them, give the distribution after the last (`outputs`: "all" or indices: a list).

        Without tokens: the distribution after the file's last token. Atomic: on error or cancel the file is as before.
        `top_k` ids come back with log-probabilities; `temperature` is one at which `sample` can then normalise locally; `entropy`
        is dear on large vocabularies. `start`: position of the first token (gaps are allowed). `at`: the expected length.

        Raises:
            InvalidArgument: no tokens on an empty file, a token or `top_k` out of range, positions going back.
            FileBusy: another call writes the file. StaleFile: the length was not `at`.
            ContextTooLong, OutOfPages, TimedOut: the file is as before.
        """
        names, indices = outputs_of(outputs)
        args = calls.Forward(self.fd, await packed(tokens), start, names, indices, top_k, keep, temperature, entropy, at, timeout_s)
        return self.distributions(await self._call("forward", args), outputs)

    def generate(
        self,
        max_tokens: int = 256,
        sampler: Sampler | None = None,
        *,
        stop: str | Sequence[str] = (),
        stop_tokens: Iterable[int] = (),
        ignore_eos: bool = False,
        grammar: Grammar | None = None,
        until: Condition | Predicate | None = None,
        logprobs: bool = False,
        text: bool = True,
        at: int | None = None,
        timeout_s: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> Generation:
        """Decode in one call, at the engine's own speed; greedy unless a sampler or its keywords say otherwise.

        Ends at a stop string or token or the model's end (all in the file), after `max_tokens`, when the grammar is complete, or
        when `until` fires: then no token was chosen, and the distribution is in the completion. `text=False` saves detokenizing.
        """
        strings = (stop,) if isinstance(stop, str) else tuple(stop)
        how, end = self.sampler(sampler_of(sampler, sampling)), pack(stop_tokens, "stop tokens")
        args = calls.Generate(
            self.fd, max_tokens, how, strings, end, ignore_eos, grammar, data_of(until), logprobs, False, text, at, timeout_s
        )
        return Generation(self, args)

    async def sample(
        self,
        sampler: Sampler | None = None,
        *,
        position: int | None = None,
        n: int = 1,
        draw: int = 0,
        grammar: Grammar | None = None,
        timeout_s: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> list[Token]:
        """Draw `n` tokens at `position` (default: after the last token), at the server. The file does not change."""
        how = self.sampler(sampler_of(sampler, sampling))
        result = await self._call("sample", calls.Sample(self.fd, position, how, grammar, n, draw, timeout_s))
        drawn = zip(unpack_tokens(result.tokens), unpack_floats(result.logprobs), strict=True)
        return [Token(token, logprob) for token, logprob in drawn]

    async def logits(self, position: int | None = None, *, timeout_s: float | None = None) -> list[float]:
        """The whole row of raw logits at `position` (default: the last token), [vocab_size]."""
        return unpack_floats((await self._call("logits", calls.Logits(self.fd, position, timeout_s))).logits)

    # ---- for the library's own modules

    def note_local_draw(self, position: int) -> None:
        """A token was drawn at the program after the token at index `position`."""
        if not self._was_drawn:
            self._penalty_from, self._was_drawn = position + 1, True

    def sampler(self, how: Sampler) -> Sampler:
        """`how` for the server: penalties count from the first draw, also where that was a local one."""
        self._was_drawn = True
        counts = how.presence_penalty != 0 or how.frequency_penalty != 0
        if counts and how.penalty_from is None and self._penalty_from is not None:
            return replace(how, penalty_from=self._penalty_from)
        return how

    def distributions(self, result: calls.ForwardResult, outputs: Outputs) -> Distribution | list[Distribution]:
        self.note_length(result.length)
        made = [Distribution(self, d) for d in result.distributions]
        return made[0] if outputs == "last" else made


async def packed(tokens: Tokens) -> bytes:
    """Token ids for the wire."""
    if isinstance(tokens, str):
        return pack(await tokenize(tokens, special=False))
    return pack((tokens,) if isinstance(tokens, int) else tokens)


def outputs_of(outputs: Outputs) -> tuple[str, bytes]:
    """The fields `outputs` and `indices` of a forward."""
    if isinstance(outputs, str):
        return outputs, b""
    return "", pack(outputs, "outputs")
