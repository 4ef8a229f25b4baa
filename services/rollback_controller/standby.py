"""Probes what production can be rolled back to."""

from dataclasses import dataclass
from typing import Final

from contracts.vocabulary import Environment
from decisions.rollback.rule import replicas_needed
from services.rollback_controller.ports import FreshProbe, Routes
from services.rollback_controller.states import RollbackStates

STANDBYS_EVERY_S: Final = 5.0
"""Seconds between two probes of the version to roll back to."""


@dataclass(frozen=True)
class StandbyProbes:
    """Asks the previous target of each model for a token, so that a rollback need not ask first."""

    states: RollbackStates
    routes: Routes
    probe: FreshProbe

    async def keys(self) -> list[tuple[Environment, str]]:
        """Return the records of production."""
        return [key for key in await self.states.keys() if key[0] == "production"]

    async def sweep(self, key: tuple[Environment, str]) -> None:
        """Ask the target behind the active one of a model for a token, on as many replicas as a rollback needs."""
        entry = await self.routes.get(*key)
        route = entry.value if entry is not None else None
        if route is None or route.previous is None:
            return
        needed = replicas_needed(route.active) if route.active is not None else 1
        if await self.probe.ask_now(route.previous, needed) is not None and needed > 1:
            await self.probe.ask_now(route.previous)
