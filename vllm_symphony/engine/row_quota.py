"""How many rows each domain keeps (engine/row_quota.py): who has too many loses its oldest, nobody else's."""

from __future__ import annotations

from collections.abc import Iterable


class RowQuota:
    """The live rows of each domain, oldest first, and their limits."""

    def __init__(self) -> None:
        self._domain: dict[int, str] = {}
        self._rows: dict[str, dict[int, None]] = {}
        self._limits: dict[str, int | None] = {}
        self.counts: dict[str, int] = {}  # of each domain that has some

    def add(self, row_id: int, domain: str) -> list[int]:
        """A new row. Returns those that go for it."""
        self._domain[row_id] = domain
        self._rows.setdefault(domain, {})[row_id] = None
        self.counts[domain] = self.counts.get(domain, 0) + 1
        return self._beyond(domain)

    def remove(self, row_ids: Iterable[int]) -> None:
        """Rows that are gone; unknown ones do not matter."""
        for row_id in row_ids:
            domain = self._domain.pop(row_id, None)
            if domain is None:
                continue
            del self._rows[domain][row_id]
            self.counts[domain] -= 1
            if not self.counts[domain]:
                del self.counts[domain], self._rows[domain]

    def limit(self, domain: str, num_rows: int | None) -> list[int]:
        """From now on so many. Returns those that must go."""
        self._limits[domain] = num_rows
        return self._beyond(domain)

    def _beyond(self, domain: str) -> list[int]:
        limit = self._limits.get(domain)
        if limit is None:
            return []
        rows = list(self._rows.get(domain, ()))
        beyond = rows[: max(0, len(rows) - limit)]
        self.remove(beyond)
        return beyond
