"""The client's work on programs that are installed, and on tools (client/registry.py).

await client.install("triage.py", name="triage@1.2")        kept under your name, never changed
client.run("ops/triage@1.2", task="...")                    run by whoever may
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from uuid import uuid4

from vllm_symphony.abi import manifest
from vllm_symphony.abi.calls import ProgramTextResult
from vllm_symphony.abi.types import ProgramInfo, ToolInfo
from vllm_symphony.client.call import Caller
from vllm_symphony.client.run import Program
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.lip.program import parse
from vllm_symphony.lip.schema import schema_of
from vllm_symphony.proto.message import from_message, read_as
from vllm_symphony.proto.v1 import registry_pb2 as pb
from vllm_symphony.proto.v1 import tool_pb2

if TYPE_CHECKING:
    from vllm_symphony.proto.v1.registry_pb2_grpc import RegistryServiceAsyncStub
    from vllm_symphony.proto.v1.tool_pb2_grpc import ToolServiceAsyncStub


class Registry:
    """What `Client` can do with installed programs."""

    _caller: Caller
    _registry: RegistryServiceAsyncStub
    _tool: ToolServiceAsyncStub

    async def install(
        self,
        program: str | bytes | os.PathLike[str] | Program,
        name: str,
        *,
        description: str = "",
        mode: int = 0o755,
        timeout_s: float | None = None,
    ) -> ProgramInfo:
        """Keep a program under `name`: owner/name@version, or name@version for your own. The same content again is no error.
        `description`: empty = what its manifest or its docstring says.

        Raises:
            InvalidArgument: the name has no version, or is none.
            FileExists: that version is there with other content.
            BadProgram: it does not parse, or needs what programs at the server cannot import.
        """
        program = Program.of(program)
        if program.source and not description:
            description = manifest.read(program.source).description or parse(program.source, program.entry).summary
        owner, slash, rest = name.rpartition("/")  # an owner may have an @
        bare, _, version = rest.partition("@")
        if not version:
            raise InvalidArgument(f"{name} has no version: give one, as {name or 'triage'}@1.0", name=name)
        request = pb.InstallRequest(
            name=f"{owner}{slash}{bare}",
            version=version,
            source=program.source,
            code=program.code,
            entry=program.entry,
            schema=schema_of(program.source, program.entry) if program.source else "",
            description=description,
            mode=mode,
            request_id=uuid4().hex,
        )
        installed: ProgramInfo = from_message((await self._caller.ask(self._registry.Install, request, timeout_s)).program)
        return installed

    async def uninstall(self, program: str, *, timeout_s: float | None = None) -> None:
        """Take a version (owner/name@version) away; programs that run go on."""
        request = pb.UninstallRequest(program=program, request_id=uuid4().hex)
        await self._caller.ask(self._registry.Uninstall, request, timeout_s)

    async def programs(self, pattern: str = "", *, timeout_s: float | None = None) -> list[ProgramInfo]:
        """Installed programs, by name, newest version first; `pattern`: a glob on owner/name@version."""
        response = await self._caller.ask(self._registry.ListPrograms, pb.ListProgramsRequest(pattern=pattern), timeout_s)
        return [from_message(program) for program in response.programs]

    async def program(self, program: str, *, timeout_s: float | None = None) -> ProgramTextResult:
        """An installed program with its content; without version the latest."""
        return read_as(
            ProgramTextResult, await self._caller.ask(self._registry.GetProgram, pb.GetProgramRequest(program=program), timeout_s)
        )

    async def tools(self, *, timeout_s: float | None = None) -> list[ToolInfo]:
        """The tools that you may give to programs, by name."""
        response = await self._caller.ask(self._tool.ListTools, tool_pb2.ListToolsRequest(), timeout_s)
        return [from_message(tool) for tool in response.tools]
