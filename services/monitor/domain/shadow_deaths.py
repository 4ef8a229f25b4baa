"""Deaths of a candidate's engine in its shadow: one counts once, whichever gateways and processes report it.

Each process of each gateway dates a death when it meets the dead engine, and counts one that stays dead again.
"""

from datetime import datetime, timedelta
from typing import Final

from contracts.facts import MirroredPair
from decisions.engine_deaths import KEPT, SAME, DeathLog, LoggedDeath, note_record
from decisions.triggers import ended_at

STILL_DEAD: Final = timedelta(seconds=60)
"""Time after which an engine that answered nothing since its death counts again, as in gateways."""


def note_shadow_pair(log: DeathLog, pair: MirroredPair) -> DeathLog | None:
    """Return the deaths of a candidate with a pair of its shadow; None if it reports a death that has counted."""
    mirrored = pair.mirrored
    if mirrored.error != "engine_dead" or mirrored.death is None:
        return note_record(log, mirrored)
    died_at, endpoint = min(mirrored.death.died_at, ended_at(mirrored)), mirrored.endpoint
    if any(death.endpoint == endpoint and _is_same(death, died_at) for death in log.deaths):
        return None
    fresh = LoggedDeath(at=died_at, endpoint=endpoint, is_open=True)
    return log.model_copy(update={"deaths": (*log.deaths, fresh)[-KEPT:]})


def _is_same(death: LoggedDeath, died_at: datetime) -> bool:
    """Return whether a report is of a death that is known: at about its time, or while the engine answered nothing."""
    apart = abs(died_at - death.at)
    answered = death.over_at is not None and died_at > death.over_at
    return apart < SAME or (apart < STILL_DEAD and not answered)
