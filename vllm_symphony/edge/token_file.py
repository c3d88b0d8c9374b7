"""The token file: who has a token (edge/token_file.py).

    {"version": 1, "tokens": [{"name": "ci", "id": "4f1c09a77be2", "sha256": "...", "principal": "ci", "groups": [], "scopes":
    ["run"], "created_s": 1760000000.0, "expires_s": null, "rate": "20/s:40"}]}

`rate` is there only where a token has one: a server that knows no rates reads the others.

`symphony token` changes it whether or not a server runs; servers look at each authentication whether it is still the file that they
read (time, size, inode, mode, owner), so an addition or a revocation counts from the next call on.

Invariants: names and ids are unique; the file is replaced whole, under a lock (concurrent additions lose nothing); a file that is
damaged, or that others may read, opens no door: reading it raises until it is mended.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from vllm_symphony.edge.private_file import read_private, write_private
from vllm_symphony.edge.rate import Limit, limit_of
from vllm_symphony.edge.state_dir import make_private
from vllm_symphony.edge.token import SCOPES, Token, is_name
from vllm_symphony.errors import AccessDenied, DataCorrupt, FileExists, InvalidArgument, NoSuchFile, SymphonyError

VERSION = 1
_log = logging.getLogger("symphony.edge")


class TokenFile:
    """The tokens of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "tokens.json"
        self._seen: object = ()  # the file that `_tokens` or `_damage` are of
        self._tokens: Mapping[str, Token] = {}
        self._damage: SymphonyError | None = None

    def by_id(self) -> Mapping[str, Token]:
        """All tokens as they are now, expired ones too. One stat(2) where nothing changed.

        Raises: AccessDenied, DataCorrupt: the file cannot be trusted. It is logged when it is first seen so.
        """
        seen = self._signature()
        if seen != self._seen:
            self._seen, self._damage = seen, None
            try:
                self._tokens = {token.id: token for token in self._read()}
            except SymphonyError as e:
                self._tokens, self._damage = {}, e
                _log.error("no token is taken: %s", e)
        if self._damage:
            raise type(self._damage)(self._damage.message, path=str(self.path))
        return self._tokens

    def add(self, token: Token) -> None:
        """Keep a token. Raises FileExists when its name is taken, else as `by_id`."""
        with self._locked():
            tokens = self._read()
            if any(t.name == token.name for t in tokens):
                raise FileExists(f"a token {token.name} is there already: revoke it first, or choose another name", name=token.name)
            self._write([*tokens, token])

    def revoke(self, name: str) -> Token:
        """Forget a token; gives what was kept of it. Raises NoSuchFile, else as `by_id`."""
        with self._locked():
            tokens = self._read()
            gone = next((t for t in tokens if t.name == name), None)
            if gone is None:
                raise NoSuchFile(f"no such token: {name} ({len(tokens)} there)", name=name)
            self._write(t for t in tokens if t is not gone)
            return gone

    def _signature(self) -> object:
        try:
            s = os.stat(self.path)
        except OSError as e:
            return e.errno
        return s.st_mtime_ns, s.st_size, s.st_ino, s.st_mode, s.st_uid

    def _read(self) -> list[Token]:
        try:
            data = read_private(self.path)
        except FileNotFoundError:
            return []
        try:
            kept = json.loads(data)
            if kept["version"] != VERSION:
                raise ValueError(f"version {kept['version']!r}")
            tokens = [_token(record) for record in kept["tokens"]]
            if len({t.id for t in tokens}) < len(tokens) or len({t.name for t in tokens}) < len(tokens):
                raise ValueError("a name or an id occurs twice")
        except (ValueError, TypeError, KeyError, RecursionError) as e:
            what = f"{type(e).__name__} at byte {e.pos}" if isinstance(e, json.JSONDecodeError) else f"{type(e).__name__}: {e}"
            raise DataCorrupt(
                f"the token file {self.path} is damaged ({what}): mend it, or remove it", path=str(self.path)
            ) from None
        return tokens

    def _write(self, tokens: Iterable[Token]) -> None:
        write_private(self.path, json.dumps({"version": VERSION, "tokens": [_record(t) for t in tokens]}, indent=1) + "\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        folder = self.path.parent
        make_private(folder)
        try:
            fd = os.open(folder / "tokens.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise AccessDenied(f"cannot use the state directory {folder}: {e.strerror}", path=str(folder)) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _record(token: Token) -> dict[str, Any]:
    record = asdict(token) | {"rate": str(token.rate)}
    return record if token.rate else {k: v for k, v in record.items() if k != "rate"}


def _token(record: Any) -> Token:
    """Raises ValueError, TypeError or KeyError, which repeat nothing secret."""
    if set(record) - {"rate"} != {"name", "id", "sha256", "principal", "groups", "scopes", "created_s", "expires_s"}:
        raise ValueError("a token with other fields than it should have")
    if not isinstance(record["groups"], list) or not isinstance(record["scopes"], list):
        raise ValueError("a token whose groups or scopes are no list")
    names = (record["name"], record["principal"], *record["groups"])
    if not all(isinstance(name, str) and is_name(name) for name in names) or not set(record["scopes"]) <= set(SCOPES):
        raise ValueError("a token with a name or a scope that cannot be")
    if not all(isinstance(record[key], str) and _is_hex(record[key], n) for key, n in (("id", 12), ("sha256", 64))):
        raise ValueError("a token with a broken id or hash")
    created_s, expires_s = record["created_s"], record["expires_s"]
    if not _is_time(created_s) or not (expires_s is None or _is_time(expires_s)):
        raise ValueError("a token with a time that is none")
    rate = _rate(record.get("rate"))
    return Token(**{**record, "groups": tuple(record["groups"]), "scopes": tuple(record["scopes"]), "rate": rate})


def _rate(text: Any) -> Limit | None:
    try:
        return limit_of(text) if isinstance(text, str) else None
    except InvalidArgument:
        raise ValueError("a token with a rate that is none") from None


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and isfinite(value)  # a NaN would never expire


def _is_hex(text: str, num_digits: int) -> bool:
    return len(text) == num_digits and set(text) <= set("0123456789abcdef")
