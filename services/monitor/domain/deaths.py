"""Finds request bodies that were in flight when engines of several targets died: they kill every version. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from contracts.facts import Inference
from decisions.evidence.alerts import Finding
from decisions.evidence.triggers import ended_at

KEY: Final = "kills-every-version"
KEPT_FOR: Final = timedelta(minutes=10)
"""How long a death counts, as for bans at gateways (`body_refused`)."""
_MOST: Final = 256
Deaths = Mapping[str, Mapping[str, datetime]]
"""By body digest and target: when the target's engine died with the body in flight."""


def note_deaths(deaths: Deaths, records: Iterable[Inference]) -> Deaths:
    """Return the deaths including those reported by `records`; old ones are dropped."""
    died = [record for record in records if record.engine_died == "meanwhile" and record.body is not None]
    if not died:
        return deaths
    oldest = max(map(ended_at, died)) - KEPT_FOR
    after = {body: dict(targets) for body, targets in deaths.items() if max(targets.values()) > oldest}
    for record in died:
        after.setdefault(str(record.body), {})[str(record.target)] = ended_at(record)
    return dict(sorted(after.items(), key=lambda entry: max(entry[1].values()))[-_MOST:])


def find_killers(deaths: Deaths, now: datetime) -> Finding:
    """Return the finding on bodies that were in flight at recent deaths of two or more targets."""
    lately = {
        body: [target for target, at in targets.items() if now - at < KEPT_FOR] for body, targets in deaths.items()
    }
    killers = {body: targets for body, targets in lately.items() if len(targets) > 1}
    if not killers:
        message = "No request has killed engines of two versions within ten minutes."
    else:
        names = ", ".join(sorted({target for targets in killers.values() for target in targets}))
        message = (
            f"{len(killers)} request bodies ({', '.join(sorted(killers)[:5])}) were in flight when engines of {names} "
            f"died: at least one kills every version. Gateways refuse each for ten minutes (`body_refused`); find who "
            "sends them. A rollback does not help."
        )
    return Finding(
        key=KEY,
        kind="engine",
        severity="critical",
        trigger=None,
        fired=bool(killers),
        calm=not killers,
        hold_s=0.0,
        message=message,
        requests=len(killers),
    )
