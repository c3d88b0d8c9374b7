"""Errors on the gRPC wire: google.rpc.Status with ErrorInfo and RetryInfo (proto/status.py).

    NoSuchFile("no such file: /a", path="/a")
        -> NOT_FOUND, "no such file: /a", ErrorInfo{reason: "ENOENT", domain: "symphony", metadata: {path: "/a"}}
        -> NoSuchFile again, in the client

grpcio-status would pin another package for these few lines; the status travels in the trailer that it reads and writes too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from vllm_symphony.errors import SymphonyError, Value, from_reason

DOMAIN = "symphony"
TRAILER = "grpc-status-details-bin"
ABI_HEADER = "symphony-abi"  # of a call's metadata: what the caller was written for, as 1.1


def to_status(error: SymphonyError) -> Status:
    """The error as it travels. `values` become text; numbers and truth values are told apart again by `from_trailer`."""
    status = Status(code=Code.Value(error.grpc_code), message=error.message)
    info = ErrorInfo(reason=error.reason, domain=DOMAIN)
    for name, value in error.values.items():
        info.metadata[name] = value if isinstance(value, str) else json.dumps(value)
    status.details.add().Pack(info)
    if error.retry_after_s is not None:
        retry = RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        status.details.add().Pack(retry)
    return status


def from_trailer(trailer: Iterable[tuple[str, str | bytes]] | None) -> SymphonyError | None:
    """The typed error that a failed RPC's trailing metadata carries; None when it carries none of ours."""
    for key, value in trailer or ():
        if key == TRAILER and isinstance(value, bytes):
            return _from_status(Status.FromString(value))
    return None


def _from_status(status: Status) -> SymphonyError | None:
    info, retry = ErrorInfo(), RetryInfo()
    retry_after_s = None
    for detail in status.details:
        if detail.Is(retry.DESCRIPTOR) and detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
        else:
            detail.Unpack(info)
    if info.domain != DOMAIN:
        return None
    return from_reason(info.reason, status.message, {k: _value(v) for k, v in info.metadata.items()}, retry_after_s)


def _value(text: str) -> Value:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float | bool) else text
