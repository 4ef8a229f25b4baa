"""The missing versions of a model in a registry, and the targets of its aliases."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from contracts.routes import Route, RouteRole
from contracts.vocabulary import digest_of_json

FORMAT: Final = 1
"""Raise it with every change of what a registry is given: all versions are then written again, once."""
Alias = Literal["champion", "candidate", "previous"]
ALIASES: Final[Mapping[Alias, RouteRole]] = MappingProxyType(
    {"champion": "active", "candidate": "canary", "previous": "previous"}
)
"""Each alias with the role in the route whose version has it."""


@dataclass(frozen=True)
class Mirrored:
    """A version as a registry has it.

    Attributes:
        version: Slipway's number.
        fingerprint: What it was made from, as `fingerprint` returns it; empty if the registry's copy was changed since.
        name_there: The registry's own name: MLflow assigns numbers itself.
        source: Where the registry says that the files are; None for a registry that holds them itself.
    """

    version: int
    fingerprint: str
    name_there: str
    source: str | None = None


def fingerprint(keys: Iterable[str]) -> str:
    """Return the identity of a version's state: its objects, which never change."""
    return digest_of_json([FORMAT, *sorted(keys)])


def choose_copies(mirrored: Iterable[Mirrored], sources: Mapping[int, str | None]) -> dict[int, Mirrored]:
    """Return a registry's copy of each version: of several, the first.

    An entry with a source counts only if its source is that of the version: everyone who may write to the registry
    can give an entry the version's tags, and aliases would name the files of that entry.

    Args:
        mirrored: What the registry has.
        sources: Where the files of each version are.
    """
    copies: dict[int, Mirrored] = {}
    for mirrored_version in mirrored:
        if mirrored_version.source is None or mirrored_version.source == sources.get(mirrored_version.version):
            copies.setdefault(mirrored_version.version, mirrored_version)
    return copies


def plan_writes(stored: Mapping[int, str], mirrored: Iterable[Mirrored]) -> list[int]:
    """Return the versions that a registry lacks or has in an older state, ascending.

    Args:
        stored: Fingerprints by version.
        mirrored: What the registry has.
    """
    known = {mirrored_version.version: mirrored_version.fingerprint for mirrored_version in mirrored}
    return sorted(version for version, state in stored.items() if known.get(version) != state)


def plan_aliases(route: Route | None) -> dict[Alias, int]:
    """Return the version of each alias: champion serves, candidate takes a share, previous takes over in a rollback.

    An alias that no registered version has is left out; the base model (version 0) is none. A canary that was aborted
    is no candidate any more.
    """
    if route is None:
        return {}
    versions = {role: served.target.version for role, served in route.by_role.items()}
    return {alias: versions[role] for alias, role in ALIASES.items() if versions.get(role)}
