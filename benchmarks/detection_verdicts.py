"""Verdicts about candidates and suspended versions, many runs at once, by `decisions.evidence.version_tests`."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.detection_rules import Flags, Floats, ShareTests
from benchmarks.parts import show_table
from decisions.evidence import block_tests as bt
from decisions.evidence import version_tests as vt
from decisions.evidence.block_tests import BLOCK_S
from decisions.evidence.candidates import AWAY_S
from decisions.rollback.suspensions import CLEAR_BETA, CONFIRM_ALPHA
from decisions.routes.edits import AWAY_EVERY, AWAY_TIMES

RATE_RPS, LIMIT, ALPHA, PASS_BETA = 3.0, 0.02, CONFIRM_ALPHA, 0.05
AWAY_BLOCKS, DRAIN_BLOCKS, AWAY_EVERY_BLOCKS = AWAY_S // BLOCK_S, 5, int(AWAY_EVERY.total_seconds()) // BLOCK_S
CANARY_BLOCKS, JUDGEMENT_BLOCKS, REDRAWN_BLOCKS, SPELL_BLOCKS = 1800, 900, 30, 25
KEYS, TEN_MINUTES_S = 20, 600.0
ZIPF = 1.0 / np.arange(1, KEYS + 1)
WEIGHTS = ZIPF / ZIPF.sum()
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Canary:
    """A candidate beside the active version.

    Attributes:
        sticky: All requests of a key are on one side, and keys differ in their share of bad requests (gamma, cv 1.5).
        redrawn: The side of each key is drawn anew every minute.
        spells: Keys fail altogether for 50 s on average, on both sides, and not otherwise.
        heavy_good: The heaviest key sends what never fails.
        alone: The active version's share while the candidate's traffic is away; as beside it if None.
    """

    title: str
    candidate: float
    active: float = 0.01
    share: float = 0.1
    sticky: bool = False
    redrawn: bool = False
    spells: bool = False
    heavy_good: bool = False
    alone: float | None = None


CANARIES = (
    Canary("0.5 %, active 1 %", 0.005),
    Canary("1 %, active 1 %", 0.01),
    Canary("the same, 5 % of traffic", 0.01, share=0.05),
    Canary("the same, sticky keys, 10 %", 0.01, sticky=True),
    Canary("the same, sticky keys, 40 %", 0.01, share=0.4, sticky=True),
    Canary("the same, drawn anew every minute", 0.01, share=0.4, sticky=True, redrawn=True),
    Canary("1 %, active 1 %, in spells of a key", 0.01, spells=True),
    Canary("2 %: at the limit", 0.02),
    Canary("3 %", 0.03),
    Canary("4 %: twice the limit", 0.04),
    Canary("the same, active 4 %, too", 0.04, active=0.04),
    Canary("the same, sticky keys, 40 %", 0.04, share=0.4, sticky=True),
    Canary("the same, drawn anew every minute", 0.04, share=0.4, sticky=True, redrawn=True),
    Canary("5 %", 0.05),
    Canary("20 %, none of the heaviest key", 0.2, share=0.4, heavy_good=True),
    Canary("30 % on both: a load", 0.3, active=0.3),
    Canary("30 % on both, 1 % without it: it hogs the machine", 0.3, active=0.3, alone=0.01),
    Canary("10 % on both, 1 % without it", 0.1, active=0.1, alone=0.01),
)


class Tests:
    """`decisions.evidence.version_tests.CandidateTest` of many runs."""

    def __init__(self, runs: int, active: float) -> None:
        self.joined = np.zeros((2, runs), int)
        self.beyond, self.active = (ShareTests(LIMIT, runs, begins=True) for _ in range(2))
        self.passing = ShareTests(1.0 - 2.0 * LIMIT, runs)
        self.worse = ShareTests((LIMIT / 2.0 + 1.0) / 2.0, runs, begins=True)
        self.alone = ShareTests(1.0 - max(LIMIT, active / 2.0), runs)

    def observe(self, candidate: tuple[Counts, Counts], active: tuple[Counts, Counts]) -> None:
        share, has = _share(*candidate)
        beside, both = _share(*active)
        both &= has
        self.joined += np.stack(candidate)
        full = self.joined[0] >= bt.LEAST_REQUESTS
        self.beyond.observe(_share(*self.joined)[0], full)
        self.joined[:, full] = 0
        self.passing.observe(1.0 - share, has)
        self.active.observe(beside, both)
        self.worse.observe((share - beside + 1.0) / 2.0, both)

    def begin_again(self, back: Flags) -> None:
        """Begin anew what says that both are beyond the limit, where the candidate's traffic is back."""
        self.joined[:, back] = 0
        for test in (self.beyond, self.active):
            test.logs[back] = vt.AGAINST.logs[0]

    def observe_alone(self, active: tuple[Counts, Counts], away: Flags) -> None:
        share, has = _share(*active)
        self.alone.observe(1.0 - share, has & away)

    def verdicts(self) -> npt.NDArray[np.str_]:
        fails, level = self.worse.crossed(ALPHA), math.sqrt(ALPHA)
        loads = self.active.crossed(level) & ~self.alone.crossed(level)
        beyond, passes = self.beyond.crossed(ALPHA), self.passing.crossed(PASS_BETA)
        choices = [fails, beyond & loads, beyond, passes]
        return np.select(choices, ["fail", "load", "fail", "pass"], "undecided")


def _share(requests: Counts, bad: Counts) -> tuple[Floats, Flags]:
    return bad / np.maximum(requests, 1), requests > 0


def run_canaries(canary: Canary, runs: int, seed: int) -> tuple[npt.NDArray[np.str_], Floats]:
    """Return the verdict of each run and when it came, in seconds."""
    draw = np.random.default_rng(seed)
    multiple = np.ones((runs, KEYS))
    if canary.sticky:
        multiple = draw.gamma(1 / 2.25, 2.25, (runs, KEYS))
    if canary.heavy_good:
        multiple[:, 0] = 0.0
    multiple /= (multiple * WEIGHTS).sum(1, keepdims=True)
    side = draw.random((runs, KEYS)) < canary.share if canary.sticky else np.full((runs, KEYS), canary.share)
    bad = {name: np.minimum(multiple * share, 1.0) for name, share in (("c", canary.candidate), ("a", canary.active))}
    spell, time_ratio = np.full(runs, -1), canary.active / float((WEIGHTS**2).sum())
    spell_chance = time_ratio / (1.0 - time_ratio) / SPELL_BLOCKS
    everyone, others, total = Tests(runs, canary.active), Tests(runs, canary.active), np.zeros((runs, KEYS), int)
    verdict, at_s, away_until = np.full(runs, "undecided"), np.full(runs, np.inf), np.full(runs, -AWAY_EVERY_BLOCKS)
    times_away, alone = np.zeros(runs, int), canary.active if canary.alone is None else canary.alone
    for block in range(CANARY_BLOCKS):
        if canary.redrawn and block % REDRAWN_BLOCKS == 0:
            side = draw.random((runs, KEYS)) < canary.share
        away = block < away_until
        for tests in (everyone, others):
            tests.begin_again(block == away_until)
        sides = np.where(away[:, None], [[[0.0]], [[1.0]]], np.stack([side, 1.0 - side]))
        sent = draw.poisson(RATE_RPS * BLOCK_S * WEIGHTS * sides)
        if canary.spells:
            begins = draw.choice(KEYS, runs, p=WEIGHTS)
            spell = np.where(draw.random(runs) < 1 / SPELL_BLOCKS, -1, spell)
            spell = np.where((spell < 0) & (draw.random(runs) < spell_chance), begins, spell)
            bad["c"] = bad["a"] = (np.arange(KEYS) == spell[:, None]).astype(float)
        beside = np.where(away[:, None], bad["a"] / canary.active * alone, bad["a"])
        failed = draw.binomial(sent, np.stack([bad["c"], np.minimum(beside, 1.0)]))
        rows, heaviest = np.arange(runs), total.argmax(1)
        whole, fails = sent.sum(2), failed.sum(2)
        everyone.observe((whole[0], fails[0]), (whole[1], fails[1]))
        rest, rest_fails = whole - sent[:, rows, heaviest], fails - failed[:, rows, heaviest]
        others.observe((rest[0], rest_fails[0]), (rest[1], rest_fails[1]))
        counts_alone = away & (block >= away_until - AWAY_BLOCKS)
        everyone.observe_alone((whole[1], fails[1]), counts_alone)
        others.observe_alone((rest[1], rest_fails[1]), counts_alone)
        total += sent[0]
        found, passes = everyone.verdicts(), others.passing.crossed(PASS_BETA)
        agreed = np.where(((total > 0).sum(1) < vt.FEW_CALLERS) | (passes == (found == "pass")), found, "undecided")
        goes = (agreed == "load") & (block >= away_until + AWAY_EVERY_BLOCKS) & (times_away < AWAY_TIMES)
        times_away += goes
        away_until[goes] = block + AWAY_BLOCKS + DRAIN_BLOCKS
        is_open = np.isinf(at_s)
        verdict[is_open] = agreed[is_open]
        at_s[is_open & ((agreed == "pass") | (agreed == "fail"))] = (block + 1) * BLOCK_S
        if np.isfinite(at_s).all():
            break
    return verdict, at_s


def judge_candidates(runs: int, seed: int) -> None:
    """Print the verdicts about candidates."""
    print(f"\nCandidates, limit 2 %, {RATE_RPS:g} requests/s of {KEYS} keys (Zipf), 10 % to the candidate, an hour\n")
    rows = []
    for canary in CANARIES:
        verdict, at_s = run_canaries(canary, runs, seed)
        counts = Counter(verdict.tolist())
        known = at_s[np.isfinite(at_s)]
        minutes = f"{np.median(known) / 60:.0f}" if len(known) else "-"
        cells = [f"{counts[name] / runs:.1%}" for name in ("pass", "fail", "load", "undecided")]
        rows.append([canary.title, *cells, minutes])
    show_table(("candidate's errors", "pass", "fail", "load", "undecided", "median, min"), rows)


@dataclass(frozen=True)
class Suspended:
    """A suspended version: its share of bad requests, that of the other version and of the heaviest key."""

    title: str
    limit: float
    target: float
    other: float
    rate: float = 1.0
    heaviest: float | None = None


SUSPENDED = (
    Suspended("healthy: 1 %, other 1 %, limit 2 %", 0.02, 0.01, 0.01),
    Suspended("the same, 0.5 pairs/s", 0.02, 0.01, 0.01, rate=0.5),
    Suspended("healthy: 0.5 %, other 0.5 %, limit 1 %", 0.01, 0.005, 0.005),
    Suspended("healthy, heaviest key hostile: bad on the target only", 0.02, 0.01, 0.01, heaviest=1.0),
    Suspended("5 %, other 1 %, limit 2 %", 0.02, 0.05, 0.01),
    Suspended("the same, 0.5 pairs/s", 0.02, 0.05, 0.01, rate=0.5),
    Suspended("the same, heaviest key hostile: good only", 0.02, 0.05, 0.01, heaviest=0.0),
    Suspended("25 %, other 5 %, limit 10 %", 0.10, 0.25, 0.05),
    Suspended("refusals 6 %, other 2 %, limit 3 %", 0.03, 0.06, 0.02),
    Suspended("20 %, other 1 %, limit 2 %", 0.02, 0.20, 0.01),
)


def run_judgements(version: Suspended, runs: int, seed: int) -> tuple[npt.NDArray[np.str_], Floats]:
    """Return the verdict of each run and when it came, in seconds; half of the other's failures are on both."""
    draw, rows = np.random.default_rng(seed), np.arange(runs)
    pairs = ShareTests(0.5, runs)
    passing, others = (ShareTests(1.0 - 2.0 * version.limit, runs) for _ in range(2))
    asked, differing = np.zeros((runs, KEYS), int), np.zeros((runs, KEYS))
    verdict, at_s = np.full(runs, "undecided"), np.full(runs, np.inf)
    both = 0.5 * min(version.other, version.target)
    for block in range(JUDGEMENT_BLOCKS):
        pairs.fade(0.5 ** (1.0 / vt.FADING_BLOCKS))
        differing *= 0.5 ** (1.0 / vt.FADING_BLOCKS)
        heaviest = asked.argmax(1)
        count = draw.poisson(version.rate * BLOCK_S, runs)
        seen = np.zeros((4, runs), int)
        for number in range(int(count.max(initial=0))):
            there, key = number < count, np.searchsorted(np.cumsum(WEIGHTS), draw.random(runs)).clip(0, KEYS - 1)
            chance = draw.random(runs)
            target = (chance >= both) & (chance < version.target)
            other = (chance >= version.target) & (chance < version.target + version.other - both)
            if version.heaviest is not None:
                target = np.where(key == 0, draw.random(runs) < version.heaviest, target)
                other &= key != 0
            asked[rows, key] += there
            counts = there & (target != other) & (differing[rows, key] + 1.0 <= vt.MOST_OF_KEY)
            differing[rows, key] += counts
            pairs.observe(target.astype(float), counts)
            apart = there & (key != heaviest)
            seen += np.stack([there, there & target, apart, apart & target])
        for test, (requests, bad) in ((passing, seen[:2]), (others, seen[2:])):
            share, has = _share(requests, bad)
            test.observe(1.0 - share, has)
        cleared = passing.crossed(CLEAR_BETA) & others.crossed(CLEAR_BETA)
        now = np.select([pairs.crossed(ALPHA), cleared], ["confirmed", "cleared"], "undecided")
        new = (verdict == "undecided") & (now != "undecided")
        verdict[new], at_s[new] = now[new], (block + 1) * BLOCK_S
    return verdict, at_s


def judge_suspended(runs: int, seed: int) -> None:
    """Print the verdicts about suspended versions."""
    print(f"\nSuspended versions in {runs} runs: 1 pair/s of {KEYS} keys (Zipf)\n")
    rows = []
    for version in SUSPENDED:
        verdict, at_s = run_judgements(version, runs, seed)
        counts, known = Counter(verdict.tolist()), at_s[np.isfinite(at_s)]
        minutes = f"{np.median(known) / 60:.1f}" if len(known) else "-"
        soon = Counter(verdict[at_s <= TEN_MINUTES_S].tolist())
        cells = [f"{soon[name]}; {counts[name]}" for name in ("confirmed", "cleared")]
        rows.append([version.title, *cells, str(counts["undecided"]), minutes])
    show_table(("version", "confirmed in 10; 30 min", "cleared in 10; 30 min", "undecided", "median, min"), rows)
