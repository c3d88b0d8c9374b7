"""Tools: what programs may call outside of the machine, and the process that does it (tools/).

    reactor <--socketpair--> tools/host.py --drivers--> http.py, mcp.py, python.py         guide: docs/tools.md

Secrets live in that process only. Plugin files of the operator import `tool` and `Context` from here.
"""

from vllm_symphony.tools.plugin import Context, tool

__all__ = ["Context", "tool"]
