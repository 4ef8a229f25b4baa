"""Probes targets for a generated token, directly at their endpoints, and remembers recent answers."""

import asyncio
import math
from dataclasses import dataclass, field
from typing import Final

from contracts.routes import ServedTarget
from contracts.vocabulary import Environment
from decisions.rollback.rule import replicas_needed
from services.rollback_controller.ports import Probe, Routes
from services.rollback_controller.states import RollbackStates
from shared.errors import SlipwayError
from shared.runtime.clock import Clock
from shared.serving.channels import Channels
from shared.serving.inference import first_token

FRESH_S: Final = 10.0
"""Seconds for which a generated token proves that a target is ready."""
STANDBYS_EVERY_S: Final = 5.0
"""Seconds between probes of the previous target."""


class TritonProbe:
    """Probes a target's endpoints for a token (implements `ports.Probe`)."""

    def __init__(self, channels: Channels, *, deadline_s: float) -> None:
        # The import takes a third of a second.
        import tritonclient.grpc  # noqa: F401 - imported before the first probe, which it would delay

        self._channels = channels
        self._deadline_s = deadline_s

    async def answers(self, served: ServedTarget, least: int = 1) -> str | None:
        """Return None once `least` endpoints of a target generated a token within the deadline, else the failures."""
        asked = [asyncio.ensure_future(self._ask(endpoint, served)) for endpoint in served.endpoints]
        reasons, generating = list[str](), 0
        try:
            for done in asyncio.as_completed(asked):
                why = await done
                if why is not None:
                    reasons.append(why)
                    continue
                generating += 1
                if generating >= least:
                    return None
        finally:
            for attempt in asked:
                attempt.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return "; ".join(reasons)

    async def _ask(self, endpoint: str, served: ServedTarget) -> str | None:
        try:
            async with asyncio.timeout(self._deadline_s):
                await first_token(self._channels.get(endpoint), served.target.triton_name, deadline_s=self._deadline_s)
        except SlipwayError as error:
            return f"{endpoint}: {error.reason}"
        except TimeoutError:
            return f"{endpoint}: no token within {self._deadline_s:g} s"
        return None


@dataclass
class RememberedProbe:
    """A probe that remembers which targets generated within `FRESH_S` (implements `ports.RememberedProbe`)."""

    probe: Probe
    clock: Clock
    _answered: dict[str, tuple[float, int]] = field(default_factory=dict)
    """By target and endpoints: when it last generated, and on how many replicas at least."""

    async def answered(self, served: ServedTarget, least: int = 1) -> str | None:
        """Return None if a target generated on `least` replicas within `FRESH_S`, or does now; else why not."""
        last_s, replicas = self._answered.get(_name(served), (-math.inf, 0))
        if replicas >= least and self.clock.monotonic() - last_s < FRESH_S:
            return None
        return await self.answers(served, least)

    async def answers(self, served: ServedTarget, least: int = 1) -> str | None:
        """Return None if `least` replicas of a target generate a token now, else why not."""
        began_s = self.clock.monotonic()
        failure = await self.probe.answers(served, least)
        self._answered = {name: known for name, known in self._answered.items() if began_s - known[0] < FRESH_S}
        if failure is None:
            self._answered[_name(served)] = (began_s, least)
        else:
            self._answered.pop(_name(served), None)
        return failure


def _name(served: ServedTarget) -> str:
    return f"{served.target} {' '.join(served.endpoints)}"


@dataclass(frozen=True)
class StandbyProbes:
    """Probes the previous target of each model in advance, so that a rollback need not wait for a probe."""

    states: RollbackStates
    routes: Routes
    probe: RememberedProbe

    async def keys(self) -> list[tuple[Environment, str]]:
        """Return the keys of production records."""
        return [key for key in await self.states.keys() if key[0] == "production"]

    async def sweep(self, key: tuple[Environment, str]) -> None:
        """Probe a model's previous target, on as many replicas as a rollback needs."""
        entry = await self.routes.get(*key)
        route = entry.value if entry is not None else None
        if route is None or route.previous is None:
            return
        needed = replicas_needed(route.active) if route.active is not None else 1
        if await self.probe.answers(route.previous, needed) is not None and needed > 1:
            await self.probe.answers(route.previous)
