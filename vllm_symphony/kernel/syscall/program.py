"""The registry's calls (kernel/syscall/program.py): install, uninstall, programs, program.

For clients and edges. One installs under one's own name; who may see, read and run it is said by its mode (kernel/registry.py).
"""

from __future__ import annotations

import json
from dataclasses import replace
from fnmatch import fnmatchcase

from vllm_symphony.abi import manifest
from vllm_symphony.abi.calls import Done, Install, ProgramArgs, ProgramResult, Programs, ProgramsResult, ProgramTextResult
from vllm_symphony.abi.reference import Reference, demand_short, reference, version_of
from vllm_symphony.abi.types import PYTHON, WASM, ProgramInfo
from vllm_symphony.errors import AccessDenied, InvalidArgument, NotOwner
from vllm_symphony.kernel import registry
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.fs.node import MAY_READ
from vllm_symphony.kernel.lifecycle import MAX_NAME
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.program import demand_abi, demand_image, demand_size
from vllm_symphony.kernel.registry import Content
from vllm_symphony.kernel.syscall.process import SCOPE
from vllm_symphony.kernel.syscall.view import demand_door

MAX_SCHEMA, MAX_DESCRIPTION, MAX_PATTERN = 1 << 16, 4096, 1024  # characters
MAX_WHOLE, MAX_BRIEF = 256, 80  # programs in a list that shows all of each; else so many characters of a description, and no schema
MAX_LIST_BYTES = 8 << 20
RIGHTS = 0o777


def install(m: Machine, call: Call, a: Install) -> ProgramResult:
    """Keep a program under a name and a version, for ever the same."""
    demand_door(call)
    if SCOPE not in call.cred.scopes:
        raise NotOwner(f"{call.cred.principal} may not install programs: scope {SCOPE} is missing", scope=SCOPE)
    demand_short(a.name)
    wanted = reference(a.name, call.cred.principal)
    if wanted.version is not None:
        raise InvalidArgument(f"give name and version apart, not {a.name!r} as the name")
    if not registry.owns(wanted.owner, call.cred):
        raise AccessDenied(f"{call.cred.principal} may not install under the name of {wanted.owner}", owner=wanted.owner)
    version_of(a.version)
    return ProgramResult(m.registry.install(_described(m, call, a, wanted), Content(a.source, a.code)))


def _described(m: Machine, call: Call, a: Install, wanted: Reference) -> ProgramInfo:
    """What lists will say of it. Raises InvalidArgument, BadProgram."""
    if bool(a.source) == bool(a.code):
        raise InvalidArgument("install takes either source or code")
    if not 0 <= a.mode <= RIGHTS:
        raise InvalidArgument(f"mode must be in 0..{RIGHTS:#o}, not {a.mode:#o}", mode=a.mode)
    if not a.entry.isidentifier() or len(a.entry) > MAX_NAME:
        raise InvalidArgument(f"entry must be a function's name of up to {MAX_NAME} characters")
    if len(a.description) > MAX_DESCRIPTION:
        raise InvalidArgument(f"description has {len(a.description)} characters, the most is {MAX_DESCRIPTION}")
    _demand_schema(a.schema)
    demand_size(m, a.source, a.code)
    demand_abi(manifest.abi_of(a.source))
    declared = manifest.read(a.source)
    demand_image(m, declared)
    content = Content(a.source, a.code)
    return ProgramInfo(
        name=wanted.full_name, version=a.version, owner=wanted.owner, sha256=content.sha256, size=content.size,
        runtime=WASM if a.code else PYTHON, entry=a.entry, description=a.description or declared.description, schema=a.schema,
        created_ns=call.start_ns + m.offset_ns, mode=a.mode, group=wanted.owner, tools=declared.tools, paths=declared.paths,
        dependencies=tuple(need.text for need in declared.dependencies), limits=declared.limits,
    )  # fmt: skip


def _demand_schema(schema: str) -> None:
    if len(schema) > MAX_SCHEMA:
        raise InvalidArgument(f"schema has {len(schema)} characters, the most is {MAX_SCHEMA}", limit=MAX_SCHEMA)
    try:
        is_object = not schema or isinstance(json.loads(schema), dict)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"schema is no JSON: {error}") from None
    if not is_object:
        raise InvalidArgument("schema must be a JSON object")


def uninstall(m: Machine, call: Call, a: ProgramArgs) -> Done:
    """Take a version away; what runs goes on."""
    demand_door(call)
    m.registry.uninstall(reference(a.program, call.cred.principal), call.cred)
    return Done()


def programs(m: Machine, call: Call, a: Programs) -> ProgramsResult:
    """Those that the caller may see."""
    demand_door(call)
    if len(a.pattern) > MAX_PATTERN:
        raise InvalidArgument(f"pattern has {len(a.pattern)} characters, the most is {MAX_PATTERN}", limit=MAX_PATTERN)
    seen = m.registry.visible(call.cred)
    found = [info for info in seen if not a.pattern or fnmatchcase(registry.label(info), a.pattern)]
    if len(found) > MAX_WHOLE:
        found = [replace(info, schema="", description=info.description[:MAX_BRIEF]) for info in found]
    size = sum(map(_size, found))
    if size > MAX_LIST_BYTES:
        raise InvalidArgument(
            f"{len(found)} programs match, about {size} bytes, the most is {MAX_LIST_BYTES}: give a pattern, as owner/*",
            limit=MAX_LIST_BYTES,
        )
    return ProgramsResult(tuple(found))


def _size(info: ProgramInfo) -> int:
    """About what it takes in an answer."""
    texts = (*(info.tools or ()), *(info.paths or ()), *info.dependencies, info.name, info.description, info.schema)
    return 4 * sum(map(len, texts)) + 512  # a character has up to 4 bytes


def program(m: Machine, call: Call, a: ProgramArgs) -> ProgramTextResult:
    """One of them, with its text for who may read that."""
    demand_door(call)
    info = m.registry.find(reference(a.program, call.cred.principal), call.cred, MAY_READ)
    content = m.registry.contents[info.sha256]
    return ProgramTextResult(info, content.source, content.code)
