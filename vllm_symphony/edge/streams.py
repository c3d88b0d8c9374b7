"""Which RPCs answer with a stream (edge/streams.py): how long one lasts says nothing about the server."""

from __future__ import annotations

from vllm_symphony.proto.v1 import channel_pb2, file_pb2, model_pb2, process_pb2, session_pb2

STREAMS = frozenset(
    f"/{service.full_name}/{method.name}"
    for file in (process_pb2, file_pb2, model_pb2, session_pb2, channel_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.server_streaming
)
