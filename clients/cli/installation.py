"""An installation as files declare it: reads its policies, teams, API keys, mirrors, attachments; makes changes."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nats.js import JetStreamContext
from pydantic import BaseModel

from clients.cli.commands.installation.keys import change_keys
from clients.cli.connection import StackAddress, connected
from clients.cli.declared import (
    AnyDeclared,
    Declarations,
    DeclaredApiKey,
    DeclaredAttachment,
    DeclaredMirror,
    DeclaredPolicy,
    DeclaredTeam,
    attachment_data,
    is_declarable,
    mirror_data,
    policy_data,
    scope_data,
    scopes_of,
    team_data,
)
from clients.cli.declared_state import Change, Key, Kind, plan_changes, undeclared
from clients.cli.errors import CommandError
from clients.cli.key_folder import keys_of_folder
from clients.cli.record_orders import bucket_of, order_record, revoked
from contracts.api_keys import ApiKey, KeyLimits
from contracts.facts.ops import RECORDS, RecordKind
from contracts.teams import TeamQuota
from decisions.rollback.orders import LONGEST_ORDER, ORDER_AGE
from shared.errors import Transient
from shared.runtime.clock import SystemClock
from shared.storage.record_format import dump, parse

AS_DATA: Final[Mapping[Kind, tuple[RecordKind, Callable[[Any], dict[str, Any]]]]] = {
    "Policy": ("policy", policy_data),
    "Mirror": ("mirror", mirror_data),
    "Attachment": ("attachment", attachment_data),
}
"""Kinds that are one record under the name of what is declared: its kind in orders, and how it is compared."""


@dataclass(frozen=True)
class Installation:
    """Reads the declared items of an installation (policies, teams, API keys, …) and applies changes to them.

    Teams are in its folder of keys, all other items on the bus.
    """

    stack: StackAddress
    state: Path | None
    folder: Path | None

    async def read(self, declared: Declarations) -> dict[Key, Mapping[str, Any]]:
        """Return the installation's items of the declared kinds."""
        actual: dict[Key, Mapping[str, Any]] = {}
        if "Team" in declared.kinds:
            actual |= {("Team", team.name): team_data(team) for team in keys_of_folder(self.folder, self.state).teams()}
        if not declared.kinds - {"Team"}:
            return actual
        async with connected(self.stack) as client:
            js = client.jetstream(timeout=10)
            for kind in declared.kinds & AS_DATA.keys():
                bucket = bucket_of(js, AS_DATA[kind][0])
                there = {name: await bucket.raw(name) for name in await bucket.keys()}
                actual |= {
                    (kind, name): _as_data(kind, name, each[1]) for name, each in there.items() if each is not None
                }
            if "ApiKey" in declared.kinds:
                actual |= scopes_of(await _valid_keys(js), declared.as_data())
        return actual

    def make(self, change: Change, declared: Declarations) -> None:
        """Make a change, recorded in the audit log as by the command for its kind.

        Raises:
            CommandError: The change is refused, or another command changed the item since it was planned.
        """
        value = declared.values.get((change.kind, change.name))
        if change.kind == "Team":
            self._make_team(change, value if isinstance(value, DeclaredTeam) else None)
        else:
            asyncio.run(self._make_on_bus(change, value))

    async def _make_on_bus(self, change: Change, value: AnyDeclared | None) -> None:
        async with connected(self.stack) as client:
            js = client.jetstream(timeout=10)
            if change.kind in AS_DATA:
                declared = value if isinstance(value, DeclaredPolicy | DeclaredMirror | DeclaredAttachment) else None
                await self._make_record(js, change, None if declared is None else declared.record())
            else:
                await self._make_keys(js, change.name, value if isinstance(value, DeclaredApiKey) else None)

    def _make_team(self, change: Change, team: DeclaredTeam | None) -> None:
        if team is None:
            change_keys(self.folder, self.state, "team.remove", change.name, lambda keys: keys.remove_team(change.name))
            return
        quota = TeamQuota.model_validate(team.quota.model_dump())
        name = team.name
        change_keys(self.folder, self.state, "team.set", name, lambda keys: keys.set_team(name, team.models, quota))

    async def _make_record(self, js: JetStreamContext, change: Change, record: BaseModel | None) -> None:
        """Order a change of a record; raise CommandError if the record has changed since the change was planned."""
        kind, _ = AS_DATA[change.kind]
        entry = await bucket_of(js, kind).raw(change.name)
        before = entry[1] if entry is not None else None
        if (_as_data(change.kind, change.name, before) if before is not None else None) != change.before:
            raise CommandError(
                f"{change.kind} {change.name} was changed by another command meanwhile; run this one again"
            )
        await order_record(js, self.stack, kind, change.name, record=record, before=before)

    async def _make_keys(self, js: JetStreamContext, name: str, declared: DeclaredApiKey | None) -> None:
        """Order that every valid key of a name has its declared scope, or revoke all that a file can declare."""
        for key in await _valid_keys(js):
            if key.name == name and (declared is not None or is_declarable(key)):
                record = revoked(key) if declared is None else _rescoped(key, declared)
                if record != key:
                    valid = LONGEST_ORDER if declared is None else ORDER_AGE
                    await order_record(
                        js, self.stack, "api-key", key.key_id, record=record, before=dump(key), valid=valid
                    )


def plan(target: Installation, declared: Declarations, *, prune: bool = False) -> tuple[list[Change], list[Key]]:
    """Return the changes to the declared state, and the items that are not declared."""
    actual = asyncio.run(target.read(declared))
    kinds = declared.kinds if prune else ()
    return plan_changes(declared.as_data(), actual, prune=kinds), undeclared(declared.values, actual)


def make_all(target: Installation, declared: Declarations, changes: Sequence[Change]) -> None:
    """Make changes in their order; raise CommandError at the first that fails, with those that were made."""
    made: list[Change] = []
    try:
        for change in changes:
            if change.action != "issue":
                target.make(change, declared)
                made.append(change)
    except CommandError as error:
        names = ", ".join(f"{change.kind} {change.name}" for change in made) or "nothing"
        details = {**error.details, "changed": [as_data(change, declared) for change in made]}
        raise CommandError(f"{error}; changed before that: {names}", error.code, error.name, details) from error


def apply_one(target: Installation, value: AnyDeclared) -> None:
    """Apply one declared record, as `slipway apply` does for a file."""
    declared = Declarations({value.key: value})
    changes, _ = plan(target, declared)
    for change in changes:
        target.make(change, declared)


def as_data(change: Change, declared: Declarations) -> dict[str, Any]:
    """Return a change as JSON data."""
    place = declared.places.get((change.kind, change.name))
    differences = [{"field": each.field, "before": each.before, "after": each.after} for each in change.differences]
    where = {"file": place.file, "line": place.line} if place is not None else {"file": None, "line": None}
    return {"action": change.action, "kind": change.kind, "name": change.name, **where, "differences": differences}


def _as_data(kind: Kind, name: str, record: bytes) -> dict[str, Any]:
    """Return a record's data for comparison, or the reason why it is unreadable: others must still be compared."""
    named, compared = AS_DATA[kind]
    bucket, type_ = RECORDS[named]
    try:
        return compared(parse(type_, record, f"{bucket}/{name}"))
    except Transient as error:
        return {"unreadable": error.reason}


async def _valid_keys(js: JetStreamContext) -> list[ApiKey]:
    now = SystemClock().now()
    keys = [entry.value for entry in (await bucket_of(js, "api-key").all()).values()]
    valid = [key for key in keys if key.revoked_at is None and (key.expires_at is None or key.expires_at > now)]
    return sorted(valid, key=lambda key: (key.issued_at, key.key_id))


def _rescoped(record: ApiKey, declared: DeclaredApiKey) -> ApiKey:
    changed = {
        "models": declared.models,
        "team": declared.team,
        "environments": declared.environments,
        "limits": KeyLimits.model_validate(declared.limits.model_dump()),
        "expires_at": declared.expires_at,
    }
    if scope_data(record) == declared.as_data():
        return record
    return ApiKey.model_validate({**record.model_dump(), **changed})
