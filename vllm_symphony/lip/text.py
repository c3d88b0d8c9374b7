"""Text and tokens (lip/text.py): the model's own tokenizer, chat template and tool parser, at the server."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vllm_symphony.abi.calls import Detokenize, NoArgs, ParseTools, RenderChat, Tokenize
from vllm_symphony.abi.types import ModelInfo, unpack_tokens
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.lip import transport
from vllm_symphony.lip.sampling import pack

Message = Mapping[str, Any]


async def tokenize(text: str, *, special: bool = True) -> list[int]:
    """Token ids of `text`; `special`: with the tokens that begin a document, where the model has them."""
    return unpack_tokens((await transport.call("tokenize", Tokenize(text, special))).tokens)


async def detokenize(tokens: Iterable[int], *, skip_special: bool = True) -> str:
    """Text of these tokens."""
    text: str = (await transport.call("detokenize", Detokenize(pack(tokens), skip_special))).text
    return text


async def render_chat(
    messages: str | Sequence[Message], *, tools: Sequence[Message] | None = None, add_generation_prompt: bool = True
) -> list[int]:
    """Token ids of a conversation in the model's chat format: a question, or messages (and tools) as in the OpenAI API.

    NotSupported when the model has no chat template.
    """
    listed = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    args = RenderChat(to_json(listed), None if tools is None else to_json(list(tools)), add_generation_prompt)
    return unpack_tokens((await transport.call("render_chat", args)).tokens)


async def parse_tools(text: str, *, parser: str | None = None, tools: Sequence[Message] | None = None) -> Any:
    """The tool calls in a model's text, by vLLM's parser of that name (default: the server's)."""
    args = ParseTools(text, parser, None if tools is None else to_json(list(tools)))
    return json.loads((await transport.call("parse_tools", args)).json)


async def model_info() -> ModelInfo:
    """The model's name, limits, end tokens and capabilities."""
    model: ModelInfo = (await transport.call("model_info", NoArgs())).model
    return model


def to_json(value: object) -> str:
    """JSON text; InvalidArgument for what JSON cannot say."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as e:
        raise InvalidArgument(f"not a JSON value: {e}") from None
