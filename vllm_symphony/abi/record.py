"""What is kept of a file (abi/record.py): the records that kernel, store and engine exchange. None of them reaches a user.

    kernel --NodeRecord--> store (SQLite)          identity: names, rights, tokens, attributes; never depends on a fingerprint
    engine --SavedPage---> kernel --> store         where a page's keys and values lie on disk; good under one fingerprint

Times are ns since the epoch. Records are immutable; `tokens` begins at `kept`, so that a file that grows costs what it grew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vllm_symphony.abi.types import Ino, ProgramInfo, ResourceLimits

ROOT_INO = Ino(1)


@dataclass(frozen=True, slots=True)
class SavedPage:
    """One page in a segment file: `slot` of `segment` (its file name) holds keys and values of the page's first `num_tokens`."""

    segment: str
    slot: int
    num_tokens: int


def cut_pages(pages: tuple[SavedPage, ...], length: int) -> tuple[SavedPage, ...]:
    """What stays good of a file's pages when it is cut to `length` tokens; the same tuple when that is all of it."""
    left: list[SavedPage] = []
    for page in pages:
        if length <= 0:
            break
        left.append(page if page.num_tokens <= length else replace(page, num_tokens=length))
        length -= page.num_tokens
    return pages if len(left) == len(pages) and left[-1:] == list(pages[-1:]) else tuple(left)


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A file or a directory. `tokens` (packed uint32) are those from index `kept` on: the store keeps what it has of those before.
    `runs`: (index, position) where positions jump, all of them. `names`: (ino of the directory, name). `pages`: of the computed
    part, valid under `fingerprint`; None leaves what the store has. `recipe`: how to make an edited file again
    (kernel/fs/recipe.py), b"" = no way. `durable`, `ttl_s`: of a directory."""

    ino: Ino
    kind: str
    owner: str
    group: str
    mode: int
    domain: str
    created_ns: int
    modified_ns: int
    names: tuple[tuple[Ino, str], ...]
    length: int = 0
    kept: int = 0
    tokens: bytes = b""
    runs: tuple[tuple[int, int], ...] = ()
    fidelity: str = "exact"
    recipe: bytes = b""
    xattrs: Mapping[str, str] = field(default_factory=dict)
    expires_ns: int | None = None
    durable: str = ""
    ttl_s: float = 0.0
    pages: tuple[SavedPage, ...] | None = None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class QuotaRecord:
    """Limits of a principal; None: none."""

    principal: str
    device_pages: int | None = None
    host_bytes: int | None = None
    disk_bytes: int | None = None
    files: int | None = None
    rows: int | None = None
    pinned_pages: int | None = None


@dataclass(frozen=True, slots=True)
class PrincipalRecord:
    """What all programs of a principal may use together, and have used of what is counted for ever."""

    principal: str
    limits: ResourceLimits
    used: ResourceLimits = ResourceLimits()


@dataclass(frozen=True, slots=True)
class WeightRecord:
    """A principal's part of the device against others', and the most of its calls that compute at once (None: any)."""

    principal: str
    weight: float = 1.0
    cap: int | None = None


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """The policy that was set at a level of scheduling while the server ran; no name: none is any more."""

    level: str
    name: str = ""
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProgramRecord:
    """An installed program with its content, which the store keeps once by `info.sha256`."""

    info: ProgramInfo
    source: str
    code: bytes


@dataclass(frozen=True, slots=True)
class Restored:
    """What the store holds when a server starts: nodes with all their tokens (`kept` 0), parents before what is in them; limits;
    and numbers from which ids go on, so that none is used twice in a state directory. `indexed`: ino -> `modified_ns` of the text
    that the search index knows."""

    nodes: tuple[NodeRecord, ...] = ()
    quotas: tuple[QuotaRecord, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    indexed: Mapping[Ino, int] = field(default_factory=dict)
    principals: tuple[PrincipalRecord, ...] = ()
    programs: tuple[ProgramRecord, ...] = ()
    weights: tuple[WeightRecord, ...] = ()
    policies: tuple[PolicyRecord, ...] = ()
