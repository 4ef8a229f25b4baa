"""What must hold of the event log and of the answers after a soak: pure rules that return sentences."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from clients.cli.events.event_log import LoggedEvent
from contracts.facts import (
    CheckpointRejected,
    DeploymentChanged,
    ReleaseFinished,
    RollbackCompleted,
    RollbackFailed,
    RollbackStarted,
    VersionRegistered,
)
from testbed.soak import release_log
from testbed.soak.progress import Announced
from testbed.soak.releases import KINDS
from testbed.soak.traffic import Answer

SLACK = timedelta(seconds=30)
"""How long a gateway may go by an earlier route: the bus may be away when it changes."""


@dataclass
class Ends:
    """How the announced checkpoints ended.

    Attributes:
        counts: by outcome, with its code.
        problems: violations, as sentences.
        open: run ids of those that have not ended.
        unexpected: ends that the kind of the checkpoint does not have, as sentences.
    """

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def judge_ends(announced: Iterable[Announced], published: set[int], events: Sequence[LoggedEvent]) -> Ends:
    """Return how each announced checkpoint ended: exactly once, and in a way that its kind may end.

    Args:
        announced: The checkpoints.
        published: The numbers of those whose announcement was acknowledged.
        events: The event log.
    """
    ends = Ends()
    for each in announced:
        _judge_end(each, each.number in published, events, ends)
    return ends


def _judge_end(announced: Announced, was_published: bool, events: Sequence[LoggedEvent], ends: Ends) -> None:
    name = f"{announced.run_id} of {announced.model} ({announced.kind})"
    announcements = release_log.announcements_of(events, announced.run_id)
    if not announcements:
        if was_published:
            ends.problems.append(f"{name}: its announcement was acknowledged and is not in the log")
        return
    opened = release_log.releases_of(events, announced.run_id)
    outcomes = _outcomes(events, announcements, opened)
    if len(opened) > 1:
        ends.problems.append(f"{name}: {len(opened)} releases were opened for one announcement: {sorted(opened)}")
    if not outcomes:
        ends.open.append(announced.run_id)
        return
    if len(outcomes) > 1:
        ends.problems.append(f"{name}: it ended {len(outcomes)} times: {outcomes}")
    outcome, code, reason = outcomes[0]
    ends.counts[f"{outcome} ({code})" if code else outcome] += 1
    if outcome not in KINDS[announced.kind].ends:
        ends.unexpected.append(f"{name}: {outcome} ({code}): {reason}")


def _outcomes(
    events: Sequence[LoggedEvent], announcements: set[str], opened: set[str]
) -> list[tuple[str, str | None, str]]:
    """Return every end of a release, with its code and reason; also of a checkpoint that opened none."""
    facts = [(event.data, event.causationid) for event in _events(events)]
    outcomes = [
        (fact.outcome, fact.code, fact.reason)
        for fact, _ in facts
        if isinstance(fact, ReleaseFinished) and fact.release_id in opened
    ]
    return outcomes + [
        ("rejected", fact.code, fact.reason)
        for fact, cause in facts
        if isinstance(fact, CheckpointRejected) and cause in announcements and not opened
    ]


def _events(events: Sequence[LoggedEvent]):
    return [each.event for each in events]


def find_doubles(events: Sequence[LoggedEvent]) -> list[str]:
    """Return the events that are in the log twice under one id, and rollbacks and versions that are there twice.

    A rollback may fail and be completed afterwards: another replica had changed the route already.
    """
    ids = Counter((event.type, event.id) for event in _events(events))
    problems = [
        f"{kind} {identity} is in the log {count} times" for (kind, identity), count in ids.items() if count > 1
    ]
    rollbacks = Counter(
        event.data.rollback_id for event in _events(events) if isinstance(event.data, RollbackCompleted)
    )
    problems += [f"rollback {name} was completed {count} times" for name, count in rollbacks.items() if count > 1]
    versions = Counter(
        (event.subject, event.data.version) for event in _events(events) if isinstance(event.data, VersionRegistered)
    )
    return problems + [
        f"{model}@v{number} was registered {n} times" for (model, number), n in versions.items() if n > 1
    ]


def find_open_rollbacks(events: Sequence[LoggedEvent]) -> list[str]:
    """Return the rollbacks that were started and have no end."""
    ended = {
        event.data.rollback_id
        for event in _events(events)
        if isinstance(event.data, RollbackCompleted | RollbackFailed)
    }
    return [
        f"rollback {event.data.rollback_id} of {event.subject} was started at {event.time:%H:%M:%S} and has no end"
        for event in _events(events)
        if isinstance(event.data, RollbackStarted) and event.data.rollback_id not in ended
    ]


@dataclass(frozen=True)
class Served:
    """What a route allowed to answer for a model, from a time on."""

    since: datetime
    targets: frozenset[str]
    behind: frozenset[str]


def served_by_time(events: Sequence[LoggedEvent], model: str) -> list[Served]:
    """Return what the routes of a model allowed, in the order of their epochs."""
    changes = {
        event.data.route.epoch: event.data
        for event in _events(events)
        if isinstance(event.data, DeploymentChanged) and event.data.route.model == model
        if event.environment == "production"
    }
    periods = []
    for epoch in sorted(changes):
        route = changes[epoch].route
        allowed = {str(served.target) for served in route.in_traffic}
        behind = {str(route.previous.target)} if route.previous is not None else set()
        behind |= {str(route.active.target)} if route.active is not None else set()
        periods.append(Served(changes[epoch].at, frozenset(allowed), frozenset(behind)))
    return periods


def judge_answers(answers: Sequence[Answer], events: Sequence[LoggedEvent]) -> list[str]:
    """Return the answers that no route of their time allows, or that another version's engine gave."""
    periods = {model: served_by_time(events, model) for model in {each.model for each in answers}}
    problems = []
    for answer in answers:
        if answer.engine and answer.engine != answer.target:
            problems.append(f"{answer.sent_at:%H:%M:%S}: {answer.target} is named, and {answer.engine} answered")
        allowed = _allowed(periods[answer.model], answer)
        if answer.target not in allowed:
            problems.append(
                f"{answer.sent_at:%H:%M:%S}: {answer.target} answered; the routes of that time allow "
                f"{', '.join(sorted(allowed)) or 'nothing'}"
            )
    return problems


def _allowed(periods: Sequence[Served], answer: Answer) -> set[str]:
    allowed: set[str] = set()
    for period, after in zip(periods, [*periods[1:], None], strict=True):
        begun = period.since - SLACK <= answer.ended_at
        over = after is not None and after.since + SLACK < answer.sent_at
        if begun and not over:
            allowed |= period.targets | (period.behind if answer.rescued else frozenset())
    return allowed
