"""How a program of the registry is called (abi/reference.py): `ops/triage@1.2`.

ops       whose it is: a principal; left out, the caller's own
triage    small letters, digits and . _ - between them
1.2       its version (abi/version.py); left out, the latest that is no pre-release
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vllm_symphony.abi import version
from vllm_symphony.abi.version import Version
from vllm_symphony.errors import InvalidArgument, NameTooLong

MAX_NAME, MAX_OWNER = 64, 255  # characters
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """One that was asked for. `version` None: the latest."""

    owner: str
    name: str
    version: Version | None = None

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"


def reference(text: str, principal: str) -> Reference:
    """Of a text as above, said by `principal`. An owner may hold `/` and `@`: the name is what follows the last `/`.

    Raises:
        InvalidArgument: it is none.
        NameTooLong: the owner or the name.
    """
    owner, slash, rest = text.rpartition("/")
    name, at, number = rest.partition("@")
    owner = owner if slash else principal
    if len(owner) > MAX_OWNER or len(name) > MAX_NAME:
        raise NameTooLong(f"an owner has up to {MAX_OWNER} characters, a program's name up to {MAX_NAME}", limit=MAX_NAME)
    if not owner or not owner.isprintable() or not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"a program is called owner/name@version, its name in small letters, digits and . _ -, not {text[:MAX_OWNER]!r}"
        )
    return Reference(owner, name, version_of(number) if at else None)


def version_of(text: str) -> Version:
    """Raises InvalidArgument."""
    try:
        return version.parse(text)
    except ValueError as error:
        raise InvalidArgument(str(error), version=text[: version.MAX_VERSION]) from None
