"""The installed packages, looked at and never imported (cli/checks/site.py).

A package that is broken breaks whoever imports it, so only its metadata, its files and its entry points are read. (Also not by the
`packaging` library unless it is there.)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, EntryPoint
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Site:
    """Distributions and packages found on `path`, by default where this interpreter imports from."""

    path: Sequence[str] = field(default_factory=lambda: tuple(sys.path))

    def version(self, name: str) -> str | None:
        """Of a distribution; None when it is not installed."""
        found = self._by_name.get(_normal(name))
        return None if found is None else found.version

    def requires(self, name: str) -> list[str]:
        """What a distribution asks for, as its metadata says it."""
        found = self._by_name.get(_normal(name))
        return [] if found is None else list(found.requires or ())

    def folder(self, package: str) -> Path | None:
        """Where a top-level package lies; None when nothing of this name can be imported."""
        spec = PathFinder.find_spec(package, list(self.path))
        if spec is None and list(self.path) == sys.path:
            spec = find_spec(package)  # also what an editable installation's finder knows
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
        return Path(places[0]) if places else Path(spec.origin or ".").parent

    def entry_points(self, group: str) -> list[tuple[EntryPoint, str]]:
        """All of a group, each once by name, with the distribution that brings it."""
        found: dict[str, tuple[EntryPoint, str]] = {}
        for name, each in self._by_name.items():
            for point in each.entry_points:
                if point.group == group:
                    found.setdefault(point.name, (point, name))
        return list(found.values())

    @property
    def _by_name(self) -> dict[str, Distribution]:
        return _distributions(tuple(self.path))


@cache
def _distributions(path: tuple[str, ...]) -> dict[str, Distribution]:
    """The first of each name wins, as it does for imports. Folders without a readable METADATA are what pip left half-removed."""
    found: dict[str, Distribution] = {}
    for each in Distribution.discover(path=list(path)):
        metadata = each.metadata
        if metadata is not None and metadata["Name"] and metadata["Version"]:
            found.setdefault(_normal(metadata["Name"]), each)
    return found


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.13.0+cpu is (2, 13, 0)."""
    found = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
