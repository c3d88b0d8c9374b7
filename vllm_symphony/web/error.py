"""Typed errors over HTTP (web/error.py), as OpenAI's clients read them.

    {"error": {"message": "...", "type": "NoSuchFile", "code": "ENOENT", "param": null}}     status: of errors.py

`x-should-retry` tells OpenAI's clients whether to ask again by themselves: they would, after any 5xx, 409 and 429, and a program
that failed would run three times.
"""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from vllm_symphony.errors import SymphonyError, Unauthenticated


def error_body(error: SymphonyError) -> dict[str, Any]:
    """The JSON of an error; `param` names the field of the request that it is about, where one is."""
    said = {"message": error.message, "type": type(error).__name__, "code": error.reason, "param": error.values.get("param")}
    return {"error": said}


def error_response(error: SymphonyError) -> Response:
    """The whole answer."""
    headers = {"x-should-retry": "true" if error.retryable or error.retry_after_s is not None else "false"}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    return Response(json.dumps(error_body(error)), error.http_code, headers, "application/json")


async def answer_error(request: Request, error: Exception) -> Response:
    """As an exception handler of vLLM's app, for what ours raise within its routes."""
    assert isinstance(error, SymphonyError)
    return error_response(error)
