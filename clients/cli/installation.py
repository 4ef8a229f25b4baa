"""The policies, teams, API keys, mirrors and attachments of an installation, read and changed for `slipway apply`."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nats.js import JetStreamContext
from pydantic import BaseModel

from clients.cli.commands.installation.keys import change_keys, keys_of_folder
from clients.cli.connection import StackAddress, on_bus
from clients.cli.declared import COMPARED, Declarations, Declared, DeclaredApiKey, is_declarable, scopes_of
from clients.cli.declared_state import Change, Key, Kind, plan_changes, undeclared
from clients.cli.errors import CommandError
from clients.cli.record_orders import bucket_of, order_record, revoked
from contracts.api_keys import ApiKey
from contracts.facts.ops import RECORDS, RecordKind
from contracts.teams import TeamQuota
from decisions.rollback.orders import LONGEST_ORDER, ORDER_AGE
from shared.errors import Transient
from shared.runtime.clock import SystemClock
from shared.storage.record_format import dump, parse

ON_BUS: Final[Mapping[Kind, RecordKind]] = {"Policy": "policy", "Mirror": "mirror", "Attachment": "attachment"}
"""Kinds with one record for each declaration: the kind in orders."""


@dataclass(frozen=True)
class Installation:
    """Reads and changes the items of an installation: teams in its folder of keys, other items on the bus."""

    stack: StackAddress
    state: Path | None
    folder: Path | None

    async def read(self, declared: Declarations) -> dict[Key, Mapping[str, Any]]:
        """Return the installation's items of the declared kinds."""
        actual: dict[Key, Mapping[str, Any]] = {}
        if "Team" in declared.kinds:
            teams = keys_of_folder(self.folder, self.state).teams()
            actual |= {("Team", team.name): COMPARED["Team"](team) for team in teams}
        if not declared.kinds - {"Team"}:
            return actual
        async with on_bus(self.stack) as js:
            for kind in declared.kinds & ON_BUS.keys():
                bucket = bucket_of(js, ON_BUS[kind])
                there = {name: await bucket.raw(name) for name in await bucket.keys()}
                actual |= {
                    (kind, name): _as_data(kind, name, each[1]) for name, each in there.items() if each is not None
                }
            if "ApiKey" in declared.kinds:
                actual |= scopes_of(await _valid_keys(js), declared.as_data())
        return actual

    def make(self, change: Change, declared: Declarations) -> None:
        """Make a change, with a record in the audit log.

        Raises:
            CommandError: The change is refused, or another command changed the item since the plan.
        """
        value = declared.values.get((change.kind, change.name))
        record = None if value is None else value.record()
        if change.kind == "Team":
            self._make_team(change.name, record)
        else:
            asyncio.run(self._make_on_bus(change, record))

    async def _make_on_bus(self, change: Change, record: Any) -> None:
        async with on_bus(self.stack) as js:
            if change.kind in ON_BUS:
                await self._make_record(js, change, record)
            else:
                await self._make_keys(js, change.name, record)

    def _make_team(self, name: str, team: Any) -> None:
        if team is None:
            change_keys(self.folder, self.state, "team.remove", name, lambda keys: keys.remove_team(name))
            return
        quota = TeamQuota.model_validate(team.quota.model_dump())
        change_keys(self.folder, self.state, "team.set", name, lambda keys: keys.set_team(name, team.models, quota))

    async def _make_record(self, js: JetStreamContext, change: Change, record: BaseModel | None) -> None:
        """Order a change of a record; raise CommandError if the record has changed since the plan."""
        kind = ON_BUS[change.kind]
        entry = await bucket_of(js, kind).raw(change.name)
        before = entry[1] if entry is not None else None
        if (_as_data(change.kind, change.name, before) if before is not None else None) != change.before:
            raise CommandError(
                f"{change.kind} {change.name} was changed by another command meanwhile; run this one again"
            )
        await order_record(js, self.stack, kind, change.name, record=record, before=before)

    async def _make_keys(self, js: JetStreamContext, name: str, declared: DeclaredApiKey | None) -> None:
        """Order the declared scope for each valid key of a name; without a declaration, revoke the declarable keys."""
        for key in await _valid_keys(js):
            if key.name == name and (declared is not None or is_declarable(key)):
                record = revoked(key) if declared is None else _rescoped(key, declared)
                if record != key:
                    valid = LONGEST_ORDER if declared is None else ORDER_AGE
                    await order_record(
                        js, self.stack, "api-key", key.key_id, record=record, before=dump(key), valid=valid
                    )


def plan(target: Installation, declared: Declarations, *, prune: bool = False) -> tuple[list[Change], list[Key]]:
    """Return the changes to the declared state, and the undeclared items."""
    actual = asyncio.run(target.read(declared))
    kinds = declared.kinds if prune else ()
    return plan_changes(declared.as_data(), actual, prune=kinds), undeclared(declared.values, actual)


def make_all(target: Installation, declared: Declarations, changes: Sequence[Change]) -> None:
    """Make changes in their order; the CommandError of a failed change lists the changes before it."""
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


def apply_one(target: Installation, value: Declared) -> None:
    """Apply one declaration, as `slipway apply` does."""
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
    """Return a record's data for comparison, or the reason why the record is unreadable."""
    bucket, type_ = RECORDS[ON_BUS[kind]]
    try:
        return COMPARED[kind](parse(type_, record, f"{bucket}/{name}"))
    except Transient as error:
        return {"unreadable": error.reason}


async def _valid_keys(js: JetStreamContext) -> list[ApiKey]:
    now = SystemClock().now()
    keys = [entry.value for entry in (await bucket_of(js, "api-key").all()).values()]
    valid = [key for key in keys if key.revoked_at is None and (key.expires_at is None or key.expires_at > now)]
    return sorted(valid, key=lambda key: (key.issued_at, key.key_id))


def _rescoped(record: ApiKey, declared: DeclaredApiKey) -> ApiKey:
    """Return a key with its declared scope; the key itself if it has that already."""
    if COMPARED["ApiKey"](record) == COMPARED["ApiKey"](declared):
        return record
    return ApiKey.model_validate({**record.model_dump(), **declared.model_dump(exclude={"kind", "name"})})
