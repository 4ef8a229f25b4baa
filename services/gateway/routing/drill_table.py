"""The drills as this gateway knows them: in memory only; each ends by itself, also without the bus."""

import structlog

from contracts.drills import Drill
from contracts.records import record_key
from contracts.vocabulary import Environment
from services.gateway.domain import drills
from services.gateway.domain.drills import KnownDrill
from shared.runtime.clock import Clock


class DrillTable:
    """One drill per model and environment; a change applies to the next request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, KnownDrill] = {}

    def get(self, environment: Environment, model: str) -> KnownDrill | None:
        """Return the drill of a model, active or not; None if there is none."""
        return self._known.get(record_key(environment, model))

    def active(self) -> list[Drill]:
        """Return the active drills."""
        now, now_s = self._clock.now(), self._clock.monotonic()
        return [self._known[key].drill for key in sorted(self._known) if drills.is_active(self._known[key], now, now_s)]

    async def apply(self, key: str, drill: Drill, _revision: int) -> None:
        """Replace the drill of a key by the one from the bus; `Bucket.follow` passes the newest one last.

        A drill that is passed again keeps its first end.
        """
        known = self._known.get(key)
        if known is not None and known.drill == drill:
            return
        log = structlog.get_logger().bind(key=key, drill=drill.drill_id, target=str(drill.target))
        if drills.has_wrong_key(key, drill):
            log.error("drill ignored: it is stored under the key of another model or environment")
            return
        self._known[key] = known = drills.note_drill(drill, self._clock.now(), self._clock.monotonic())
        active = drills.is_active(known, self._clock.now(), self._clock.monotonic())
        log.info(
            "drill started" if active else "drill ended",
            fault=drill.fault.model_dump(exclude_defaults=True),
            share_ratio=drill.share_ratio,
            expires_at=drill.expires_at.isoformat(),
            actor=drill.actor,
            reason=drill.reason,
        )
