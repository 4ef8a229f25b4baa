"""Access to the controller's records: one per model and environment, in the bucket `rollbacks`."""

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
    """The records of all models; one write stores a decision with its facts, to be published from the outbox."""

    def __init__(self, store: RecordStore[RollbackState]) -> None:
        self._store = store

    async def transact(self, environment: Environment, model: str, decide: Decide) -> RollbackState:
        """Apply `decide`, write the record if it changed, publish its outbox; return the record.

        Raises:
            Transient: The bus does not answer. A written record stays; the next call or sweep publishes it.
        """
        empty = RollbackState(model=model, environment=environment)
        after = await self._store.transact(record_key(environment, model), lambda state: _changed(state, empty, decide))
        return after or empty

    async def write(
        self, environment: Environment, model: str, decide: Decide, known: Entry[RollbackState] | None = None
    ) -> RollbackState:
        """Apply `decide` and write the record without publishing; `known` saves a read if it is current."""
        key, empty = record_key(environment, model), RollbackState(model=model, environment=environment)
        return await self._store.write(key, lambda state: _changed(state, empty, decide), known) or empty

    async def publish(self, environment: Environment, model: str) -> RollbackState:
        """Publish a record's outbox; return the record."""
        return await self.transact(environment, model, lambda state: state)

    async def read(self, environment: Environment, model: str) -> RollbackState:
        """Return the current record; an empty record if none exists."""
        state = await self._store.read(record_key(environment, model))
        return state or RollbackState(model=model, environment=environment)

    async def get(self, environment: Environment, model: str) -> Entry[RollbackState] | None:
        """Return a record with its revision; None without one."""
        return await self._store.get(record_key(environment, model))

    async def keys(self) -> list[tuple[Environment, str]]:
        """Return environment and model of every record."""
        keys = map(parse_record_key, await self._store.keys())
        return [key for key in keys if key is not None]


@dataclass(frozen=True)
class KnownPolicies:
    """Restores the policies of routed versions in a lost record, from the signed policies of versions."""

    states: RollbackStates
    proofs: Proofs

    async def complete(self, environment: Environment, model: str, state: RollbackState, route: Route | None) -> None:
        """Record missing policies of the versions on a route; log unreadable ones."""
        for version in without_policy(route, state.triggers):
            signed = await self.proofs.policy(model, version)
            if isinstance(signed, str):
                structlog.get_logger().warning("policy cannot be read", model=model, version=version, reason=signed)
                continue
            structlog.get_logger().warning("policy read from what is signed", model=model, version=version)
            record = functools.partial(record_policy, version=version, policy=signed.policy, route=route)
            await self.states.write(environment, model, record)


def _changed(state: RollbackState | None, empty: RollbackState, decide: Decide) -> RollbackState | None:
    """Return the record after a decision; unchanged (perhaps None) if the decision changes nothing."""
    before = empty if state is None else state
    after = decide(before)
    return state if after is before else after
