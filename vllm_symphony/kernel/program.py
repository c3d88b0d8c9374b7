"""What a spawn starts, and with which rights (kernel/program.py).

    text of the call   \\                    what it declares  ^  what the caller has
    a module            >-- manifest -->    paths             ^  its paths                Credentials.paths of the new process
    of the registry    /                    limits            min  those of the call      kernel/budget.py
    the caller's own                        tools             and  its grant              kernel/grant.py

A program runs as its caller, whoever wrote or installed it, and never with more than the caller has. What its manifest needs of the
image (Python, packages) is there or it does not start.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vllm_symphony.abi import manifest, version
from vllm_symphony.abi.calls import Spawn
from vllm_symphony.abi.manifest import Manifest
from vllm_symphony.abi.reference import reference
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, PYTHON, TRUSTED, WASM, WASM_MAGIC, Credentials, ResourceLimits
from vllm_symphony.abi.version import Clause
from vllm_symphony.errors import BadProgram, InvalidArgument, NotOwner, NotSupported, SymphonyError
from vllm_symphony.kernel import registry
from vllm_symphony.kernel.fs.path import is_below
from vllm_symphony.kernel.process import Kind
from vllm_symphony.kernel.registry import MAY_RUN

if TYPE_CHECKING:
    from vllm_symphony.kernel.call import Call
    from vllm_symphony.kernel.machine import Machine

DEFAULT_ENTRY = "main"
MAX_ABI = 64  # characters


@dataclass(frozen=True, slots=True)
class Prepared:
    """Ready to be launched. `source` or `code` is empty; `program`: of the registry, else ""; `tools`: globs that cut the grant
    down, None: it stays; `limits`: what it declares, the least of these and what the caller says counts."""

    source: str
    code: bytes
    runtime: str
    entry: str
    name: str
    program: str
    abi: str
    cred: Credentials
    tools: tuple[str, ...] | None = None
    limits: ResourceLimits = ResourceLimits()
    priority: int = 0


def prepare(m: Machine, call: Call, a: Spawn) -> Prepared:
    """What the call is to start, cut down to what it declares.

    Raises:
        InvalidArgument: none is said, or several, or the runtime is not for it.
        NoSuchFile, AccessDenied, DataCorrupt: of the registry.
        BadProgram: its manifest is none, or needs what the image lacks.
        NotOwner: it is not trusted.
        NotSupported: it was written for another ABI.
    """
    chosen = _chosen(m, call, a)
    demand_abi(chosen.abi)
    demand_size(m, chosen.source, chosen.code)
    declared = manifest.read(chosen.source)
    demand_image(m, declared)
    if a.runtime == TRUSTED:
        _demand_trusted(m, call, chosen)
        chosen = replace(chosen, runtime=TRUSTED)
    elif a.runtime not in ("", chosen.runtime):
        raise InvalidArgument(f"runtime must be {chosen.runtime}, trusted or empty for this program, not {a.runtime[:64]!r}")
    cred = _confined(m, call.cred, declared)
    return replace(chosen, cred=cred, tools=declared.tools, limits=declared.limits, priority=declared.priority)


def _chosen(m: Machine, call: Call, a: Spawn) -> Prepared:
    """Of the four ways to say it, the one that is used."""
    caller, cred = call.process, call.cred
    given = [word for word, value in (("source", a.source is not None), ("code", a.code), ("program", a.program)) if value]
    if len(given) > 1:
        raise InvalidArgument(f"spawn takes one of source, code and program, not {' and '.join(given)}")
    if a.program:
        info = m.registry.find(reference(a.program, cred.principal), cred, MAY_RUN)
        if a.entry not in (DEFAULT_ENTRY, info.entry):
            raise InvalidArgument(f"{registry.label(info)} begins at {info.entry}, not at {a.entry[:64]}", entry=info.entry)
        content = m.registry.contents[info.sha256]
        name = a.name or info.name.rpartition("/")[2]
        abi = a.abi or manifest.abi_of(content.source)
        return Prepared(content.source, content.code, info.runtime, info.entry, name, registry.label(info), abi, cred)
    if a.source is not None or a.code:
        return Prepared(a.source or "", a.code, WASM if a.code else PYTHON, a.entry, a.name, "", a.abi, cred)
    if caller.source is None and not caller.code:
        raise InvalidArgument("spawn needs the program's source: the caller is no program")
    runtime = WASM if caller.code else PYTHON
    return Prepared(caller.source or "", caller.code, runtime, a.entry, a.name, caller.program, caller.abi, cred)


def demand_abi(abi: str) -> None:
    """Raises NotSupported for another major version than ours, InvalidArgument for what is no version."""
    major, dot, minor = abi.partition(".")
    if abi and (len(abi) > MAX_ABI or not (major.isdecimal() and dot and minor.isdecimal())):
        raise InvalidArgument(f"abi must be like {ABI_MAJOR}.{ABI_MINOR}, not {abi[:MAX_ABI]!r}")
    if abi and int(major) != ABI_MAJOR:
        raise NotSupported(f"the program was written for ABI {abi}, the server speaks {ABI_MAJOR}.{ABI_MINOR}", abi_major=ABI_MAJOR)


def demand_size(m: Machine, source: str, code: bytes) -> None:
    """Raises BadProgram for what is too large, no text, or no module."""
    limit = m.limits.program_bytes
    try:
        size = len(code) or (len(source) if len(source) > limit else len(source.encode()))
    except UnicodeEncodeError as error:
        raise BadProgram(f"the program is no valid unicode (character {error.start})") from None
    if size > limit:
        raise BadProgram(f"the program has {size} bytes, the most is {limit}", size=size, limit=limit)
    if code and not code.startswith(WASM_MAGIC):
        raise BadProgram("the code is no WebAssembly module: it does not begin with \\0asm")


def demand_image(m: Machine, declared: Manifest) -> None:
    """Raises BadProgram that says what is missing, and what the image has."""
    image = m.image
    missing = [need.text for need in declared.dependencies if not _has(image.get(need.name), need.clauses)]
    python = image.get(PYTHON)
    if python is not None and not _has(python, declared.requires_python):
        missing.append(f"Python {', '.join(map(str, declared.requires_python))}")
    if missing:
        there = ", ".join(f"{name} {number}" for name, number in sorted(image.items())) or "the standard library only"
        raise BadProgram(
            f"the program needs {', '.join(missing)}; the image has {there}, and nothing is installed for one program",
            missing=", ".join(missing), image=there,
        )  # fmt: skip


def _has(number: str | None, clauses: Iterable[Clause]) -> bool:
    try:
        return number is not None and all(clause.allows(version.parse(number)) for clause in clauses)
    except ValueError:  # the image's own: a version that is none is not what is asked for
        return False


def _confined(m: Machine, cred: Credentials, declared: Manifest) -> Credentials:
    """The caller's credentials, with no more paths than are declared."""
    if declared.paths is None:
        return cred
    home = f"/home/{cred.principal}"
    wanted = [path if path.startswith("/") else home + path[1:] for path in declared.paths]
    for path in wanted:
        try:
            m.files.parts(path)
        except SymphonyError as error:
            raise BadProgram(f"the manifest's paths are wrong: {error.message}", path=path[:1024]) from None
    return replace(cred, paths=common(cred.paths, wanted))


def common(ours: tuple[str, ...] | None, theirs: Iterable[str]) -> tuple[str, ...]:
    """The names that are at or below one of both."""
    if ours is None:
        return tuple(dict.fromkeys(theirs))
    pairs = [(a, b) for a in ours for b in theirs]
    return tuple(dict.fromkeys([*(a for a, b in pairs if is_below(a, b)), *(b for a, b in pairs if is_below(b, a))]))


def _demand_trusted(m: Machine, call: Call, chosen: Prepared) -> None:
    """Raises NotOwner for a program that the operator has not said is to be trusted, InvalidArgument for a module.

    Trust in a principal is trust in what it starts itself: not in what a confined program of it starts, which may be anybody's.
    """
    if chosen.runtime != PYTHON:
        raise InvalidArgument("a module is never trusted: runtime must be wasm or empty")
    is_inside = call.process.kind is Kind.PROGRAM and call.process.runtime != TRUSTED
    principal = "" if is_inside else call.cred.principal
    name = chosen.program.rpartition("@")[0]
    if not any(who and m.may_trust(who) for who in (principal, chosen.program, name)):
        what = chosen.program or ("what a confined program starts" if is_inside else principal)
        raise NotOwner(f"{what} is not trusted here (symphony serve --trusted)")
