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

    Raises InvalidArgument for what is none.
    """
    owner, slash, rest = text.rpartition("/")
    name, at, number = rest.partition("@")
    owner = owner if slash else principal
    is_short = len(owner) <= MAX_OWNER and len(name) <= MAX_NAME
    if not is_short or not owner or not owner.isprintable() or not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"a program is called owner/name@version, its name in small letters, digits and . _ -, not {text[:MAX_OWNER]!r}"
        )
    return Reference(owner, name, version_of(number) if at else None)


def demand_short(text: str) -> None:
    """Raises NameTooLong for what nothing can be called."""
    owner, _, rest = text.rpartition("/")
    size = len(rest.partition("@")[0])
    if len(owner) > MAX_OWNER or size > MAX_NAME:
        raise NameTooLong(
            f"a name of {size} characters, the most is {MAX_NAME}, and {MAX_OWNER} of an owner's", size=size, limit=MAX_NAME
        )


def version_of(text: str) -> Version:
    """Raises InvalidArgument."""
    try:
        return version.parse(text)
    except ValueError as error:
        raise InvalidArgument(str(error), version=text[: version.MAX_VERSION]) from None
