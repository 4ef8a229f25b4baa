"""The versions that a registry lacks, and the targets of its aliases."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from contracts.routes import Route, RouteRole
from contracts.vocabulary import digest_of_json

FORMAT: Final = 1
"""Increase it when mirrored content changes form; all versions are then rewritten once."""
Alias = Literal["champion", "candidate", "previous"]
ALIASES: Final[Mapping[Alias, RouteRole]] = MappingProxyType(
    {"champion": "active", "candidate": "canary", "previous": "previous"}
)
"""Each alias with the route role of its version."""


@dataclass(frozen=True)
class Mirrored:
    """A version's copy in a registry.

    Attributes:
        version: Slipway's version number.
        fingerprint: Fingerprint of the state it was made from; empty if the copy was edited.
        name_there: The registry's own name, such as MLflow's version number.
        source: URI of the files according to the registry; None if the registry holds them.
    """

    version: int
    fingerprint: str
    name_there: str
    source: str | None = None


def fingerprint(keys: Iterable[str]) -> str:
    """Return the fingerprint of a version's state: the keys of its immutable objects."""
    return digest_of_json([FORMAT, *sorted(keys)])


def choose_copies(mirrored: Iterable[Mirrored], sources: Mapping[int, str | None]) -> dict[int, Mirrored]:
    """Return a registry's copy of each version, the first if there are several.

    An entry with a source counts only if it is the version's own: anyone with write access could copy the tags, and
    aliases would then point at foreign files.

    Args:
        mirrored: The registry's entries.
        sources: URI of each version's files.
    """
    copies: dict[int, Mirrored] = {}
    for mirrored_version in mirrored:
        if mirrored_version.source is None or mirrored_version.source == sources.get(mirrored_version.version):
            copies.setdefault(mirrored_version.version, mirrored_version)
    return copies


def plan_writes(stored: Mapping[int, str], mirrored: Iterable[Mirrored]) -> list[int]:
    """Return the versions missing or outdated in a registry, ascending.

    Args:
        stored: Fingerprints by version.
        mirrored: The registry's copies.
    """
    known = {mirrored_version.version: mirrored_version.fingerprint for mirrored_version in mirrored}
    return sorted(version for version, state in stored.items() if known.get(version) != state)


def plan_aliases(route: Route | None) -> dict[Alias, int]:
    """Return the version of each alias: champion serves, candidate is the canary, previous is for rollbacks.

    Aliases without a registered version are omitted; the base model (version 0) gets none.
    """
    if route is None:
        return {}
    versions = {role: served.target.version for role, served in route.by_role.items()}
    return {alias: versions[role] for alias, role in ALIASES.items() if versions.get(role)}
