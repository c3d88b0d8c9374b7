"""Tools that are Python functions of the operator's (tools/python.py).

    plugin file --import--> functions with @tool --signature--> schema
    call --checked, converted--> async: a task; plain: a thread --> text, or JSON of what it returned

They run in the tool host, with its rights: the operator wrote them. A plain function cannot be stopped; after its time limit its
caller is answered and its thread counts as busy until it returns. When all threads are, calls are told to come again.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import logging
import threading
import typing
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import pydantic

from vllm_symphony.abi.calls import ToolResult
from vllm_symphony.abi.types import ToolInfo
from vllm_symphony.errors import InvalidArgument, WouldBlock
from vllm_symphony.tools.config import Bounds, PythonPlugin
from vllm_symphony.tools.driver import Call, Tool, cut
from vllm_symphony.tools.plugin import MARK, Context, Declared
from vllm_symphony.tools.secret import Vault

log = logging.getLogger(__name__)
_MAX_ERROR = 500


class PythonDriver:
    """All tables [python.*]. Raises InvalidArgument from the constructor for a file that cannot be imported."""

    def __init__(self, plugins: Sequence[PythonPlugin], vault: Vault, max_threads: int) -> None:
        threads = Threads(max_threads)
        self._tools: dict[str, Tool] = {}
        for plugin in plugins:
            for function in _functions(plugin):
                tool = _Function(plugin, function, vault, threads).tool
                if tool.info.name in self._tools:
                    raise InvalidArgument(f"{plugin.file}: a tool {tool.info.name} is there already")
                self._tools[tool.info.name] = tool

    async def start(self, changed: Callable[[str], None]) -> None: ...

    def tools(self, principal: str) -> Sequence[Tool]:
        return list(self._tools.values())

    async def find(self, principal: str, name: str) -> Tool | None:
        return self._tools.get(name)

    async def close(self) -> None: ...


class Threads:
    """Daemon threads, at most so many: they cannot keep the host from ending."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.num_busy = 0

    async def run(self, function: Callable[[], Any]) -> Any:
        """Raises WouldBlock, and what the function raises. When the caller is cancelled the thread goes on."""
        if self.num_busy >= self._most:
            raise WouldBlock(f"{self.num_busy} threads of Python tools are busy, the most at once", limit=self._most)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            self.num_busy -= 1
            if not future.done():
                future.set_result(value) if error is None else future.set_exception(error)

        def work() -> None:
            value, error = None, None
            try:
                value = function()
            except BaseException as e:  # noqa: BLE001  the caller's boundary says what it was
                error = e if not isinstance(e, StopIteration) else RuntimeError("StopIteration")
            try:
                loop.call_soon_threadsafe(settle, value, error)
            except RuntimeError:  # the loop has ended
                return

        self.num_busy += 1
        threading.Thread(target=work, name="symphony-tool", daemon=True).start()
        return await future


class _Function:
    """One function."""

    def __init__(self, plugin: PythonPlugin, function: Callable[..., Any], vault: Vault, threads: Threads) -> None:
        self._plugin, self._function, self._vault, self._threads = plugin, function, vault, threads
        declared: Declared = getattr(function, MARK)
        name = declared.name or function.__name__
        try:
            self._model, self._context = _model(function, name)
            schema = self._model.model_json_schema()
        except (pydantic.PydanticUserError, pydantic.errors.PydanticSchemaGenerationError, NameError, TypeError) as e:
            raise InvalidArgument(f"{plugin.file}: {name}: no schema can be made of its signature: {e}") from None
        schema.pop("title", None)
        schema["additionalProperties"] = False
        bounds = Bounds(declared.timeout_s or plugin.bounds.timeout_s, plugin.bounds.max_result_bytes)
        description = declared.description if declared.description is not None else inspect.getdoc(function) or ""
        info = ToolInfo(name, description, json.dumps(schema), declared.idempotent, "python")
        self.tool = Tool(info, schema, bounds, self._run)

    async def _run(self, call: Call) -> ToolResult:
        try:
            checked = self._model.model_validate(call.arguments)
        except pydantic.ValidationError as e:
            first = e.errors(include_url=False)[0]
            raise InvalidArgument(f"arguments.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        arguments = {name: getattr(checked, name) for name in checked.model_fields_set}
        if self._context is not None:
            plugin, principal = self._plugin.name, call.principal
            arguments[self._context] = Context(principal, lambda name: self._vault.value(name, plugin, principal))
        try:
            if inspect.iscoroutinefunction(self._function):
                value = await self._function(**arguments)
            else:
                value = await self._threads.run(lambda: self._function(**arguments))
        except WouldBlock:
            raise
        except Exception as e:  # noqa: BLE001  the operator's code; what it raises is the tool's own failure
            log.info("tool %s raised %s", self.tool.info.name, type(e).__name__)
            return ToolResult(self._vault.scrub(f"{type(e).__name__}: {e}"[:_MAX_ERROR]), is_error=True)
        return self._result(value)

    def _result(self, value: Any) -> ToolResult:
        limit = self.tool.bounds.max_result_bytes
        if value is None or isinstance(value, str):
            content, is_cut = cut(self._vault.scrub(value or ""), limit)
            return ToolResult(content, truncated=is_cut)
        try:
            plain = pydantic.TypeAdapter(Any).dump_python(value, mode="json")
            text = json.dumps(self._vault.scrub_json(plain), ensure_ascii=False)
        except (ValueError, TypeError, pydantic.PydanticSchemaGenerationError) as e:
            return ToolResult(f"the tool returned what is no JSON: {type(e).__name__}", is_error=True)
        content, is_cut = cut(text, limit)
        return ToolResult(content, json=None if is_cut else text, truncated=is_cut)


def _model(function: Callable[..., Any], name: str) -> tuple[type[pydantic.BaseModel], str | None]:
    """The arguments as a pydantic model, and the name of the parameter that takes the Context."""
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    context = None
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"parameter {parameter.name} has no name that an argument could have")
        if hints.get(parameter.name) is Context:
            context = parameter.name
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints.get(parameter.name, Any), default)
    return pydantic.create_model(name, **fields), context


def _functions(plugin: PythonPlugin) -> list[Callable[..., Any]]:
    """The functions with @tool of the file, in its order."""
    module = _imported(plugin)
    marked: Mapping[str, Any] = vars(module)
    found = [value for value in marked.values() if callable(value) and isinstance(getattr(value, MARK, None), Declared)]
    if not found:
        raise InvalidArgument(f"{plugin.file}: [python.{plugin.name}] file: has no function with @tool")
    return list(dict.fromkeys(found))


def _imported(plugin: PythonPlugin) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"symphony_plugin_{plugin.name.replace('-', '_')}", plugin.file)
    if spec is None or spec.loader is None:
        raise InvalidArgument(f"{plugin.file}: [python.{plugin.name}] file: is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        raise InvalidArgument(f"{plugin.file}: [python.{plugin.name}] file: {type(e).__name__}: {e}") from e
    return module
