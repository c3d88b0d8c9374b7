"""Symphony: an operating system for LLM inference programs, on vLLM.

    from vllm_symphony import lip                   what programs import
    from vllm_symphony import connect               the client; connect_sync: the same without asyncio

Importing the package loads nothing; the client comes with the first use of its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_symphony.client import connect, connect_sync

__version__ = "0.1.0"
__all__ = ["__version__", "connect", "connect_sync"]


def __getattr__(name: str) -> Any:
    if name in ("connect", "connect_sync"):
        from vllm_symphony import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
