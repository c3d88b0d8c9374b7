"""The gRPC server (edge/server.py): services, health, reflection, graceful stop.

    start()   listens, health NOT_SERVING: calls answer EAGAIN with what the host is doing
    ready()   the kernel answers: SERVING
    lost()    the kernel is gone: NOT_SERVING, calls answer ENODEV
    stop()    NOT_SERVING first, then no new calls, then those in flight get `grace_s`

It listens on a unix socket with mode 0600 and nowhere else: running a program is code execution by design.
"""

from __future__ import annotations

import os
from contextlib import suppress

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from vllm_symphony.edge.concern import access_log, errors
from vllm_symphony.edge.file_service import FileService
from vllm_symphony.edge.interceptor import Around
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.model_service import ModelService
from vllm_symphony.edge.process_service import ProcessService
from vllm_symphony.edge.system_service import SystemService
from vllm_symphony.errors import AccessDenied
from vllm_symphony.proto.v1 import (
    file_pb2,
    file_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    process_pb2,
    process_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
)

EDGE_NICE = 5  # between the engine (0) and programs (10)
MAX_MESSAGE_BYTES = 64 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)
_SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (process_pb2, "ProcessService"),
        (file_pb2, "FileService"),
        (model_pb2, "ModelService"),
        (system_pb2, "SystemService"),
    )
)


def give_way() -> None:
    """Lower this process's priority: on a machine with few cores, steps go before doors."""
    os.nice(max(0, EDGE_NICE - os.nice(0)))


class EdgeServer:
    """One gRPC server in front of one kernel."""

    def __init__(self, kernel: KernelLink, socket_path: str) -> None:
        self._path = socket_path
        self._server = grpc.aio.server(interceptors=(Around(access_log), Around(errors)), options=_OPTIONS)
        process_pb2_grpc.add_ProcessServiceServicer_to_server(ProcessService(kernel), self._server)
        file_pb2_grpc.add_FileServiceServicer_to_server(FileService(kernel), self._server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(kernel), self._server)
        system_pb2_grpc.add_SystemServiceServicer_to_server(SystemService(kernel), self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self) -> None:
        """Listen, replacing a socket that a dead server left; the caller holds the run directory's lock. Raises AccessDenied."""
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        before = os.umask(0o177)
        try:
            _remove(self._path)
            self._server.add_insecure_port(f"unix:{self._path}")
            await self._server.start()
        except (OSError, RuntimeError):
            folder = os.path.dirname(self._path)
            why = "may not be written" if os.access(folder, os.F_OK) else "does not exist"
            raise AccessDenied(f"cannot listen on {self._path}: the directory {why}", path=self._path) from None
        finally:
            os.umask(before)

    async def ready(self) -> None:
        """The kernel answers."""
        await self._say(health_pb2.HealthCheckResponse.SERVING)

    async def lost(self) -> None:
        """The kernel is gone."""
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let those in flight end for `grace_s`, cancel the rest, remove the socket."""
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.stop(grace_s)
        _remove(self._path)

    async def _say(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for service in ("", *_SERVICES):
            await self._health.set(service, status)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
