"""Types of events as users name them: `rollback.started`, `alert.*`, or the whole type."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from clients.cli.errors import CommandError, Exit
from clients.cli.releases.names import nearest
from contracts.facts import FACTS


def types_matching(patterns: Sequence[str]) -> frozenset[str]:
    """Return the types that patterns name; all types if there is none.

    Raises:
        CommandError: a pattern names no type.
    """
    if not patterns:
        return frozenset(FACTS)
    return frozenset(type_ for pattern in patterns for type_ in _matching(pattern))


def short_name(type_: str) -> str:
    """Return `rollback.started` of `slipway.rollback.started.v1`."""
    return type_.removeprefix("slipway.").rpartition(".")[0]


def _matching(pattern: str) -> list[str]:
    matching = [type_ for type_ in FACTS if fnmatchcase(type_, pattern) or fnmatchcase(short_name(type_), pattern)]
    if not matching:
        names = [short_name(type_) for type_ in FACTS]
        near = nearest(pattern, names)
        hint = f"{near} See" if near else "write one, such as rollback.started or alert.*; see"
        raise CommandError(f"no event has the type {pattern!r}; {hint} docs/reference/events.md", Exit.USAGE)
    return matching
