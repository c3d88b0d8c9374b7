"""A table of a TOML file, read key by key (tools/toml.py).

    t = Table("tools.toml", "http.weather", {...});  t.string("url");  t.number("timeout_s", 60.0, 0.001, 3600);  t.end()

Each key is taken once; `end` complains of what nobody took, so that a misspelt key is an error and not a default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, overload

from vllm_symphony.errors import InvalidArgument

D = TypeVar("D")
_REQUIRED: Any = object()


class Table:
    """One table; `wrong` makes its errors."""

    def __init__(self, file: str, path: str, values: Mapping[str, Any]) -> None:
        self._file = file
        self._path = path
        self._values = values
        self._asked: set[str] = set()

    @property
    def name(self) -> str:
        """The last word of its header."""
        return self._path.rpartition(".")[2]

    def wrong(self, key: str, message: str) -> InvalidArgument:
        """What is wrong with a key, as an error."""
        table = f"[{self._path}] " if self._path else ""
        return InvalidArgument(f"{self._file}: {table}{key}: {message}", file=self._file, table=self._path, key=key)

    def has(self, key: str) -> bool:
        return key in self._values

    def keys(self) -> Sequence[str]:
        return list(self._values)

    def end(self) -> None:
        """Every key was asked for. Raises InvalidArgument."""
        for key in self._values:
            if key not in self._asked:
                near = get_close_matches(key, self._asked, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(self._asked))}"
                raise self.wrong(key, f"no such key; {hint}")

    @overload
    def string(self, key: str) -> str: ...
    @overload
    def string(self, key: str, default: D) -> str | D: ...
    def string(self, key: str, default: Any = _REQUIRED) -> Any:
        return self._take(key, str, "a string", default)

    def flag(self, key: str, default: bool = False) -> bool:
        value: bool = self._take(key, bool, "true or false", default)
        return value

    def integer(self, key: str, default: int, least: int, most: int) -> int:
        value: int = self._take(key, int, "a whole number", default)
        if isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(key, f"must be a whole number from {least} to {most}, not {value!r}")
        return value

    def number(self, key: str, default: float, least: float, most: float) -> float:
        value = self._take(key, (int, float), "a number", default)
        if isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(key, f"must be from {least:g} to {most:g}, not {value!r}")
        return float(value)

    def strings(self, key: str, default: tuple[str, ...] = _REQUIRED) -> tuple[str, ...]:
        values = self._take(key, list, "a list of strings", default)
        if not all(isinstance(v, str) for v in values):
            raise self.wrong(key, f"must be a list of strings, not {values!r}")
        return tuple(values)

    def list(self, key: str) -> Sequence[Any]:
        values: Sequence[Any] = self._take(key, list, "a list", ())
        return values

    def object(self, key: str, default: Mapping[str, Any]) -> Mapping[str, Any]:
        value: Mapping[str, Any] = self._take(key, dict, "a table", default)
        return value

    def mapping(self, key: str) -> Mapping[str, str]:
        """A table of strings."""
        value: Mapping[str, Any] = self._take(key, dict, "a table of strings", {})
        for name, text in value.items():
            if not isinstance(text, str):
                raise self.wrong(f"{key}.{name}", f"must be a string, not {text!r}")
        return value

    def file(self, key: str, folder: Path) -> Path | None:
        """A path, relative to the file that names it; it must be there."""
        text = self.string(key, None)
        if text is None:
            return None
        path = (folder / Path(text).expanduser()).absolute()
        if not path.is_file():
            raise self.wrong(key, f"no such file: {path}")
        return path

    def table(self, key: str) -> Table:
        """The table below this one; empty when it is not there."""
        return self.inner(key, self._take(key, dict, "a table", {}))

    def tables(self, key: str) -> Iterator[Table]:
        """The tables below `key`, each with its name."""
        group = self.table(key)
        for name in group.keys():  # noqa: SIM118  a Table is no dict
            yield group.table(name)

    def inner(self, key: str, values: Mapping[str, Any]) -> Table:
        return Table(self._file, f"{self._path}.{key}" if self._path else key, values)

    def _take(self, key: str, kind: type | tuple[type, ...], what: str, default: Any) -> Any:
        self._asked.add(key)
        if key not in self._values:
            if default is _REQUIRED:
                raise self.wrong(key, f"is missing: {what}")
            return default
        value = self._values[key]
        if not isinstance(value, kind):
            raise self.wrong(key, f"must be {what}, not {value!r}")
        return value
