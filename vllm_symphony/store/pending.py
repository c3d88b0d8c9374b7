"""What is to be written next: many changes of a node are one write (store/pending.py).

    write, write, write, ... --merge--> Pending --one transaction--> database     failed? it stays here, and takes what follows

A record holds a node's tokens from index `kept` on. Of two records the later one wins, but for the tokens between: those that the
earlier one has below the later one's `kept` are not in the database yet. So while the disk is full, what waits is as large as the
files that changed, however often they did.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from vllm_symphony.abi.record import NodeRecord, PolicyRecord, PrincipalRecord, ProgramRecord, QuotaRecord, WeightRecord
from vllm_symphony.abi.types import Ino


class Pending:
    """Changes since the last transaction; `removed` goes before `nodes`, `uninstalled` before `programs`."""

    def __init__(self) -> None:
        self.nodes: dict[Ino, NodeRecord] = {}
        self.removed: dict[Ino, None] = {}
        self.quotas: dict[str, QuotaRecord] = {}
        self.counters: dict[str, int] = {}
        self.principals: dict[str, PrincipalRecord] = {}
        self.programs: dict[tuple[str, str], ProgramRecord] = {}  # by name and version
        self.uninstalled: dict[tuple[str, str], None] = {}
        self.weights: dict[str, WeightRecord] = {}
        self.policies: dict[str, PolicyRecord] = {}  # by level

    def __bool__(self) -> bool:
        return any(self._all())

    def _all(self) -> tuple[dict[Any, Any], ...]:
        return (
            self.nodes, self.removed, self.quotas, self.counters, self.principals, self.programs, self.uninstalled, self.weights,
            self.policies,
        )  # fmt: skip

    def add(
        self,
        nodes: Iterable[NodeRecord],
        removed: Iterable[Ino] = (),
        quotas: Iterable[QuotaRecord] = (),
        counters: Iterable[tuple[str, int]] = (),
    ) -> None:
        """Take a write; it follows all that came before."""
        for ino in removed:
            self.nodes.pop(ino, None)
            self.removed[ino] = None
        for node in nodes:
            earlier = self.nodes.get(node.ino)
            self.nodes[node.ino] = node if earlier is None else merged(earlier, node)
        self.quotas.update((quota.principal, quota) for quota in quotas)
        self.counters.update(counters)

    def add_principals(self, principals: Iterable[PrincipalRecord]) -> None:
        """The latest word on each counts."""
        self.principals.update((record.principal, record) for record in principals)

    def add_settings(self, weights: Iterable[WeightRecord], policies: Iterable[PolicyRecord]) -> None:
        """Of scheduling; the latest word on each counts."""
        self.weights.update((record.principal, record) for record in weights)
        self.policies.update((record.level, record) for record in policies)

    def add_programs(self, programs: Iterable[ProgramRecord], uninstalled: Iterable[tuple[str, str]] = ()) -> None:
        """What is taken away goes first."""
        for name in uninstalled:
            self.programs.pop(name, None)
            self.uninstalled[name] = None
        self.programs.update(((record.info.name, record.info.version), record) for record in programs)

    def clear(self) -> None:
        for changes in self._all():
            changes.clear()


def merged(earlier: NodeRecord, later: NodeRecord) -> NodeRecord:
    """One record that leaves the database as both, one after the other."""
    if later.kept > earlier.kept:
        tokens = earlier.tokens[: 4 * (later.kept - earlier.kept)] + later.tokens
        later = replace(later, kept=earlier.kept, tokens=tokens)
    if later.pages is None and earlier.pages is not None:
        later = replace(later, pages=earlier.pages, fingerprint=earlier.fingerprint)
    return later
