"""What must hold of the event log, whatever failed: nothing is lost or twice, and what began ends."""

from collections import Counter
from typing import Any

Event = dict[str, Any]
ROLLBACK_ENDS = ("rollback.failed", "rollback.completed")


def kind_of(event: Event) -> str:
    """Return the type of an event without prefix and version: `release.finished`."""
    return str(event["type"]).removeprefix("slipway.").rpartition(".v")[0]


def of_kind(events: list[Event], *kinds: str) -> list[Event]:
    """Return the events of these kinds, in their order."""
    return [event for event in events if kind_of(event) in kinds]


def lost_or_moved(earlier: list[Event], now: list[Event]) -> list[str]:
    """Return what is wrong with a log that was read before as `earlier`: it may only have grown."""
    order = {event["id"]: number for number, event in enumerate(now)}
    wrong = [
        f"the event {event['id']} ({kind_of(event)}) was read, and is lost"
        for event in earlier
        if event["id"] not in order
    ]
    kept = [order[event["id"]] for event in earlier if event["id"] in order]
    return wrong + ([] if kept == sorted(kept) else ["events that were read have another order"])


def twice(events: list[Event]) -> list[str]:
    """Return the events that are stored more than once, and versions with more than one release."""
    ids = Counter(event["id"] for event in events)
    wrong = [f"the event {name} is stored {count} times" for name, count in ids.items() if count > 1]
    versions = Counter((event["subject"], event["data"]["version"]) for event in of_kind(events, "release.opened"))
    return wrong + [
        f"{model} has {count} releases of version {version}"
        for (model, version), count in versions.items()
        if count > 1
    ]


def unfinished(events: list[Event]) -> list[str]:
    """Return the releases and rollbacks that have no end, or one of a kind more than once.

    A rollback may fail and then be completed: another replica had moved the route, and that is what counts.
    """
    opened = [event["data"]["release_id"] for event in of_kind(events, "release.opened")]
    ends = Counter(event["data"]["release_id"] for event in of_kind(events, "release.finished"))
    wrong = [f"the release {name} has {ends[name]} ends" for name in opened if ends[name] != 1]
    over = {kind: Counter(event["data"]["rollback_id"] for event in of_kind(events, kind)) for kind in ROLLBACK_ENDS}
    for name in dict.fromkeys(event["data"]["rollback_id"] for event in of_kind(events, "rollback.started")):
        counts = {kind: over[kind][name] for kind in ROLLBACK_ENDS}
        if not any(counts.values()):
            wrong.append(f"the rollback {name} has no end")
        wrong += [f"the rollback {name} has {count} {kind}" for kind, count in counts.items() if count > 1]
    return wrong


def findings(earlier: list[Event], now: list[Event]) -> list[str]:
    """Return all that is wrong with a log in which nothing is under way."""
    return [*lost_or_moved(earlier, now), *twice(now), *unfinished(now)]
