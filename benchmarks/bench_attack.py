"""Callers who want a healthy version rolled back, and versions that should be: the rule before pairs, and the new one.

Simulated requests, three per second, go through the monitor's own domain and the rollback-controller's own decision.
Twenty honest callers share the traffic unevenly. For a minute 1, 5 or 50 hostile keys have 5 %, 20 % or 50 % of it:

- errors: requests that every version fails; a cross-check finds the caller;
- long prompts: the first token takes 2 s more, on every version;
- slow reading: the gateway takes times when the engine delivers;
- forced output: answers that do not end before the token limit;
- deaths: each tenth, with another body each time, kills the engine with all that it has in flight; it is back after
  10 s, and meanwhile all requests fail;
- one prompt: only the active version answers it up to the token limit; half of the requests are pairs;
- failing prompt: only the active version fails it, as a cross-check shows.

Several keys are of one team, or each on its own. The versions that should go fail one prompt in ten, are slow by
800 ms or 4 s, slow the whole machine by 800 ms, die of one prompt in ten, or for good, for every sender. Before: an
alert of an automatic trigger rolls back. Now: it needs a confirmation by pairs (2 %), callers, or probes, which take as
long as the slower version's answer, and are asked as soon as requests look slow. Run: python -m benchmarks.bench_attack
or some rows of its tables with --only "one prompt" slow: each row has seeds of its own, so that the figures are the
same. --late asks probes with the alert only, as before they were asked early.
"""

import argparse
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from benchmarks.parts import quantile, show_table
from contracts.facts import AlertRaised, AlertUpdated, EngineDeath, Inference, MirroredPair
from contracts.facts.watch import Features
from contracts.policy import Canary, Trigger
from contracts.records import OutboxEntry
from contracts.vocabulary import Target
from decisions.attribution import COMPARED
from decisions.probed import ProbedAnswer, Shown, can_probe, decide_shown, enough_s, is_gone, judge
from decisions.rollback import Doubt, RollBack, can_hold, decide_confirmed, decide_rollback
from decisions.suspicion import FRESH_S, Asked, can_suspect, may_ask, note_newest, suspicion
from decisions.triggers import observe
from services.monitor.domain import monitoring
from services.monitor.domain.monitoring import Cause, Rules
from services.monitor.domain.record import MonitorState
from services.rollback_controller.domain.doubt import note_shown
from services.rollback_controller.domain.record import RollbackState
from services.rollback_controller.early_probes import SWEEP_S
from testbed import factories as k

RATE_RPS, ATTACK_S, CHANGE_S, WATCHED_S, BATCH_S = 3.0, 60.0, 20.0, 720.0, 0.25
HONEST, KEYS, SHARES, RUNS = 20, (1, 5, 50), (0.05, 0.2, 0.5), 10
PAIR_RATIO, MOST_PAIRS, DEAD_S = 0.02, 0.5, 10.0
BEGAN = datetime(2026, 11, 24, tzinfo=UTC)
TRIGGERS = (
    Trigger(name="slow", metric="ttft_ms", threshold=800.0, allowed_ratio=0.05),
    Trigger(name="errors", metric="error_ratio", threshold=0.02),
    Trigger(name="cut-off", metric="cut_off_ratio", threshold=0.05),
    Trigger(name="tokens", metric="output_tokens", threshold=1000.0, allowed_ratio=0.05),
)
Attack = Literal["errors", "long prompts", "slow reading", "forced output", "deaths", "one prompt", "failing prompt"]
ATTACKS: tuple[Attack, ...] = get_args(Attack)
Regression = Literal[
    "fails one prompt in ten",
    "slow",
    "slow by 4 s",
    "hogs the machine",
    "dies of one prompt in ten",
    "dies for good",
]
REGRESSIONS: tuple[Regression, ...] = get_args(Regression)
NEW, OLD = k.target(7), k.target(6)


@dataclass(frozen=True)
class Traffic:
    """What is sent, and to which version; `one_team`: the hostile keys are of one team."""

    seed: int
    attack: Attack | None = None
    keys: int = 0
    share: float = 0.0
    regression: Regression | None = None
    one_team: bool = False

    @property
    def dies_for_good(self) -> bool:
        """Return whether the new version dies and is not loaded again."""
        return self.regression == "dies for good"


@dataclass(frozen=True)
class Sent:
    """A request, before any version answers it."""

    number: int
    at_s: float
    caller: str
    hostile: bool
    noise_ms: float
    odd: bool


def requests(traffic: Traffic, until_s: float) -> Iterator[Sent]:
    """Yield requests in the order of their arrival."""
    draw, at_s, number = random.Random(f"{replace(traffic, one_team=False)}"), 0.0, 0
    weights = [1.0 / (1 + index) for index in range(HONEST)]
    while (at_s := at_s + draw.expovariate(RATE_RPS)) < until_s:
        hostile = draw.random() < traffic.share
        caller = f"bad-{draw.randrange(traffic.keys)}" if hostile else f"good-{draw.choices(range(HONEST), weights)[0]}"
        number += 1
        yield Sent(number, at_s, caller, hostile, draw.lognormvariate(math.log(130.0), 0.6), draw.random() < 0.1)


def answer(traffic: Traffic, sent: Sent, target: Target, dead_until_s: float) -> Inference:
    """Return how a version answers a request."""
    attack = traffic.attack if sent.hostile else None
    changed = sent.at_s >= CHANGE_S and traffic.regression is not None
    is_new = target == NEW
    ttft_ms = sent.noise_ms + (2000.0 if attack == "long prompts" else 0.0)
    if changed and (traffic.regression == "hogs the machine" or (traffic.regression == "slow" and is_new)):
        ttft_ms += 800.0
    if changed and traffic.regression == "slow by 4 s" and is_new:
        ttft_ms += 4000.0
    fails = changed and traffic.regression == "fails one prompt in ten" and is_new and sent.odd
    fails = fails or (attack == "failing prompt" and is_new)
    dead = is_new and sent.at_s < dead_until_s
    error = "engine_dead" if dead else "engine_failed" if fails or attack == "errors" else None
    forced = attack == "forced output" or (attack == "one prompt" and is_new)
    at = BEGAN + timedelta(seconds=sent.at_s)
    return k.inference(
        request_id=str(sent.number),
        target=target,
        scheduled_at=at,
        sent_at=at,
        ttft_ms=None if error else ttft_ms,
        e2e_ms=(20.0 if error else ttft_ms + (3000.0 if forced else 300.0)),
        output_tokens=0 if error else 2000 if forced else 24,
        finish_reason=None if error else "length" if forced else "stop",
        error=error,
        caused_by=None if error is None else "caller" if attack == "errors" else "target",
        caller=sent.caller,
        holder="bad" if sent.hostile and traffic.one_team else sent.caller,
        canary=False,
        drill=None,
        features=None if error else Features(prompt_chars=40, output_chars=90),
    )


def pair_of(traffic: Traffic, sent: Sent, served: Inference) -> MirroredPair | None:
    """Return the pair of a drawn request; None for one that is not drawn, or under which the engine died."""
    ratio = MOST_PAIRS if traffic.attack == "one prompt" else PAIR_RATIO
    if random.Random(f"pair {traffic} {sent.number}").random() >= ratio or served.error == "engine_dead":
        return None
    again = [answer(traffic, replace(sent, noise_ms=sent.noise_ms * 0.9), target, 0.0) for target in (NEW, OLD)]
    sides = [side.model_copy(update={"caused_by": "target"}) if side.error in COMPARED else side for side in again]
    return MirroredPair(served=sides[0], mirrored=sides[1])


def watched() -> MonitorState:
    """Return the monitor's record with version 7 active."""
    state = MonitorState(model=k.MODEL, environment="production")
    policy = k.policy(triggers=TRIGGERS, canary=Canary())
    for version in (6, 7):
        state = monitoring.add_policy(state, version, f"r-{version}", policy, Cause(f"p-{version}", BEGAN))
    route = k.route(active=k.served(7), previous=k.served(6), canary=None, history=(), quarantined=())
    return monitoring.follow_route(state, route, Cause("route", BEGAN), Rules())


def probe(traffic: Traffic, at_s: float, target: Target, dead_until_s: float) -> ProbedAnswer | None:
    """Return what a probe of a version measures: no caller chose it."""
    sent = Sent(0, at_s, "", hostile=False, noise_ms=60.0, odd=False)
    record = answer(traffic, sent, target, dead_until_s)
    return None if record.ttft_ms is None else ProbedAnswer(record.ttft_ms, 10.0)


Sides = tuple[ProbedAnswer | None, ProbedAnswer | None]


@dataclass
class EarlyProbes:
    """What the rollback-controller asks as soon as requests look slow, as its class of this name does."""

    newest: dict[str, tuple[bool, ...]] = field(default_factory=dict)
    asked: Asked | None = None
    began_s: float = -math.inf
    ended_s: float = -math.inf
    sides: Sides = (None, None)

    def note(self, records: Sequence[Inference], traffic: Traffic, at_s: float, dead_until_s: float) -> None:
        """Note telemetry, and ask both versions if it looks slow."""
        for trigger in filter(can_suspect, TRIGGERS):
            seen = [bad for record in records if (bad := observe(trigger, record, TRIGGERS)) is not None]
            self.newest[trigger.name] = note_newest(self.newest.get(trigger.name, ()), seen)
            log_e = suspicion(trigger, self.newest[trigger.name]) if any(seen) else 0.0
            if not may_ask(log_e, self.asked, at_s):
                continue
            self.asked, begins_s = Asked(at_s, log_e), max(at_s + SWEEP_S, self.ended_s)
            if begins_s - self.began_s >= FRESH_S or not self.shows(trigger):
                self.sides = ask(traffic, begins_s, dead_until_s)
                self.began_s, self.ended_s = begins_s, begins_s + longest_s(self.sides, trigger)

    def shows(self, trigger: Trigger) -> bool:
        """Return whether slow answers show the version, or both."""
        return not is_gone([self.sides[0]] * 2) and show(trigger, self.sides) in ("target", "both")


def ask(traffic: Traffic, at_s: float, dead_until_s: float) -> Sides:
    """Return what probes of both versions answer."""
    return probe(traffic, at_s, NEW, dead_until_s), probe(traffic, at_s, OLD, dead_until_s)


def show(trigger: Trigger, sides: Sides) -> Shown | None:
    """Return what probes of both versions show: all rounds are alike."""
    return decide_shown([judge(trigger, *sides)] * 2)


def longest_s(sides: Sides, trigger: Trigger) -> float:
    """Return how long the slower one is waited for."""
    longest = max(0.0 if side is None else side.ttft_ms / 1000.0 for side in sides)
    return min(longest, enough_s(trigger) or longest)


def is_rolled_back(
    alert: AlertRaised | AlertUpdated,
    traffic: Traffic,
    at_s: float,
    dead_until_s: float,
    *,
    confirms: bool,
    record: RollbackState,
    early: EarlyProbes,
) -> tuple[float | None, RollbackState]:
    """Return when traffic moves because of an alert, in seconds, or None, and the rollback-controller's record."""
    trigger = next((known for known in TRIGGERS if known.name == alert.trigger), None)
    now, shown, moves_s, gone = BEGAN + timedelta(seconds=at_s), None, at_s, False
    decision = decide_rollback(trigger, (), now)
    doubt = Doubt(alert.confirmed_by, raised_at=alert.raised_at, deaths=alert.deaths)
    if confirms and trigger is not None:
        if can_hold(alert.confirmed_by, trigger) and can_probe(trigger):
            is_early = (
                0.0 <= at_s - early.began_s <= FRESH_S and isinstance(alert, AlertRaised) and early.shows(trigger)
            )
            sides = early.sides if is_early else ask(traffic, at_s, dead_until_s)
            shown, gone = show(trigger, sides), is_gone([sides[0]] * 2)
            moves_s = max(at_s, early.ended_s) if is_early else at_s + longest_s(sides, trigger)
        record = note_shown(record, alert, shown, now, is_gone=gone)
        doubt = replace(doubt, shown=shown, is_gone=gone, failing_since=record.failing.get(alert.alert_id))
        decision = decide_confirmed(decision, doubt, trigger, now)
    return moves_s if isinstance(decision, RollBack) else None, record


@dataclass(frozen=True)
class Ended:
    """A request that version 7 answered, when its answer ended, and its pair."""

    at_s: float
    record: Inference
    pair: MirroredPair | None


def kills(traffic: Traffic, sent: Sent) -> bool:
    """Return whether the new version's engine dies of a request."""
    if traffic.attack == "deaths":
        return sent.hostile and sent.odd
    changed = sent.at_s >= CHANGE_S
    return changed and (traffic.dies_for_good or (traffic.regression == "dies of one prompt in ten" and sent.odd))


def serve(traffic: Traffic, until_s: float) -> tuple[list[Ended], list[float]]:
    """Return all requests in the order in which they end, and when the engine died."""
    ended, deaths, death = list[Ended](), list[float](), None
    back_s = 0.0
    for sent in requests(traffic, until_s):
        if sent.at_s >= back_s and kills(traffic, sent):
            deaths.append(sent.at_s)
            back_s = math.inf if traffic.dies_for_good else sent.at_s + DEAD_S
            at, own = BEGAN + timedelta(seconds=sent.at_s), answer(traffic, sent, NEW, 0.0)
            holders = {item.record.holder or "" for item in ended if item.at_s > sent.at_s} | {own.holder or ""}
            death = EngineDeath(died_at=at, holders=tuple(sorted(holders)))
            ended = [die(item, sent.at_s, death) if item.at_s > sent.at_s else item for item in ended]
        record = answer(traffic, sent, NEW, back_s)
        if record.error == "engine_dead":
            record = record.model_copy(update={"death": death})
        ended.append(Ended(sent.at_s + record.e2e_ms / 1000.0, record, pair_of(traffic, sent, record)))
    return sorted(ended, key=lambda item: item.at_s), deaths


def die(item: Ended, at_s: float, death: EngineDeath) -> Ended:
    """Return a request that was in flight when the engine died."""
    taken_ms = (at_s - (item.record.scheduled_at - BEGAN).total_seconds()) * 1000.0
    failed = {"error": "engine_dead", "caused_by": "target", "finish_reason": None, "features": None, "death": death}
    return Ended(at_s, item.record.model_copy(update={**failed, "e2e_ms": taken_ms}), None)


def run(traffic: Traffic, until_s: float, *, confirms: bool, asks_early: bool = True) -> float | None:
    """Return when version 7 is rolled back, in seconds; None if it is not."""
    ended, deaths = serve(traffic, until_s)
    state, at, record = watched(), 0, RollbackState(model=k.MODEL, environment="production")
    early = EarlyProbes()
    for number in range(int(until_s / BATCH_S)):
        at_s, begin = (number + 1) * BATCH_S, at
        while at < len(ended) and ended[at].at_s <= at_s:
            at += 1
        cause = Cause(f"b-{number}", BEGAN + timedelta(seconds=at_s))
        records = [item.record for item in ended[begin:at]]
        pairs = [item.pair for item in ended[begin:at] if item.pair is not None] if confirms else []
        state = monitoring.add_records(state, records, cause, Rules(), pairs=pairs)
        facts, state = state.outbox, state.model_copy(update={"outbox": ()})
        dead_s = math.inf if traffic.dies_for_good else DEAD_S
        dead_until_s = max((died_s + dead_s for died_s in deaths if died_s <= at_s), default=0.0)
        if confirms and asks_early:
            early.note(records, traffic, at_s, dead_until_s)
        for alert in _alerts(facts):
            moved, record = is_rolled_back(
                alert, traffic, at_s, dead_until_s, confirms=confirms, record=record, early=early
            )
            if moved is not None:
                return moved
    return None


def _alerts(facts: Sequence[OutboxEntry]) -> Iterator[AlertRaised | AlertUpdated]:
    for entry in facts:
        for kind in (AlertRaised, AlertUpdated):
            if entry.type == kind.TYPE:
                yield kind.model_validate(entry.data)


def show_attacks(attacks: Sequence[Attack], *, asks_early: bool) -> None:
    """Print how often a healthy version is rolled back."""
    print(f"Rollbacks of a healthy version in {ATTACK_S:.0f} s of attack, {len(KEYS) * len(SHARES)} runs per row\n")
    columns = [(False, keys, False) for keys in KEYS]
    columns += [(True, keys, one_team) for keys in KEYS for one_team in ((False, True) if keys > 1 else (False,))]
    rows = []
    for attack in attacks:
        row: list[str] = [attack]
        for confirms, keys, one_team in columns:
            sent = [Traffic(1, attack, keys, share, one_team=one_team) for share in SHARES]
            moved = [run(traffic, ATTACK_S, confirms=confirms, asks_early=asks_early) is not None for traffic in sent]
            row.append(f"{sum(moved)} of {len(moved)}")
        rows.append(row)
    names = [
        f"{'now' if confirms else 'before'}, {keys} key{'s' * (keys > 1)}{' of one team' * one_team}"
        for confirms, keys, one_team in columns
    ]
    show_table(["attack", *names], rows)


def show_regressions(regressions: Sequence[Regression], *, asks_early: bool) -> None:
    """Print how long a version that should go takes traffic."""
    print(f"\nSeconds from the change to the rollback, {RUNS} runs: median (90th percentile), found\n")
    rows = []
    for regression in regressions:
        row, medians = list[str]([regression]), list[float]()
        for confirms in (False, True):
            moments = [
                run(Traffic(seed, regression=regression), WATCHED_S, confirms=confirms, asks_early=asks_early)
                for seed in range(RUNS)
            ]
            delays = [math.inf if at is None else at - CHANGE_S for at in moments]
            medians.append(quantile(delays, 0.5))
            detected = sum(0.0 <= delay < math.inf for delay in delays)
            row.append(f"{medians[-1]:.1f} ({quantile(delays, 0.9):.1f}), {detected} of {RUNS}")
        rows.append([*row, f"{medians[1] / medians[0]:.2f}"])
    show_table(["version", "before", "now", "now / before"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rollbacks under attack, and detection of versions that should go.")
    parser.add_argument("--only", nargs="+", choices=(*ATTACKS, *REGRESSIONS), help="these rows only")
    parser.add_argument("--late", action="store_true", help="ask probes with the alert only")
    args = parser.parse_args()
    rows, asks_early = args.only or (*ATTACKS, *REGRESSIONS), not args.late
    if attacks := [attack for attack in ATTACKS if attack in rows]:
        show_attacks(attacks, asks_early=asks_early)
    if regressions := [regression for regression in REGRESSIONS if regression in rows]:
        show_regressions(regressions, asks_early=asks_early)


if __name__ == "__main__":
    main()
