"""Versions of programs and of packages, and what is asked of them (abi/version.py).

    1.2   1.2.0   1.2.1   2.0-rc1   2.0           in this order (1.2 and 1.2.0 are one); 2.0-rc1 is a pre-release
    numpy>=1.24,<3                                a requirement: a name and clauses, all of which must hold

The order is PEP 440's, without epochs; local parts (`+cpu`) do not count. Of a requirement (PEP 508) a name and clauses are
understood; extras, markers and addresses are refused, for an image is what it is. Small on purpose: clients install without
`packaging`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import total_ordering

MAX_VERSION = 64  # characters
_VERSION = re.compile(
    r"v?(?P<release>\d{1,18}(?:\.\d{1,18}){0,15})"
    r"(?:[-_.]?(?P<pre>a|b|c|rc|alpha|beta|pre|preview)[-_.]?(?P<pre_n>\d{0,18}))?"
    r"(?:[-_.]?(?:post|rev|r)[-_.]?(?P<post>\d{0,18})|-(?P<post_n>\d{1,18}))?"
    r"(?:[-_.]?dev[-_.]?(?P<dev>\d{0,18}))?"
    r"(?:\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?",
    re.ASCII,
)
_PHASES = {"a": "a", "alpha": "a", "b": "b", "beta": "b", "c": "rc", "rc": "rc", "pre": "rc", "preview": "rc"}
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)\s*(.*)", re.ASCII | re.DOTALL)
_CLAUSE = re.compile(r"(~=|==|!=|<=|>=|<|>)\s*([^\s]+)", re.ASCII)
_FINAL = ("z", 0)  # after every pre-release


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """One version; `text` as it was written. Equal are those that PEP 440 calls equal."""

    text: str
    release: tuple[int, ...]
    pre: tuple[str, int] | None = None
    post: int | None = None
    dev: int | None = None

    @property
    def is_prerelease(self) -> bool:
        return self.pre is not None or self.dev is not None

    @property
    def base(self) -> tuple[int, ...]:
        """The release; zeros at its end do not count."""
        release = self.release
        while len(release) > 1 and release[-1] == 0:
            release = release[:-1]
        return release

    def is_post_of(self, other: Version) -> bool:
        """It is a later post-release of the very other."""
        same = (self.base, self.pre) == (other.base, other.pre)
        return same and self.post is not None and other.post is None and other.dev is None

    @property
    def key(self) -> tuple[tuple[int, ...], tuple[str, int], int, float]:
        """What orders them: a dev release comes before what it is of."""
        before_all = self.pre is None and self.post is None and self.dev is not None
        pre = ("", 0) if before_all else self.pre or _FINAL
        return self.base, pre, -1 if self.post is None else self.post, float("inf") if self.dev is None else self.dev

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self.key == other.key

    def __lt__(self, other: Version) -> bool:
        return self.key < other.key

    def __hash__(self) -> int:
        return hash(self.key)


def parse(text: str) -> Version:
    """Raises ValueError for what is no version."""
    found = _VERSION.fullmatch(text.lower()) if len(text) <= MAX_VERSION else None
    if found is None:
        raise ValueError(f"{text[:MAX_VERSION]!r} is no version like 1.2, 1.2.0 or 2.0-rc1")
    pre = (_PHASES[found["pre"]], int(found["pre_n"] or 0)) if found["pre"] else None
    post = found["post_n"] if found["post_n"] is not None else found["post"]
    return Version(
        text,
        tuple(map(int, found["release"].split("."))),
        pre,
        None if post is None else int(post or 0),
        None if found["dev"] is None else int(found["dev"] or 0),
    )


@dataclass(frozen=True, slots=True)
class Clause:
    """One of `>=1.24`, `==1.*`. `prefix`: of `1.*`, compared with as many numbers as it has."""

    operator: str
    version: Version
    prefix: bool = False

    def __str__(self) -> str:
        return f"{self.operator}{self.version.text}{'.*' if self.prefix else ''}"

    def allows(self, version: Version) -> bool:
        wanted, operator = self.version, self.operator
        if self.prefix:
            return _begins(version, wanted.release) is (operator == "==")
        if operator == "~=":
            return version >= wanted and _begins(version, wanted.release[:-1])
        if operator == "<" and not wanted.is_prerelease and version >= replace(wanted, dev=0):
            return False  # `<2` means no 2.0-rc1
        if operator == ">" and version.is_post_of(wanted):
            return False  # `>2` means no 2.post1
        return {
            "==": version == wanted, "!=": version != wanted, "<=": version <= wanted, ">=": version >= wanted,
            "<": version < wanted, ">": version > wanted,
        }[operator]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Requirement:
    """A distribution by its normal name (PEP 503), and what its version must be; `text` as it was written."""

    text: str
    name: str
    clauses: tuple[Clause, ...] = ()

    def allows(self, version: Version) -> bool:
        return all(clause.allows(version) for clause in self.clauses)


def normal(name: str) -> str:
    """The one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement(text: str) -> Requirement:
    """`numpy>=1.24,<3`. Raises ValueError that says what is wrong with it."""
    found = _REQUIREMENT.fullmatch(text)
    if found is None:
        raise ValueError("it begins with no name of a package")
    name, rest = found[1], found[2].strip()
    for sign, what in (("[", "extras"), (";", "markers"), ("@", "addresses")):
        if sign in rest:
            raise ValueError(f"{what} ({sign}) are not understood: programs run in one image, with what it has")
    if rest.startswith("(") and rest.endswith(")"):
        rest = rest[1:-1]
    return Requirement(text.strip(), normal(name), specifier(rest))


def specifier(text: str) -> tuple[Clause, ...]:
    """`>=3.11,<4`; of an empty text none. Raises ValueError."""
    return tuple(_clause(part.strip()) for part in text.split(",")) if text.strip() else ()


def _clause(text: str) -> Clause:
    found = _CLAUSE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:MAX_VERSION]!r} is no clause like >=1.24 (one of ~= == != <= >= < >)")
    operator, version = found[1], found[2]
    if version.endswith(".*") and operator in ("==", "!="):
        prefix = parse(version[:-2])
        if prefix.is_prerelease or prefix.post is not None:
            raise ValueError(f"{text!r}: only numbers may stand before .*")
        return Clause(operator, prefix, prefix=True)
    parsed = parse(version)
    if operator == "~=" and len(parsed.release) < 2:
        raise ValueError(f"{text!r}: ~= needs two numbers at least")
    return Clause(operator, parsed)


def _begins(version: Version, release: tuple[int, ...]) -> bool:
    padded = version.release + (0,) * (len(release) - len(version.release))
    return padded[: len(release)] == release
