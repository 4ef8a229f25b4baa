"""An installation as files declare it: reads its policies, teams, API keys and mirrors, and makes changes."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nats.js import JetStreamContext

from clients.cli.audit_facts import ALL_MODELS, state_change
from clients.cli.commands.keys import change_keys
from clients.cli.connection import StackAddress, connected, sender_of
from clients.cli.declared import (
    AnyDeclared,
    Declarations,
    DeclaredApiKey,
    DeclaredMirror,
    DeclaredPolicy,
    DeclaredTeam,
    is_declarable,
    mirror_data,
    policy_data,
    scope_data,
    scopes_of,
    team_data,
)
from clients.cli.declared_state import Change, Key, Kind
from clients.cli.errors import CommandError
from clients.cli.key_folder import keys_of_folder
from contracts import mirrors
from contracts.api_keys import ApiKey, KeyLimits
from contracts.policy import ReleasePolicy
from contracts.teams import TeamQuota
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket, Conflict, Entry

KEYS = "api-keys"


@dataclass(frozen=True)
class Stored:
    """A kind that is one record in a bucket, under the name of what is declared."""

    bucket: str
    of: type[Any]
    as_data: Callable[[Any], dict[str, Any]]
    noun: str


RECORDS: Final[Mapping[Kind, Stored]] = {
    "Policy": Stored("policies", ReleasePolicy, policy_data, "policy"),
    "Mirror": Stored(mirrors.BUCKET, mirrors.Mirror, mirror_data, "mirror"),
}


@dataclass(frozen=True)
class Installation:
    """The installation of a stack, with the folder of keys that its teams are in."""

    stack: StackAddress
    state: Path | None
    folder: Path | None

    async def read(self, declared: Declarations) -> dict[Key, Mapping[str, Any]]:
        """Return what there is of the kinds that are declared."""
        actual: dict[Key, Mapping[str, Any]] = {}
        if "Team" in declared.kinds:
            actual |= {("Team", team.name): team_data(team) for team in keys_of_folder(self.folder, self.state).teams()}
        if not {"Policy", "ApiKey", "Mirror"} & declared.kinds:
            return actual
        async with connected(self.stack) as client:
            js = client.jetstream(timeout=10)
            for kind, stored in RECORDS.items():
                if kind in declared.kinds:
                    there = await Bucket(js, stored.bucket, stored.of).all()
                    actual |= {(kind, name): stored.as_data(entry.value) for name, entry in there.items()}
            if "ApiKey" in declared.kinds:
                actual |= scopes_of([entry.value for entry in await _valid_keys(js)], declared.as_data())
        return actual

    def make(self, change: Change, declared: Declarations) -> None:
        """Make a change, recorded in the audit log as the commands for one thing record it.

        Raises:
            CommandError: It is refused, or another command made one since it was planned.
        """
        value = declared.values.get((change.kind, change.name))
        if change.kind == "Team":
            self._make_team(change, value if isinstance(value, DeclaredTeam) else None)
        else:
            asyncio.run(self._make_on_bus(change, value))

    async def _make_on_bus(self, change: Change, value: AnyDeclared | None) -> None:
        async with connected(self.stack) as client:
            js = client.jetstream(timeout=10)
            try:
                if isinstance(value, DeclaredPolicy | DeclaredMirror) or change.kind in RECORDS:
                    declared = value if isinstance(value, DeclaredPolicy | DeclaredMirror) else None
                    await self._make_record(js, change, None if declared is None else declared.record())
                else:
                    await self._make_keys(js, change.name, value if isinstance(value, DeclaredApiKey) else None)
            except Conflict:
                raise CommandError(
                    f"{change.kind} {change.name} was changed by another command meanwhile; run this one again"
                ) from None

    def _make_team(self, change: Change, team: DeclaredTeam | None) -> None:
        if team is None:
            change_keys(self.folder, self.state, "team.remove", change.name, lambda keys: keys.remove_team(change.name))
            return
        quota = TeamQuota.model_validate(team.quota.model_dump())
        name = team.name
        change_keys(self.folder, self.state, "team.set", name, lambda keys: keys.set_team(name, team.models, quota))

    async def _make_record(self, js: JetStreamContext, change: Change, record: Any) -> None:
        """Store or remove a policy or mirror that is what the change was planned for; raise Conflict if it is not."""
        stored = RECORDS[change.kind]
        bucket, name = Bucket(js, stored.bucket, stored.of), change.name
        entry = await bucket.get(name)
        if (stored.as_data(entry.value) if entry is not None else None) != change.before:
            raise Conflict(f"{stored.noun} {name}")
        action = f"{stored.noun}.{'remove' if record is None else 'set'}"
        model = name if change.kind == "Policy" else ALL_MODELS
        await state_change(js, sender_of(self.stack), action, name, record=record, model=model)
        if record is None:
            if entry is not None:
                await bucket.remove(name, entry.revision)
        elif entry is None:
            await bucket.create(name, record)
        else:
            await bucket.update(name, record, entry.revision)

    async def _make_keys(self, js: JetStreamContext, name: str, declared: DeclaredApiKey | None) -> None:
        """Store every valid key of a name with its declared scope, or revoke all that a file can declare."""
        bucket = Bucket(js, KEYS, ApiKey)
        action = "api-key.revoke" if declared is None else "api-key.change"
        for entry in await _valid_keys(js):
            if entry.value.name != name or (declared is None and not is_declarable(entry.value)):
                continue
            record = _revoked(entry.value) if declared is None else _rescoped(entry.value, declared)
            if record == entry.value:
                continue
            about = {"name": name}
            await state_change(js, sender_of(self.stack), action, record.key_id, record=record, details=about)
            await bucket.update(record.key_id, record, entry.revision)


async def _valid_keys(js: JetStreamContext) -> list[Entry[ApiKey]]:
    now = SystemClock().now()
    entries = (await Bucket(js, KEYS, ApiKey).all()).values()
    valid = [
        entry
        for entry in entries
        if entry.value.revoked_at is None and (entry.value.expires_at is None or entry.value.expires_at > now)
    ]
    return sorted(valid, key=lambda entry: (entry.value.issued_at, entry.value.key_id))


def _revoked(record: ApiKey) -> ApiKey:
    return record.model_copy(update={"revoked_at": SystemClock().now()})


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
