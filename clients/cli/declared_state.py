"""The changes that bring an installation to the state that files declare. Pure."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal["Team", "Policy", "ApiKey", "Mirror", "Attachment"]
Action = Literal["create", "update", "remove", "issue"]
Key = tuple[Kind, str]
ORDER: Final[tuple[Kind, ...]] = ("Team", "Policy", "ApiKey", "Mirror", "Attachment")
"""The order of changes by kind, because a key may name a team; removals have the opposite order."""


@dataclass(frozen=True)
class Difference:
    """A field with different values in the installation and in the files."""

    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        """Return `canary.steps: [0.1] -> [0.05, 0.25]`."""
        return f"{self.field}: {_text(self.before)} -> {_text(self.after)}"


@dataclass(frozen=True)
class Change:
    """A change of an item; `issue` is left to an administrator, because it makes a secret.

    Attributes:
        differences: The fields that differ.
        before: The installation's data; None if it lacks the item.
    """

    action: Action
    kind: Kind
    name: str
    differences: tuple[Difference, ...] = ()
    before: Mapping[str, Any] | None = None


def plan_changes(
    declared: Mapping[Key, Mapping[str, Any]],
    actual: Mapping[Key, Mapping[str, Any]],
    *,
    prune: Collection[Kind] = (),
) -> list[Change]:
    """Return the changes in the order of application; none if the installation matches the declaration.

    Args:
        declared: Data of the declared items, by kind and name.
        actual: Data of the installation's items, by kind and name.
        prune: Kinds of which undeclared items are removed.
    """
    changes = []
    for key in sorted(declared, key=lambda key: (ORDER.index(key[0]), key[1])):
        kind, name = key
        if key not in actual:
            changes.append(Change("issue" if kind == "ApiKey" else "create", kind, name))
        elif differences := compare(actual[key], declared[key]):
            changes.append(Change("update", kind, name, differences, actual[key]))
    surplus = [key for key in undeclared(declared, actual) if key[0] in prune]
    return changes + [Change("remove", kind, name, before=actual[kind, name]) for kind, name in reversed(surplus)]


def undeclared(declared: Mapping[Key, Any], actual: Mapping[Key, Any]) -> list[Key]:
    """Return the items of the installation that the files do not declare, in order."""
    surplus = [key for key in actual if key not in declared]
    return sorted(surplus, key=lambda key: (ORDER.index(key[0]), key[1]))


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return the different fields by path; lists of different lengths are compared as a whole."""
    differences: list[Difference] = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        parts = _parts(old, new)
        if parts is not None:
            differences += [
                Difference(f"{name}.{difference.field}", difference.before, difference.after)
                for difference in compare(*parts)
            ]
        elif old != new:
            differences.append(Difference(name, old, new))
    return tuple(differences)


def _parts(old: Any, new: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Return two mappings, or lists of mappings, as mappings of their parts; None for other values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old, new
    if not isinstance(old, list) or not isinstance(new, list) or len(old) != len(new):
        return None
    if not all(isinstance(item, Mapping) for item in (*old, *new)):
        return None
    return {str(i): item for i, item in enumerate(old)}, {str(i): item for i, item in enumerate(new)}


def _text(value: Any) -> str:
    """Return a value as compact JSON, without unset fields."""
    return "none" if value is None else json.dumps(_without_none(value), ensure_ascii=False)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
