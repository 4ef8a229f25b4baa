"""Verifies what production can be rolled back to, when it is armed: never while traffic is moved."""

from dataclasses import dataclass

import structlog

from contracts.vocabulary import Environment
from services.rollback_controller.domain import standby
from services.rollback_controller.ports import Proofs, Routes
from services.rollback_controller.states import RollbackStates
from shared.runtime.clock import Clock


@dataclass(frozen=True)
class StandbyProofs:
    """Keeps a verdict on the previous target of each model. A rollback does not read it, and waits for nothing here."""

    states: RollbackStates
    routes: Routes
    proofs: Proofs
    clock: Clock

    async def keys(self) -> list[tuple[Environment, str]]:
        """Return the records of production."""
        return [key for key in await self.states.keys() if key[0] == "production"]

    async def sweep(self, key: tuple[Environment, str]) -> None:
        """Assess the target behind the active one of a model, if there is no verdict on it by the present keys."""
        environment, model = key
        entry = await self.routes.get(environment, model)
        route = entry.value if entry is not None else None
        state = await self.states.read(environment, model)
        if route is None or route.previous is None:
            if state.standby is not None:
                await self.states.transact(environment, model, lambda state: standby.clear(state, self.clock.now()))
            return
        trust = await self.proofs.trust_digest()
        due = standby.is_due(state, route, trust)
        if due is None:
            return
        problem = await self.proofs.assess(due)
        structlog.get_logger().info(
            "target to roll back to assessed",
            model=model,
            target=str(due.target),
            code=problem.code if problem is not None else None,
        )
        await self.states.transact(
            environment, model, lambda state: standby.record_verdict(state, due, problem, trust, self.clock.now())
        )
