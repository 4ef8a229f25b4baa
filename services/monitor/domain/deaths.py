"""Finds a caller whose requests were there at each of several deaths of a target's engine."""

from datetime import datetime, timedelta

from decisions.alerts import Finding
from decisions.engine_deaths import recent
from services.monitor.domain.record import TargetState

KEY = "engine-deaths"
QUIET = timedelta(minutes=10)
"""How long the engine must live until the alert is resolved."""


def find_suspect_caller(watched: TargetState, now: datetime) -> Finding:
    """Return whether one caller alone may be what ends the engine of a target, again and again."""
    log = recent(watched.deaths, now)
    counts = log.counts
    suspect = None if counts is None else counts.suspect
    lasts = bool(log.deaths) and now - log.deaths[-1].at < QUIET
    refusal = (
        "Gateways do not refuse it, because it has most of the requests: decide whether to revoke its key."
        if suspect is not None and log.has_most(suspect)
        else "Gateways refuse it for a while (`caller_refused`) after two deaths with its requests alone, or three."
    )
    message = (
        f"The engine of {watched.target} died {len(log.deaths)} times within the last hour, and of all callers only "
        f"{suspect} had requests there each time. {refusal} Nothing is rolled back because of these deaths."
    )
    return Finding(
        key=KEY,
        kind="engine",
        severity="warning",
        trigger=None,
        fired=suspect is not None and lasts,
        calm=suspect is None or not lasts,
        hold_s=0.0,
        message=message if suspect is not None else "No caller is suspected of ending the engine any more.",
        requests=len(log.deaths),
        deaths=counts,
    )
