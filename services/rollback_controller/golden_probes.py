"""Asks the golden prompts of each model at the rhythm that its policy declares, past all gateways."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

import structlog

from contracts.facts import GoldenOutcome
from contracts.golden import GoldenPrompts
from contracts.routes import ServedTarget
from contracts.vocabulary import Environment
from decisions.evidence.golden import CHECK_S, QUEUED_MS, GoldenReply, judge_answers, may_defer
from services.rollback_controller.domain import golden
from services.rollback_controller.domain.record import RollbackState
from services.rollback_controller.ports import Probe, Routes
from services.rollback_controller.states import RollbackStates
from shared.runtime.clock import Clock

GOLDEN_EVERY_S = 5.0
"""Seconds between two looks at whether golden prompts are due."""


@dataclass(frozen=True)
class GoldenProbes:
    """Keeps what golden prompts show of each model in its record. They count for no caller, limit or trigger.

    Of several processes one asks: a check begins by a compare-and-set.
    """

    states: RollbackStates
    routes: Routes
    probe: Probe
    clock: Clock

    async def keys(self) -> list[tuple[Environment, str]]:
        """Return the records of production."""
        return [key for key in await self.states.keys() if key[0] == "production"]

    async def sweep(self, key: tuple[Environment, str]) -> None:
        """Ask the golden prompts of a model, if they are due."""
        environment, model = key
        state = await self.states.read(environment, model)
        if not state.golden:
            return
        entry = await self.routes.get(environment, model)
        due = golden.due_check(state, entry.value if entry is not None else None, self.clock.now())
        if due is not None:
            await self._check(environment, model, *due)

    async def _check(
        self,
        environment: Environment,
        model: str,
        declared: GoldenPrompts,
        active: ServedTarget,
        previous: ServedTarget | None,
    ) -> None:
        begun_at, behind = self.clock.now(), previous.target if previous is not None else None
        began = False

        def begin(state: RollbackState) -> RollbackState:
            nonlocal began
            after = golden.begin_check(state, declared, active.target, behind, begun_at)
            began = after is not state
            return after

        state = await self.states.write(environment, model, begin)
        if not began or state.checks is None:
            return
        outcomes = await self._ask_all(declared, active, previous, may_defer=may_defer(state.checks))
        await self._end(environment, model, declared, begun_at, outcomes)

    async def _end(
        self,
        environment: Environment,
        model: str,
        declared: GoldenPrompts,
        begun_at: datetime,
        outcomes: list[GoldenOutcome] | None,
    ) -> None:
        now = self.clock.now()
        after = await self.states.transact(
            environment, model, lambda state: golden.end_check(state, declared, begun_at, outcomes, now)
        )
        structlog.get_logger().info(
            "golden prompts asked" if outcomes is not None else "golden prompts left out: an engine has a queue",
            model=model,
            fallen=after.checks.fallen if after.checks is not None else (),
        )

    async def _ask_all(
        self, declared: GoldenPrompts, active: ServedTarget, previous: ServedTarget | None, *, may_defer: bool
    ) -> list[GoldenOutcome] | None:
        """Return what each prompt shows, one after the other; None if an engine has requests in its queue.

        Prompts that there is no time for have no answer.
        """
        outcomes = [GoldenOutcome(name=prompt.name) for prompt in declared.prompts]
        try:
            async with asyncio.timeout(CHECK_S):
                for number, prompt in enumerate(declared.prompts):
                    replies = await asyncio.gather(
                        *(self.probe.ask(side, prompt) for side in (active, previous) if side is not None)
                    )
                    if may_defer and any(_has_queue(reply) for reply in replies):
                        return None
                    target, other = (*replies, None)[:2]
                    outcomes[number] = judge_answers(prompt, target, other)
        except TimeoutError:
            structlog.get_logger().warning("golden prompts took too long", target=str(active.target), limit_s=CHECK_S)
        return outcomes


def _has_queue(reply: GoldenReply | None) -> bool:
    return reply is not None and reply.queue_ms > QUEUED_MS
