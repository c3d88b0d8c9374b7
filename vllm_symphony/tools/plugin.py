"""What a plugin file of the operator's imports: `from vllm_symphony.tools import tool` (tools/plugin.py).

    @tool(idempotent=True, timeout_s=5)
    def price(article: str, count: int = 1) -> float:
        '''The price of an article.'''

The name is the function's, the description its docstring, the schema of its arguments its signature. A parameter annotated
`Context` is no argument: it tells who calls, and gives secrets that are bound to the plugin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])
MARK = "__symphony_tool__"


@dataclass(frozen=True, slots=True)
class Declared:
    """What `@tool` said. None: the plugin's table says it."""

    name: str | None
    description: str | None
    idempotent: bool
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Context:
    """Who calls."""

    principal: str
    _secret: Callable[[str], str]

    def secret(self, name: str) -> str:
        """The value of [secret.NAME]. Raises AccessDenied when it is not bound to this plugin and principal."""
        return self._secret(name)


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *, name: str | None = None, description: str | None = None, idempotent: bool = False, timeout_s: float | None = None
) -> Callable[[F], F]: ...
def tool(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    idempotent: bool = False,
    timeout_s: float | None = None,
) -> Any:
    """Make a function, plain or async, a tool. `idempotent`: it may be called again after a failure."""

    def mark(decorated: F) -> F:
        setattr(decorated, MARK, Declared(name, description, idempotent, timeout_s))
        return decorated

    return mark if function is None else mark(function)
