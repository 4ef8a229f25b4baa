"""The drills as this gateway knows them: in memory only, and each ends by itself even when the bus is away."""

import structlog

from contracts.drills import Drill, drill_key
from contracts.vocabulary import Environment
from services.gateway.domain import drills
from services.gateway.domain.drills import Known
from shared.runtime.clock import Clock


class DrillTable:
    """One drill per model and environment; a change is visible to the very next request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, Known] = {}

    def get(self, environment: Environment, model: str) -> Known | None:
        """Return the drill of a model, on or over."""
        return self._known.get(drill_key(environment, model))

    def under_way(self) -> list[Drill]:
        """List the drills that are on."""
        now, now_s = self._clock.now(), self._clock.monotonic()
        return [self._known[key].drill for key in sorted(self._known) if drills.is_on(self._known[key], now, now_s)]

    async def apply(self, key: str, drill: Drill, _revision: int) -> None:
        """Replace the drill of a key by the one from the bus; `Bucket.follow` tells the newest one last.

        Told again, a drill keeps the end that was noted first.
        """
        before = self._known.get(key)
        if before is not None and before.drill == drill:
            return
        log = structlog.get_logger().bind(key=key, drill=drill.drill_id, target=str(drill.target))
        if drills.is_misplaced(key, drill):
            log.error("drill ignored: it lies under a key that is not its own")
            return
        self._known[key] = known = drills.take_note(drill, self._clock.now(), self._clock.monotonic())
        on = drills.is_on(known, self._clock.now(), self._clock.monotonic())
        log.info(
            "drill on" if on else "drill over",
            fault=drill.fault.model_dump(exclude_defaults=True),
            share_ratio=drill.share_ratio,
            expires_at=drill.expires_at.isoformat(),
            actor=drill.actor,
            reason=drill.reason,
        )
