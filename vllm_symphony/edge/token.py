"""Tokens: what a caller shows, and what of it is kept (edge/token.py).

    sym_4f1c09a77be2_8d1f...             sym_ + id + _ + secret: 48 random bits to find it by, 256 to prove it
    Token(id, sha256(secret), who, until when)     what is kept; the secret itself is seen once, by who asked for it

A random secret of 256 bits needs no slow hash: there is nothing to guess. It is compared in constant time.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from vllm_symphony.abi.address import TOKEN_PREFIX
from vllm_symphony.abi.types import Credentials
from vllm_symphony.edge.rate import Limit
from vllm_symphony.errors import InvalidArgument

SCOPES = {"admin": "sees and may do everything", "run": "may start programs"}
_ID_BYTES, _SECRET_BYTES = 6, 32
_TEXT = re.compile(rf"{TOKEN_PREFIX}([0-9a-f]{{{2 * _ID_BYTES}}})_([0-9a-f]{{{2 * _SECRET_BYTES}}})")
_START = re.compile(rf"{TOKEN_PREFIX}[0-9a-f]{{{2 * _ID_BYTES}}}_")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_NOBODY = sha256(secrets.token_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept. Times are seconds since the epoch; `expires_s` None: never."""

    name: str
    id: str
    sha256: str = field(repr=False)
    principal: str
    groups: tuple[str, ...]
    scopes: tuple[str, ...]
    created_s: float
    expires_s: float | None
    rate: Limit | None = None  # of its bearers together, beside their principal's

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.principal, self.groups, self.scopes)

    def is_expired(self, now_s: float) -> bool:
        return self.expires_s is not None and now_s >= self.expires_s


def make(
    name: str,
    principal: str,
    *,
    now_s: float,
    groups: Sequence[str] = (),
    scopes: Sequence[str] = (),
    expires_s: float | None = None,
    rate: Limit | None = None,
) -> tuple[Token, str]:
    """A new token and its text. Raises InvalidArgument for a name or a scope that cannot be."""
    for what, word in (("token", name), ("principal", principal), *(("group", g) for g in groups)):
        if not is_name(word):
            raise InvalidArgument(
                f"no name for a {what}: {word!r} (letters, digits and ._@+-, at most 64, a letter or digit first)"
            )
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise InvalidArgument(f"no such scope: {', '.join(unknown)} (there are: {', '.join(SCOPES)})")
    token_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES)
    unique_groups, unique_scopes = tuple(dict.fromkeys(groups)), tuple(dict.fromkeys(scopes))
    token = Token(name, token_id, digest(secret), principal, unique_groups, unique_scopes, now_s, expires_s, rate)
    return token, f"{TOKEN_PREFIX}{token_id}_{secret}"


def split(text: str) -> tuple[str, str] | None:
    """A token's id and secret; None when the text is no token."""
    match = _TEXT.fullmatch(text)
    return (match[1], match[2]) if match else None


def holds_token(text: str) -> bool:
    """Whether a token, or the first half of one, stands anywhere in the text."""
    return _START.search(text) is not None


def proves(secret: str, token: Token | None) -> bool:
    """Whether the secret is the token's. An unknown token (None) takes as long as a wrong secret."""
    return hmac.compare_digest(digest(secret), token.sha256 if token else _NOBODY) and token is not None


def is_name(text: str) -> bool:
    """Names of tokens, principals and groups: safe in a log line, a path and a shell."""
    return _NAME.fullmatch(text) is not None


def digest(secret: str) -> str:
    """What is kept of a secret."""
    return sha256(secret.encode()).hexdigest()
