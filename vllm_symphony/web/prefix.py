"""A KV file before a request's own prompt (web/prefix.py): `extra_body={"symphony": {"file": "/kb/handbook.kv"}}`.

    door: may it read?  tokens as they are now --PREFIX--> vLLM's renderer, ours in front of it: [ file | prompt ] -> the engine
                                                                                                   ^ its pages are found by hash

All of vLLM's own code runs on the whole prompt, so tools, grammars, log-probabilities, streaming and `n` are as ever, and usage
counts the file. Which pages are found, and that nobody learns of others' requests by it, is engine/salt.py's business.

A file that begins with the model's BOS and a prompt to which the tokenizer gave one: the prompt's goes, as in one text.
Rejected: a proxy around the engine client. The limit on new tokens, and an error that has a status, come before it.
Source: vllm/renderers/online_renderer.py `OnlineRenderer`, entrypoints/openai/*/serving.py (0.32).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from vllm_symphony.abi.calls import Advise, Read, Stat
from vllm_symphony.abi.types import Credentials, FileStat, Ino, unpack_tokens
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.engine.salt import asked
from vllm_symphony.errors import (
    BadFile,
    ContextTooLong,
    InvalidArgument,
    NotSupported,
    OutOfPages,
    QuotaExceeded,
    StaleFile,
    TimedOut,
    WouldBlock,
)  # fmt: skip

SERVINGS = ("openai_serving_chat", "openai_serving_completion", "openai_serving_responses")  # of app.state
BRING_S = 30.0  # for pages to come back from below
_FIELD = "symphony"


@dataclass(frozen=True, slots=True)
class Prefix:
    """A file's tokens, for one request of `principal`. `domain`: of the prefix cache, that its pages are published in."""

    path: str
    tokens: list[int]
    ino: Ino
    domain: str
    principal: str


PREFIX: ContextVar[Prefix | None] = ContextVar("PREFIX", default=None)


# ---- at the door


async def of_request(link: KernelLink, cred: Credentials, body: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Read the file that a request names; within the block the renderer puts it before the prompt.

    Raises:
        InvalidArgument: the field says something else, or the file has no tokens.
        NoSuchFile, AccessDenied: as for any reader.
        NotSupported: its keys and values do not follow from its tokens.
    """
    said = body[_FIELD]
    path = said.get("file") if isinstance(said, dict) else None
    if not isinstance(path, str) or said.keys() != {"file"}:
        raise InvalidArgument('for a model symphony is {"file": PATH}', param=_FIELD)
    read = await link.call("read", Read(path=path), cred)  # first: it asks for the right to read
    file = (await link.call("stat", Stat(path=path), cred)).file
    if read.text is not None or not read.tokens:
        raise InvalidArgument(f"{path} holds no tokens", param=_FIELD, path=path)
    if file.fidelity != "exact" or unpack_tokens(read.positions) != list(range(len(read.tokens) // 4)):
        raise NotSupported(
            f"{path} was edited ({file.fidelity}): what follows it depends on its own pages, which plain requests cannot have; "
            "run a program over it",
            path=path,
        )
    if file.stale:
        raise StaleFile(f"{path} is of another model or version: `symphony fsck --rebuild` computes it again", path=path)
    await _bring(link, cred, path, file)
    return _within(Prefix(path, unpack_tokens(read.tokens), Ino(file.ino), file.owner, cred.principal))


async def _bring(link: KernelLink, cred: Credentials, path: str, file: FileStat) -> None:
    """Have pages that lie below the device back on it; where that cannot be had vLLM computes them."""
    if file.device_pages < file.num_pages and (file.host_pages or file.disk_pages):
        with suppress(QuotaExceeded, OutOfPages, TimedOut, WouldBlock):
            await link.call("advise", Advise(path=path, wait=True, timeout_s=BRING_S), cred)


@contextmanager
def _within(prefix: Prefix) -> Iterator[None]:
    before = PREFIX.set(prefix)
    try:
        yield
    finally:
        PREFIX.reset(before)


# ---- in vLLM's server


def install(state: Any, secret: str | None) -> None:
    """Stand in front of the renderers of an app's state. `secret`: the engine's (engine/salt.py); None: it shares nothing."""
    for name in SERVINGS:
        serving = getattr(state, name, None)
        if serving is not None:
            serving.online_renderer = Renderer(serving.online_renderer, serving.models, serving.model_config, secret)


class Renderer:
    """vLLM's OnlineRenderer, and before what it renders the file of the request that is being served."""

    def __init__(self, inner: Any, models: Any, model_config: Any, secret: str | None) -> None:
        self._inner = inner
        self._models = models
        self._model_config = model_config
        self._secret = secret
        self._apart = secrets.token_hex(16)  # where nothing can be shared with the engine's files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def render_chat(self, request: Any, **more: Any) -> Any:
        """The conversation and its prompts, or vLLM's refusal."""
        rendered = await self._inner.render_chat(request, **more)
        prefix = PREFIX.get()
        if prefix is None or not isinstance(rendered, tuple):
            return rendered
        conversation, prompts = rendered
        return conversation, [self._put(prefix, request, prompt) for prompt in prompts]

    async def render_completion(self, request: Any, **more: Any) -> Any:
        """The prompts, or vLLM's refusal."""
        rendered = await self._inner.render_completion(request, **more)
        prefix = PREFIX.get()
        if prefix is None or not isinstance(rendered, list):
            return rendered
        return [self._put(prefix, request, prompt) for prompt in rendered]

    async def render_responses(self, request: Any, **more: Any) -> Any:
        """Messages and prompt, or vLLM's refusal."""
        rendered = await self._inner.render_responses(request, **more)
        prefix = PREFIX.get()
        if prefix is None or not hasattr(rendered, "engine_input"):
            return rendered
        return replace(rendered, engine_input=self._put(prefix, request, rendered.engine_input))

    def _put(self, prefix: Prefix, request: Any, prompt: dict[str, Any]) -> dict[str, Any]:
        """The prompt with the file before it."""
        self._demand_fitting(prefix, request, prompt)
        own = prompt["prompt_token_ids"]
        if own and prefix.tokens[0] == own[0] == self._bos():
            own = own[1:]
        tokens, most = prefix.tokens + own, self._model_config.max_model_len
        if len(tokens) >= most:
            raise ContextTooLong(
                f"{prefix.path} has {len(prefix.tokens)} tokens, the prompt {len(own)}: with them all {most} positions of the "
                "model are taken, and nothing can be answered",
                param=_FIELD,
                path=prefix.path,
            )
        kept = {key: value for key, value in prompt.items() if key != "prompt_token_offsets"}
        return {**kept, "prompt_token_ids": tokens, "cache_salt": self._salt(prefix, prompt.get("cache_salt"))}

    def _demand_fitting(self, prefix: Prefix, request: Any, prompt: dict[str, Any]) -> None:
        if prompt.get("type") != "token":
            raise NotSupported("a file goes before text, not before images, sound or embeddings", param=_FIELD)
        if request.model is not None and request.model in self._models.lora_requests:
            raise NotSupported(f"{prefix.path} is of the base model: {request.model} is an adapter", param=_FIELD, path=prefix.path)
        if getattr(request, "echo", False):
            raise InvalidArgument("echo would say the prompt without its file: leave it out", param="echo")
        if max(prefix.tokens) >= self._model_config.get_vocab_size():
            raise BadFile(f"{prefix.path} is of another model: it has tokens that this one does not know", path=prefix.path)

    def _bos(self) -> int | None:
        """The token that the tokenizer begins each text with, if it does."""
        tokenizer = self._inner.renderer.tokenizer
        begins = tokenizer.encode("") if tokenizer is not None else []
        return begins[0] if begins and begins[0] == tokenizer.bos_token_id else None

    def _salt(self, prefix: Prefix, own: str | None) -> str:
        whose = prefix.principal if own is None else f"{prefix.principal} {own}"
        if self._secret is None:
            return f"{self._apart} {whose}"
        return asked(self._secret, prefix.ino, prefix.domain, len(prefix.tokens), whose)
