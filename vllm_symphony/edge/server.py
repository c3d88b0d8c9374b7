"""The gRPC server (edge/server.py): services, health, reflection, graceful stop.

    start()   listens, health NOT_SERVING: calls answer EAGAIN with what the host is doing
    ready()   the kernel answers: SERVING
    lost()    the kernel is gone: NOT_SERVING, calls answer ENODEV
    stop()    NOT_SERVING first, then no new calls, then those in flight get `grace_s`

It listens on a unix socket with mode 0600, and on the doors that it is given (door.py).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from vllm_symphony.edge.channel_service import ChannelService
from vllm_symphony.edge.concern import access_log, counted, errors, same_abi
from vllm_symphony.edge.decoding import Decoding
from vllm_symphony.edge.door import Door, clear, why_not
from vllm_symphony.edge.file_service import FileService
from vllm_symphony.edge.guard import Guard
from vllm_symphony.edge.identity import Identity
from vllm_symphony.edge.interceptor import Around
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.looking import Looks
from vllm_symphony.edge.model_service import ModelService
from vllm_symphony.edge.process_service import ProcessService
from vllm_symphony.edge.registry_service import RegistryService, ToolService
from vllm_symphony.edge.session_service import SessionService
from vllm_symphony.edge.spool import Spool
from vllm_symphony.edge.streams import STREAMS
from vllm_symphony.edge.system_service import SystemService
from vllm_symphony.errors import AccessDenied
from vllm_symphony.proto.v1 import (
    channel_pb2,
    channel_pb2_grpc,
    file_pb2,
    file_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    process_pb2,
    process_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
    tool_pb2,
    tool_pb2_grpc,
)

LAST_WORD_S = 0.2  # for sessions whose calls outlived the grace to hear why they end
EDGE_NICE = 5  # between the engine (0) and programs (10)
MAX_MESSAGE_BYTES = 64 << 20
MAX_METADATA_BYTES = 16 << 10
MAX_CONNECTIONS = 4096
MAX_STREAMS = 10_000
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),  # a peer that vanished without a word is found by then, and its session's lease begins
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # gRPC 1.8x waits for this one (default: a minute) where a ping is out
    ("grpc.http2.max_pings_without_data", 0),  # else an idle connection is asked twice only
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", 10_000),  # who connects and says nothing, of TLS too, is hung up on then
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),  # of each door
    ("grpc.max_concurrent_streams", MAX_STREAMS),  # of a connection
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),  # above it a call is RESOURCE_EXHAUSTED
)
_SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (process_pb2, "ProcessService"),
        (file_pb2, "FileService"),
        (model_pb2, "ModelService"),
        (session_pb2, "SessionService"),
        (system_pb2, "SystemService"),
        (channel_pb2, "ChannelService"),
        (registry_pb2, "RegistryService"),
        (tool_pb2, "ToolService"),
    )
)


def give_way() -> None:
    """Lower this process's priority: on a machine with few cores, steps go before doors."""
    os.nice(max(0, EDGE_NICE - os.nice(0)))


class EdgeServer:
    """One gRPC server in front of one kernel."""

    def __init__(
        self,
        kernel: KernelLink,
        socket_path: str,
        *,
        doors: Sequence[Door] = (),
        identity: Identity | None = None,
        guard: Guard | None = None,
        spool: Path | None = None,
    ) -> None:
        """`spool`: where the kernel's host leaves packed files, and takes them."""
        self.addresses: list[str] = []  # once it is started
        self._doors = (Door(Path(socket_path)), *doors)
        self._identity = identity or Identity()
        guard = guard or Guard()
        concerns = (counted(STREAMS), access_log, errors, same_abi, guard.recorded, self._identity.known, guard.admitted)
        around = (*(Around(concern) for concern in concerns), Decoding())
        self._server = grpc.aio.server(interceptors=around, options=_OPTIONS)
        self._looks = Looks()
        process_pb2_grpc.add_ProcessServiceServicer_to_server(ProcessService(kernel, self._looks), self._server)
        file_pb2_grpc.add_FileServiceServicer_to_server(FileService(kernel, Spool(spool), self._looks), self._server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(kernel), self._server)
        self._sessions = SessionService(kernel, guard)
        session_pb2_grpc.add_SessionServiceServicer_to_server(self._sessions, self._server)
        system_pb2_grpc.add_SystemServiceServicer_to_server(SystemService(kernel), self._server)
        channel_pb2_grpc.add_ChannelServiceServicer_to_server(ChannelService(kernel, self._looks), self._server)
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(RegistryService(kernel), self._server)
        tool_pb2_grpc.add_ToolServiceServicer_to_server(ToolService(kernel), self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self) -> None:
        """Listen, replacing sockets that a dead server left; the caller holds the run directory's lock.

        Raises:
            AccessDenied, FileExists, InvalidArgument: a door cannot be opened; then none is.
        """
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            for door in self._doors:
                self.addresses.append(self._open(door))
            if self._identity.own:
                self._identity.own.publish(self.addresses)
            await self._server.start()
        except BaseException:
            self._clean()
            raise

    def _open(self, door: Door) -> str:
        """Bind one door; gives its address. Nobody is let in before the server starts."""
        if isinstance(door.where, Path):
            clear(door.where)
            before = os.umask(0o177)
            try:
                self._server.add_insecure_port(f"unix:{door.where}")
            except RuntimeError:
                raise AccessDenied(f"cannot listen on {door.where}", path=str(door.where)) from None
            finally:
                os.umask(before)
            return f"unix:{door.where}"
        credentials = door.tls.credentials() if door.tls else None
        address = str(door.where)
        try:
            port = self._server.add_secure_port(address, credentials) if credentials else self._server.add_insecure_port(address)
        except RuntimeError:
            raise why_not(door.where) from None
        return str(replace(door.where, port=port))

    async def ready(self, confinement: Mapping[str, Any]) -> None:
        """The kernel answers; `confinement` is how far it confines programs."""
        self._identity.confined(str(confinement.get("level", "C")), str(confinement.get("lacks", "")))
        await self._say(health_pb2.HealthCheckResponse.SERVING)

    async def lost(self) -> None:
        """The kernel is gone."""
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, end streams that only look, let the others in flight end for `grace_s`, cancel the rest, remove the
        socket."""
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._looks.end()
        self._sessions.end_idle()
        last_word = asyncio.get_running_loop().call_later(grace_s, self._sessions.end)
        await self._server.stop(grace_s + LAST_WORD_S)
        last_word.cancel()
        self._clean()

    async def watch(self) -> None:
        """End the calls of tokens that are no longer good; to be run as long as the server."""
        await self._identity.watch()

    def _clean(self) -> None:
        if self._identity.own:
            self._identity.own.withdraw()
        for door in self._doors[: len(self.addresses)]:
            if isinstance(door.where, Path):
                door.where.unlink(missing_ok=True)

    async def _say(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for service in ("", *_SERVICES):
            await self._health.set(service, status)
