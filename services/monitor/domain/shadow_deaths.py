"""Deaths of a candidate's engine in its shadow: one counts once, whichever gateways report it."""

from datetime import timedelta
from typing import Final

from contracts.facts import MirroredPair
from decisions.evidence.triggers import ended_at
from services.monitor.domain.record import ShadowDeath

STILL_DEAD: Final = timedelta(seconds=60)
"""Time after which an engine that answered nothing since its death counts again."""
_KEPT: Final = 24


def note_shadow_pair(deaths: tuple[ShadowDeath, ...], pair: MirroredPair) -> tuple[ShadowDeath, ...] | None:
    """Return the deaths of a candidate with a pair of its shadow; None if it reports a death that has counted."""
    mirrored, at = pair.mirrored, ended_at(pair.mirrored)
    last = next((death for death in reversed(deaths) if death.endpoint == mirrored.endpoint), None)
    if not mirrored.engine_died:
        if mirrored.error is not None or last is None or last.over_at is not None or mirrored.scheduled_at < last.at:
            return deaths
        return tuple(death.model_copy(update={"over_at": at}) if death is last else death for death in deaths)
    if last is not None and at - last.at < STILL_DEAD and (last.over_at is None or at < last.over_at):
        return None
    return (*deaths, ShadowDeath(at=at, endpoint=mirrored.endpoint))[-_KEPT:]
