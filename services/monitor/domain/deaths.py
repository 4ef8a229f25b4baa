"""Finds a caller whose requests were there at each of several deaths of a target's engine."""

from datetime import datetime, timedelta

from decisions.alerts import Finding
from services.monitor.domain.record import TargetState

KEY = "engine-deaths"
QUIET = timedelta(minutes=10)
"""How long the engine must live until the alert is resolved."""


def find_suspect_caller(watched: TargetState, now: datetime) -> Finding:
    """Return whether one caller alone may be what ends the engine of a target, again and again."""
    log, counts = watched.deaths, watched.deaths.counts
    suspect = None if counts is None else counts.suspect
    recent = bool(log.deaths) and now - log.deaths[-1].at < QUIET
    message = (
        f"The engine of {watched.target} died {len(log.deaths)} times within the last hour, and of all callers only "
        f"{suspect} had requests there each time. Gateways refuse it for a while (`caller_refused`); nothing is rolled "
        "back because of these deaths."
    )
    return Finding(
        key=KEY,
        kind="engine",
        severity="warning",
        trigger=None,
        fired=suspect is not None and recent,
        calm=suspect is None or not recent,
        hold_s=0.0,
        message=message if suspect is not None else "No caller is suspected of ending the engine any more.",
        requests=len(log.deaths),
        deaths=counts,
    )
