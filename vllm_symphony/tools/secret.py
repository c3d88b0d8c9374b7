"""Secrets: where they may go, and taking them out of what comes back (tools/secret.py).

    environment, file --> Vault --(tool, principal, url)--> header or query of one request
                            |                               variable of an MCP server, a Python function that asks
                            +--> scrub(text): every form of every value --> "[secret NAME]"

A value is added after the arguments were checked, by us, to a place that the operator named; a program can neither read it nor say
where it goes. Scrubbing is the second line: it knows a value as it is, url-encoded, in base64 (at any offset), hex, JSON and HTML.
A service that answers with a value reversed or encrypted is not caught; docs/tools.md says so.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus

import httpx2

from vllm_symphony.errors import AccessDenied, InvalidArgument
from vllm_symphony.tools.config import Config, Secret

MIN_CHARS = 8  # a shorter one would be found, and taken out, in any text
MAX_BYTES = 16 << 10
_STABLE = 8  # characters of an encoded form that tell it from chance


class Vault:
    """The values. Belongs to the tool host alone; nothing here is ever logged."""

    def __init__(self, config: Config, environment: Mapping[str, str]) -> None:
        """Raises InvalidArgument for a value that is missing, or too short to be scrubbed."""
        self._secrets = {secret.name: (secret, _value(secret, config, environment)) for secret in config.secrets}
        forms = {form: name for name, (_, value) in self._secrets.items() for form in _forms(value)}
        self._names = forms
        self.longest = max(map(len, forms), default=0)
        ordered = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def headers(self, tool: str, principal: str, url: httpx2.URL) -> dict[str, str]:
        """What a request of the tool to this url carries."""
        return {s.header: s.form.replace("{}", v) for s, v in self._for_request(tool, principal, url) if s.header is not None}

    def query(self, tool: str, principal: str, url: httpx2.URL) -> dict[str, str]:
        return {s.query: s.form.replace("{}", v) for s, v in self._for_request(tool, principal, url) if s.query is not None}

    def variables(self, server: str, principal: str) -> dict[str, str]:
        """What an MCP server of this principal has in its environment."""
        return {
            s.variable: s.form.replace("{}", v)
            for s, v in self._secrets.values()
            if s.variable is not None and s.is_for(server, principal)
        }

    def value(self, name: str, plugin: str, principal: str) -> str:
        """For a Python function. Raises AccessDenied, also for a name that there is not."""
        secret, value = self._secrets.get(name, (None, ""))
        if secret is None or secret.variable or secret.header or secret.query or not secret.is_for(plugin, principal):
            raise AccessDenied(f"no secret {name!r} is bound to {plugin} for {principal}")
        return secret.form.replace("{}", value)

    def scrub(self, text: str) -> str:
        """The text without values."""
        if self._pattern is None or not any(form in text for form in self._names):  # the search is ten times as fast
            return text
        return self._pattern.sub(lambda match: f"[secret {self._names[match[0]]}]", text)

    def scrub_json(self, value: Any) -> Any:
        """The same in every string of a JSON value."""
        if isinstance(value, str):
            return self.scrub(value)
        if isinstance(value, dict):
            return {self.scrub(str(key)): self.scrub_json(inner) for key, inner in value.items()}
        return [self.scrub_json(inner) for inner in value] if isinstance(value, list) else value

    def _for_request(self, tool: str, principal: str, url: httpx2.URL) -> list[tuple[Secret, str]]:
        return [
            (secret, value)
            for secret, value in self._secrets.values()
            if secret.place is not None and secret.is_for(tool, principal) and secret.place.covers(url)
        ]


def _value(secret: Secret, config: Config, environment: Mapping[str, str]) -> str:
    def wrong(message: str) -> InvalidArgument:
        return InvalidArgument(f"{config.path}: [secret.{secret.name}] {message}", secret=secret.name)

    if secret.env is not None:
        value = environment.get(secret.env, "")
        if not value:
            raise wrong(f"env: {secret.env} is not set")
    else:
        assert secret.file is not None
        try:
            data = secret.file.read_bytes()
            value = data.decode().rstrip("\r\n") if len(data) <= MAX_BYTES else ""
        except (OSError, UnicodeError) as e:
            raise wrong(f"file: {secret.file} cannot be read: {e}") from None
        if not value:
            raise wrong(f"file: {secret.file} is empty, or has more than {MAX_BYTES} bytes")
    if len(value) < MIN_CHARS:
        raise wrong(f"has {len(value)} characters, and must have {MIN_CHARS}: a shorter one cannot be scrubbed from answers")
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise wrong("holds a control character")
    return value


def _forms(value: str) -> set[str]:
    """The ways in which a service may answer with it."""
    data = value.encode()
    forms = {value, quote(value), quote(value, safe=""), quote_plus(value), html.escape(value), json.dumps(value)[1:-1]}
    forms |= {re.sub(r"%[0-9A-F]{2}", lambda m: m[0].lower(), form) for form in list(forms)}
    forms |= {data.hex(), data.hex().upper(), base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()}
    for before, skipped in ((0, 0), (1, 2), (2, 3)):  # its bits inside of the base64 of something longer
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * before + data).decode().rstrip("=")
            inner = text[skipped:] if (before + len(data)) % 3 == 0 else text[skipped:-1]
            if len(inner) >= _STABLE:
                forms.add(inner)
    return {form for form in forms if form}
