"""Deaths of an engine as evidence: only where they cannot be laid to callers with at most half of the requests.

A request can kill an engine, and its sender can change it each time. So one death shows nothing: if some holders of
keys have at most half of the requests, and at each death one of them had a request there, these may have killed it. The
failures of a dead engine's other callers are consequences of its death and count for nothing by themselves. One holder
that was there at all deaths explains them whatever its share: where it has most of the requests, our own probes decide
(`decisions.rollback`).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from pydantic import Field

from contracts.facts import DeathCounts, EngineDeath, Inference
from contracts.vocabulary import Contract
from decisions.triggers import CANCELLED, ended_at

KEPT: Final = 24
"""Deaths that are kept, the newest."""
KEPT_FOR: Final = timedelta(hours=1)
SAME: Final = timedelta(seconds=5)
"""Gateways report one death within this time of each other; their clocks differ by less."""
MOST_HOLDERS: Final = 256
"""Holders whose requests are counted each for itself; those of others, as of holders that come later, are counted
together, so that they weigh nothing where they are a cause, and count in all that shares are of."""
RECENT_REQUESTS: Final = 4096
"""Requests by which shares are estimated, of half as many at least: with more, all counts are halved."""
MOST_SHARE: Final = 0.5
DEVIATIONS: Final = 3.0
"""Standard deviations by which a share must be above the limit: callers with just half of the requests have more than
half of those that were counted every other time."""
MOST_BRANCHES: Final = 5_000
"""Combinations of holders that are looked at."""
_OTHERS: Final = ""
"""In place of a name: all holders whose requests are not counted each for itself."""


class LoggedDeath(Contract):
    """One death of an engine.

    Attributes:
        holders: Those that had requests there, by all gateways.
        is_open: More holders had requests there than are named, or none is known: any may be the cause.
        over_at: When the first request was sent that was answered there since; None while the engine is dead.
        elsewhere_at: When the first request was sent that another endpoint answered since; None while none has.
    """

    at: datetime
    endpoint: str
    holders: tuple[str, ...] = ()
    is_open: bool = False
    over_at: datetime | None = None
    elsewhere_at: datetime | None = None

    @property
    def is_served(self) -> bool:
        """Return whether the target answered since, there or at another endpoint."""
        return self.over_at is not None or self.elsewhere_at is not None


class DeathLog(Contract):
    """The deaths of a target's engine, and whose requests it has.

    Attributes:
        deaths: In the order of their time.
        requests: By holder, lately; without a name those of holders that are not counted each for itself.
        causes: Holders that may have caused all deaths, with the smallest share of the requests.
        share_ratio: That share, as of the newest death, less what chance may have added to it.
    """

    deaths: tuple[LoggedDeath, ...] = ()
    requests: dict[str, int] = Field(default_factory=dict)
    causes: tuple[str, ...] = ()
    share_ratio: float = 0.0

    @property
    def is_explained(self) -> bool:
        """Return whether callers may have caused all deaths, so that they are no evidence against the target."""
        return self.share_ratio <= MOST_SHARE or len(self.causes) == 1

    def has_most(self, holder: str) -> bool:
        """Return whether a holder has more than half of the requests that were counted."""
        return 2 * self.requests.get(holder, 0) > sum(self.requests.values())

    @property
    def counts(self) -> DeathCounts | None:
        """Return the counts for publication; None without a death."""
        if not self.deaths:
            return None
        since = [death.at for death in self.deaths if not death.is_served]
        return DeathCounts(
            deaths=len(self.deaths),
            holders=len(self.causes),
            explained=self.is_explained,
            suspect=find_suspect(_settled(self.deaths)),
            dead_since=max(since, default=None),
        )


def find_suspect(deaths: Sequence[frozenset[str]]) -> str | None:
    """Return the only holder that had a request at each of several deaths; None if there is none, or more than one."""
    if len(deaths) <= 1:
        return None
    present = frozenset.intersection(*deaths)
    return next(iter(present)) if len(present) == 1 else None


def recent(log: DeathLog, now: datetime) -> DeathLog:
    """Return the log without deaths that are older than `KEPT_FOR`: they say nothing of the present."""
    kept = tuple(death for death in log.deaths if now - death.at < KEPT_FOR)
    return log if len(kept) == len(log.deaths) else _with_deaths(log, kept)


def note_record(log: DeathLog, record: Inference) -> DeathLog:
    """Return the log with a request: whose it is, and what it shows of the engine."""
    if record.holder is None:
        return log
    log = log.model_copy(update={"requests": _counted(log.requests, record.holder)})
    if record.error == "engine_dead" and record.death is not None:
        return _with_death(log, record, _not_after(record.death, record))
    return _with_answer(log, record) if log.deaths and _is_answered(record) else log


def _not_after(death: EngineDeath, record: Inference) -> EngineDeath:
    """Return a death at the end of the request that names it at the latest: a clock that was ahead was set since."""
    ended = ended_at(record)
    return death if death.died_at - ended <= SAME else death.model_copy(update={"died_at": ended})


def _is_answered(record: Inference) -> bool:
    """Return whether the engine answered a request; one that its caller cancelled shows nothing of the engine."""
    ended = record.finish_reason is not None or record.ttft_ms is not None  # embeddings have no finish reason
    return record.error is None and ended and record.finish_reason != CANCELLED


def with_death(log: DeathLog, record: Inference) -> Inference:
    """Return a request that a dead engine failed with its death, if another gateway saw it and this one did not."""
    if record.error != "engine_dead" or record.death is not None or record.holder is None:
        return record
    at = next((death.at for death in log.deaths if death.endpoint == record.endpoint and death.over_at is None), None)
    return record if at is None else record.model_copy(update={"death": EngineDeath(died_at=at)})


def _counted(requests: Mapping[str, int], holder: str) -> dict[str, int]:
    total = sum(requests.values())
    if total >= RECENT_REQUESTS:
        halved = {name: count // 2 for name, count in requests.items() if count > 1 and name != _OTHERS}
        requests = {**halved, _OTHERS: total // 2 - sum(halved.values())}
    name = holder if holder in requests or len(requests.keys() - {_OTHERS}) < MOST_HOLDERS else _OTHERS
    return {**requests, name: requests.get(name, 0) + 1}


def _with_answer(log: DeathLog, record: Inference) -> DeathLog:
    """Return the log with each outage over that an answered request came after, by any gateway's clock.

    A target that is loaded elsewhere as well, or by now, is served again without an answer of the engine that died.
    """
    at = max(record.scheduled_at, record.sent_at)

    def after(death: LoggedDeath) -> LoggedDeath:
        if record.scheduled_at - death.at <= SAME:
            return death
        name = "over_at" if death.endpoint == record.endpoint else "elsewhere_at"
        return death.model_copy(update={name: at}) if getattr(death, name) is None else death

    deaths = tuple(after(death) for death in log.deaths)
    return log if deaths == log.deaths else _with_deaths(log, deaths)


def _with_death(log: DeathLog, record: Inference, seen: EngineDeath) -> DeathLog:
    """Return the log with a death; one that it has already takes the holders that another gateway names.

    A gateway that sent nothing while the engine was alive again names the last death that it saw: then another one,
    with requests of unknown holders, came before this record. One that never saw the engine alive names no holder.
    """
    endpoint, at = record.endpoint, record.scheduled_at
    there = [death for death in log.deaths if death.endpoint == endpoint]
    known = next((death for death in there if _is_same(death, seen.died_at)), None)
    if known is None:
        fresh = LoggedDeath(at=seen.died_at, endpoint=endpoint, holders=seen.holders, is_open=seen.others > 0)
        return _with_deaths(log, (*log.deaths, fresh))
    if all(death.over_at is not None and at - death.over_at > SAME for death in there):
        return _with_deaths(log, (*log.deaths, LoggedDeath(at=at, endpoint=endpoint, is_open=True)))
    if not seen.holders:
        return log
    holders = tuple(sorted({*known.holders, *seen.holders}))
    is_open = seen.others > 0 or (known.is_open and len(known.holders) > 0)
    if (set(holders), is_open) == (set(known.holders), known.is_open):
        return log
    merged = known.model_copy(update={"holders": holders, "is_open": is_open})
    return _with_deaths(log, tuple(merged if death is known else death for death in log.deaths))


def _with_deaths(log: DeathLog, deaths: Sequence[LoggedDeath]) -> DeathLog:
    """Return the log with other deaths, those within `KEPT_FOR` of the newest, and with what they show."""
    newest = max((death.at for death in deaths), default=None)
    kept = [death for death in deaths if newest is not None and newest - death.at < KEPT_FOR]
    kept = sorted(kept, key=lambda death: death.at)[-KEPT:]
    causes, share = find_causes(_settled(kept), log.requests)
    certain = _without_chance(share, log.requests) if causes else share
    return log.model_copy(update={"deaths": tuple(kept), "causes": causes, "share_ratio": certain})


def _settled(deaths: Iterable[LoggedDeath]) -> list[frozenset[str]]:
    """Return the holders at each death after which the target answered, without those of which not all are known.

    Gateways report a death one after the other, each with its own callers: the first report may lack the cause.
    """
    known = (death for death in deaths if not death.is_open and _OTHERS not in death.holders)
    return [frozenset(death.holders) for death in known if death.is_served]


def _without_chance(share: float, requests: Mapping[str, int]) -> float:
    """Return the least share that holders have whose share of the counted requests is this one."""
    deviation = 0.5 / math.sqrt(max(1, sum(requests.values())))  # at half of the requests, where it is decided
    return max(0.0, share - DEVIATIONS * deviation)


def _is_same(death: LoggedDeath, died_at: datetime) -> bool:
    """Return whether a death at an endpoint is one that is known: no request was answered there in between."""
    if died_at < death.at - SAME:
        return False
    return death.over_at is None or died_at <= max(death.over_at, death.at)


def find_causes(deaths: Sequence[frozenset[str]], requests: Mapping[str, int]) -> tuple[tuple[str, ...], float]:
    """Return the holders that may have caused all deaths, and their share of the requests, the smallest possible.

    One that was there at all of them comes first, whatever its share. A death at which no holder had a request has no
    cause among them: it is the engine's own, and the share is 1.
    """
    if not deaths:
        return (), 0.0
    if not all(deaths):
        return (), 1.0
    total = max(1, sum(requests.values()))
    present = frozenset.intersection(*deaths)
    if present:
        cause = min(present, key=lambda name: (requests.get(name, 0), name))
        return (cause,), min(1.0, requests.get(cause, 0) / total)
    cost, causes = _find_cheapest(deaths, requests)
    return causes, min(1.0, cost / total)


def _find_cheapest(deaths: Sequence[frozenset[str]], requests: Mapping[str, int]) -> tuple[int, tuple[str, ...]]:
    """Return the holders with the fewest requests of which one was at each death, after their requests.

    By branch and bound. Where there are too many combinations to look at all, no requests are returned: what is not
    shown to be the engine's own is no evidence against it.
    """
    best = _find_greedily(deaths, requests)
    open_branches: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    for _ in range(MOST_BRANCHES):
        if not open_branches:
            return best
        cost, causes = open_branches.pop()
        left = [death for death in deaths if death.isdisjoint(causes)]
        if not left:
            best = min(best, (cost, causes))
            continue
        death = min(left, key=len)
        for name in sorted(death, key=lambda name: (-requests.get(name, 0), name)):
            after = cost + requests.get(name, 0)
            if after < best[0]:
                open_branches.append((after, (*causes, name)))
    return 0, best[1]


def _find_greedily(deaths: Sequence[frozenset[str]], requests: Mapping[str, int]) -> tuple[int, tuple[str, ...]]:
    """Return holders of which one was at each death, after their requests: each time the one that costs least."""
    left, cost, causes = list(deaths), 0, list[str]()
    while left:
        there = Counter(name for death in left for name in death)
        name = min(there, key=lambda name: (requests.get(name, 0) / there[name], name))
        cost, left = cost + requests.get(name, 0), [death for death in left if name not in death]
        causes.append(name)
    return cost, tuple(causes)
