"""GET /v1/models for a principal (web/models.py): vLLM's list, and the programs that it may run.

{"id": "lip:ops/triage@1.2", "object": "model", "created": ..., "owned_by": "ops", "description": "..."}
"""

from __future__ import annotations

import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllm_symphony.abi.calls import Programs
from vllm_symphony.abi.types import Credentials, ProgramInfo
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.web.lip_model import MARK, may_run

PATH = "/v1/models"


async def serve(app: ASGIApp, link: KernelLink, cred: Credentials, scope: Scope, receive: Receive, send: Send) -> None:
    """Let vLLM answer, and add to its list; an answer that is no list passes as it is."""
    messages: list[Message] = []

    async def keep(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, keep)
    if messages[0]["status"] == 200 and "run" in cred.scopes:
        programs = (await link.call("programs", Programs(), cred)).programs
        messages = _with(messages, [_card(info) for info in programs if may_run(info, cred)])
    for message in messages:
        await send(message)


def _card(info: ProgramInfo) -> dict[str, Any]:
    created_s, name = info.created_ns // 10**9, f"{MARK}{info.name}@{info.version}"
    return {"id": name, "object": "model", "created": created_s, "owned_by": info.owner, "description": info.description}


def _with(messages: list[Message], cards: list[dict[str, Any]]) -> list[Message]:
    listed = json.loads(b"".join(message.get("body", b"") for message in messages[1:]))
    body = json.dumps({**listed, "data": [*listed["data"], *cards]}).encode()
    kept = [(key, value) for key, value in messages[0]["headers"] if key != b"content-length"]
    start = {**messages[0], "headers": [*kept, (b"content-length", str(len(body)).encode())]}
    return [start, {"type": "http.response.body", "body": body}]
