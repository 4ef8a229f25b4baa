"""Keeps ready what production can be rolled back to: it generates, and it is proven."""

from dataclasses import dataclass, field
from typing import Final

import structlog

from contracts.golden import GoldenPrompt
from contracts.routes import ServedTarget
from contracts.vocabulary import Environment
from decisions.golden import GoldenReply
from services.rollback_controller.domain import standby
from services.rollback_controller.ports import Probe, Proofs, Routes
from services.rollback_controller.states import RollbackStates
from shared.runtime.clock import Clock

FRESH_S: Final = 10.0
"""How long a token that a target generated shows that it is ready."""


@dataclass
class RememberedProbe:
    """A probe that asks nothing while what a target generated last is fresh (implements `ports.Probe`)."""

    probe: Probe
    clock: Clock
    _answered_s: dict[str, float] = field(default_factory=dict)

    async def answers(self, served: ServedTarget) -> str | None:
        """Return None if a target generated a token within `FRESH_S`, or does now; else why it does not."""
        last_s = self._answered_s.get(_name(served))
        if last_s is not None and self.clock.monotonic() - last_s < FRESH_S:
            return None
        return await self.ask_now(served)

    async def ask_now(self, served: ServedTarget) -> str | None:
        """Return None if a target generates a token now, else why not: what it generated before counts no more."""
        began_s = self.clock.monotonic()
        failure = await self.probe.answers(served)
        if failure is None:
            self._remember(served, began_s)
        else:
            self._answered_s.pop(_name(served), None)
        return failure

    async def ask(self, served: ServedTarget, prompt: GoldenPrompt) -> GoldenReply | None:
        """Return the whole answer to a golden prompt, which shows that the target generates."""
        began_s = self.clock.monotonic()
        reply = await self.probe.ask(served, prompt)
        if reply is not None:
            self._remember(served, began_s)
        return reply

    def _remember(self, served: ServedTarget, began_s: float) -> None:
        """Remember when a target answered, and forget what is fresh no more."""
        fresh = {name: at_s for name, at_s in self._answered_s.items() if began_s - at_s < FRESH_S}
        self._answered_s = {**fresh, _name(served): began_s}


def _name(served: ServedTarget) -> str:
    return f"{served.target} {' '.join(served.endpoints)}"


@dataclass(frozen=True)
class StandbyProofs:
    """Asks the previous target of each model for a token, and keeps a verdict on whether it is what was attested."""

    states: RollbackStates
    routes: Routes
    proofs: Proofs
    probe: RememberedProbe
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
        await self.probe.ask_now(route.previous)
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
