"""Text calls beside the engine (engine/text.py): tokenize, detokenize, chat templates, tool parsing, on one worker thread.

Nothing here waits for a step, and no step waits for it: Hugging Face's tokenizers release the interpreter lock while they work.
Source: vLLM's own chat template and tool parsers (vllm/tool_parsers), so that a program sees what an OpenAI client sees.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vllm_symphony.abi import calls
from vllm_symphony.abi.types import pack_tokens, unpack_tokens
from vllm_symphony.errors import DeviceLost, InvalidArgument, NotSupported, SymphonyError
from vllm_symphony.kernel.effect import Completion, JobFailed, TextDone, TextJob


class TextService:
    def __init__(
        self, tokenizer: Any, vocab_size: int, deliver: Callable[[list[Completion]], None], tool_parser: str | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.tool_parser = tool_parser
        self._deliver = deliver
        self._pool = ThreadPoolExecutor(1, "symphony-text")

    def submit(self, job: TextJob) -> None:
        try:
            self._pool.submit(self._run, job)
        except RuntimeError:  # the pool is shut down
            self._deliver([JobFailed(job.job, DeviceLost("the server is stopping"))])

    def decode(self, tokens: list[int]) -> str:
        """Their text, without marks; "" without a tokenizer. From any thread."""
        if self.tokenizer is None:
            return ""
        return str(self.tokenizer.decode([t for t in tokens if t < self.vocab_size], skip_special_tokens=True))

    def stop(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=False)

    def _run(self, job: TextJob) -> None:
        try:
            if self.tokenizer is None:
                raise NotSupported("this server was started without a tokenizer (--skip-tokenizer-init)")
            done: Completion = TextDone(job.job, getattr(self, "_" + job.op)(job.args))
        except SymphonyError as error:
            done = JobFailed(job.job, error)
        except Exception as error:  # noqa: BLE001  templates and tokenizers raise what they like; the argument was the program's
            done = JobFailed(job.job, InvalidArgument(f"{job.op}: {type(error).__name__}: {str(error)[:300]}"))
        self._deliver([done])

    def _tokenize(self, a: calls.Tokenize) -> calls.TokensResult:
        return calls.TokensResult(pack_tokens(self.tokenizer.encode(a.text, add_special_tokens=a.special)))

    def _detokenize(self, a: calls.Detokenize) -> calls.TextResult:
        try:
            tokens = unpack_tokens(a.tokens)
        except ValueError as error:
            raise InvalidArgument(f"tokens are not packed uint32: {len(a.tokens)} bytes") from error
        bad = next((t for t in tokens if t >= self.vocab_size), None)
        if bad is not None:
            raise InvalidArgument(f"token id {bad} is out of range: the vocabulary has {self.vocab_size}", token=bad)
        return calls.TextResult(self.tokenizer.decode(tokens, skip_special_tokens=a.skip_special))

    def _render_chat(self, a: calls.RenderChat) -> calls.TokensResult:
        messages, tools = _json(a.messages, "messages", list), _json(a.tools, "tools", list) if a.tools else None
        if not messages or not all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages):
            raise InvalidArgument('messages must be a non-empty list of {"role": ..., "content": ...}')
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise NotSupported("the model has no chat template: open the file with text= or tokens= instead")
        ids = self.tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=a.add_generation_prompt, tokenize=True, return_dict=False
        )
        return calls.TokensResult(pack_tokens(ids))

    def _parse_tools(self, a: calls.ParseTools) -> calls.JsonResult:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.tool_parsers import ToolParserManager

        name = a.parser or self.tool_parser
        if name is None:
            raise InvalidArgument("no tool parser: name one (parser=...), or serve with --tool-call-parser")
        try:
            parser = ToolParserManager.get_tool_parser(name)
        except KeyError as error:
            known = ", ".join(sorted(ToolParserManager.list_registered())[:60])
            raise InvalidArgument(f"no tool parser is called {name!r}; there are: {known}") from error
        tools = _json(a.tools, "tools", list) if a.tools else []
        request = ChatCompletionRequest(messages=[{"role": "user", "content": ""}], tools=tools or None)
        found = parser(self.tokenizer, request.tools or []).extract_tool_calls(a.text, request)
        tool_calls = [{"id": c.id, "name": c.function.name, "arguments": c.function.arguments} for c in found.tool_calls]
        return calls.JsonResult(json.dumps({"content": found.content, "tool_calls": tool_calls}))


def _json(text: str, name: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"{name} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise InvalidArgument(f"{name} must be a JSON {'list' if kind is list else 'object'}")
    return value
