"""Reads and changes the controller's records: one for each model and environment, in the bucket `rollbacks`."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from contracts.records import parse_record_key, record_key
from contracts.routes import Route
from contracts.vocabulary import Environment
from decisions.routes.versions import without_policy
from services.rollback_controller.domain.record import RollbackState, record_policy
from services.rollback_controller.ports import Proofs
from shared.messaging.records import RecordStore
from shared.storage.kv import Entry

Decide = Callable[[RollbackState], RollbackState]


class RollbackStates:
    """The records of all models. A decision is written with the facts that follow from it, which are then published."""

    def __init__(self, store: RecordStore[RollbackState]) -> None:
        self._store = store

    async def transact(self, environment: Environment, model: str, decide: Decide) -> RollbackState:
        """Decide, write the record if it changed, publish its outbox; return the record.

        Raises:
            Transient: The bus does not answer. What was written stands; the next call, or a sweep, publishes it.
        """
        empty = RollbackState(model=model, environment=environment)
        after = await self._store.transact(record_key(environment, model), lambda state: _changed(state, empty, decide))
        return after or empty

    async def write(
        self, environment: Environment, model: str, decide: Decide, known: Entry[RollbackState] | None = None
    ) -> RollbackState:
        """Decide and write the record, read again if `known` is not given or changed; `publish` publishes the rest."""
        key, empty = record_key(environment, model), RollbackState(model=model, environment=environment)
        return await self._store.write(key, lambda state: _changed(state, empty, decide), known) or empty

    async def publish(self, environment: Environment, model: str) -> RollbackState:
        """Publish what a record has in its outbox; return the record."""
        return await self.transact(environment, model, lambda state: state)

    async def read(self, environment: Environment, model: str) -> RollbackState:
        """Return the current record; an empty record if there is none."""
        state = await self._store.read(record_key(environment, model))
        return state or RollbackState(model=model, environment=environment)

    async def get(self, environment: Environment, model: str) -> Entry[RollbackState] | None:
        """Return a record with its revision; None if there is none."""
        return await self._store.get(record_key(environment, model))

    async def keys(self) -> list[tuple[Environment, str]]:
        """Return environment and model of every record."""
        keys = map(parse_record_key, await self._store.keys())
        return [key for key in keys if key is not None]


@dataclass(frozen=True)
class KnownPolicies:
    """The policies of routed versions: a record that was lost has them from what is signed with the versions."""

    states: RollbackStates
    proofs: Proofs

    async def complete(self, environment: Environment, model: str, state: RollbackState, route: Route | None) -> None:
        """Record the policies of the versions on a route that the record lacks; log why some cannot be read."""
        for version in without_policy(route, state.triggers):
            signed = await self.proofs.policy(model, version)
            if isinstance(signed, str):
                structlog.get_logger().warning("policy cannot be read", model=model, version=version, reason=signed)
                continue
            structlog.get_logger().warning("policy read from what is signed", model=model, version=version)
            record = functools.partial(record_policy, version=version, policy=signed.policy, route=route)
            await self.states.write(environment, model, record)


def _changed(state: RollbackState | None, empty: RollbackState, decide: Decide) -> RollbackState | None:
    """Return the record after a decision; None if there is none and the decision needs none."""
    before = empty if state is None else state
    after = decide(before)
    return state if after is before else after
