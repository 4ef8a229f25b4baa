"""Carries out slices of live traffic: gateways follow what is written here, and end each slice by themselves."""

from dataclasses import dataclass

from services.rollback_controller.domain import slices
from services.rollback_controller.domain.record import RollbackState
from services.rollback_controller.ports import Routes, Slices
from services.rollback_controller.states import RollbackStates
from shared.runtime.clock import Clock


@dataclass(frozen=True)
class Trials:
    """Writes the slice that a record has decided, and ends it: also after a crash, and after a change of the route."""

    states: RollbackStates
    routes: Routes
    slices: Slices
    clock: Clock

    async def follow(self, state: RollbackState) -> None:
        """Write the slice of a record for the gateways, unless it is written."""
        decided = slices.to_slice(state.trial) if state.trial is not None else None
        if decided is None:
            return
        known = await self.slices.get(state.model)
        if known == decided or (decided.share_ratio == 0.0 and (known is None or known.slice_id != decided.slice_id)):
            return
        await self.slices.put(decided)

    async def sweep(self, state: RollbackState) -> None:
        """End the slice of a record if it is over, and remove a trial that counts no more."""
        entry = await self.routes.get(state.environment, state.model)
        route, now = entry.value if entry is not None else None, self.clock.now()
        after = await self.states.transact(
            state.environment, state.model, lambda state: slices.end_due(state, route, now)
        )
        await self.follow(after)
        if slices.forget(after, route, now) is not after:
            await self.states.write(state.environment, state.model, lambda state: slices.forget(state, route, now))
