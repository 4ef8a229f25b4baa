"""Rules of drills: when one is in progress."""

from datetime import datetime

from contracts.drills import LONGEST, Drill


def is_in_progress(drill: Drill, now: datetime) -> bool:
    """Return whether a drill is in progress; a wrong clock cannot make it last longer than `LONGEST`."""
    return drill.share_ratio > 0.0 and now < min(drill.expires_at, drill.starts_at + LONGEST)
