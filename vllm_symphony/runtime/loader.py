"""From a program's text to its entry and arguments, and from its failures to what its author should see (runtime/loader.py).

The source is compiled under the program's own name and put into `linecache`, so that a traceback shows its lines:

    Traceback (most recent call last):
      File "best_of_n.py", line 7, in main
        drafts = [...]
    ZeroDivisionError: division by zero

Frames of ours, of asyncio and of the import system are left out, in causes and groups too: the author has nothing to do there.
"""

from __future__ import annotations

import asyncio
import json
import linecache
import os
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

import vllm_symphony
from vllm_symphony.abi.codec import Program
from vllm_symphony.errors import BadProgram
from vllm_symphony.lip.program import bind_arguments

_CO_VARIADIC = 0x04 | 0x08  # *args, **kwargs
MODULE = "program"  # what `__name__` is inside
_OURS = (os.path.dirname(vllm_symphony.__file__) + os.sep, os.path.dirname(asyncio.__file__) + os.sep, "<frozen ")


def load(program: Program, name: str = MODULE) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Run the program's top level as the module `name`; give its entry and the keyword arguments to call it with.

    Raises:
        BadProgram: it does not parse, has no such entry, or the arguments do not fit; the message is for the user.
        BaseException: whatever its top level raised.
    """
    filename = program.name or "<program>"
    code = _compile(program.source, filename)
    module = types.ModuleType(name)
    module.__file__ = filename
    sys.modules[name] = module
    exec(code, module.__dict__)
    entry = getattr(module, program.entry, None)
    if not callable(entry):
        raise BadProgram(f"{filename} has no function {program.entry}(); a program defines `async def {program.entry}(...)`")
    return entry, _bind(entry, program)


def traceback_of(error: BaseException) -> str:
    """The traceback as text, with the program's frames only."""
    seen = traceback.TracebackException.from_exception(error, compact=True)
    _strip(seen)
    return "".join(seen.format())


def _compile(source: str, filename: str) -> types.CodeType:
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    try:
        return compile(source, filename, "exec", dont_inherit=True)
    except SyntaxError as e:
        raise BadProgram("".join(traceback.format_exception_only(e)).rstrip()) from None
    except (ValueError, RecursionError, MemoryError, OverflowError) as e:  # null bytes; a million nested brackets
        raise BadProgram(f"{filename} does not compile: {e or type(e).__name__}") from None


def _bind(entry: Callable[..., Any], program: Program) -> dict[str, Any]:
    try:
        args = json.loads(program.args or "{}")
    except ValueError as e:
        raise BadProgram(f"arguments are no JSON: {e}") from None
    if not isinstance(args, dict):
        raise BadProgram(f"arguments are no JSON object but {type(args).__name__}")
    if not args and _takes_nothing(entry):  # so there is nothing to look at, and looking is dear
        return {}
    return bind_arguments(entry, args)


def _takes_nothing(entry: Callable[..., Any]) -> bool:
    if not isinstance(entry, types.FunctionType):
        return False
    code = entry.__code__
    return not (code.co_argcount or code.co_kwonlyargcount or code.co_flags & _CO_VARIADIC)


def _strip(seen: traceback.TracebackException) -> None:
    frames = [f for f in seen.stack if not f.filename.startswith(_OURS)]
    seen.stack = traceback.StackSummary.from_list(frames)
    for other in (seen.__cause__, seen.__context__, *(seen.exceptions or ())):
        if other is not None:
            _strip(other)
