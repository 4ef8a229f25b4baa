"""Rules that decide when a serving version is left, each for many streams at once; used by `bench_detection`.

A rule takes the requests of one block of two seconds and returns which streams move now.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from decisions.evidence import block_tests as bt
from decisions.evidence import version_tests as vt
from decisions.evidence.hard_failures import LEAST_BLOCKS, LEAST_REQUESTS

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
HARD_RUN = 8
FALSE_ALARM_EVERY_H = 168.0
TRIGGERS = 5
"""Triggers of the model that share the run length."""


@dataclass(frozen=True)
class Requests:
    """The requests of one block, arrays of (request, stream), in the order in which they end.

    Attributes:
        there: Whether there is a request.
        bad: Whether it is bad.
        repeated, known: Whether the same key sent the same body before in this block, or in the last minute.
    """

    there: Flags
    bad: Flags
    repeated: Flags
    known: Flags


class Rule(Protocol):
    """A rule watching some streams."""

    def step(self, requests: Requests) -> Flags: ...


class Blocks:
    """The detector by blocks, `decisions.evidence.block_tests`; with `hard`, also that a target answers nothing."""

    def __init__(self, limit: float, streams: int, *, hard: bool = True, once_a_minute: bool = False) -> None:
        self.limit, self.hard, self.once_a_minute = limit, hard, once_a_minute
        self.stakes = np.array(bt.plan_stakes(limit))
        self.line = bt.plan_line(FALSE_ALARM_EVERY_H, TRIGGERS)
        self.sums = np.tile((1.0 - self.stakes) / self.stakes, (streams, 1))
        self.requests, self.bad = np.zeros(streams, int), np.zeros(streams, int)
        self.run, self.run_blocks = np.zeros(streams, int), np.zeros(streams, int)

    def step(self, requests: Requests) -> Flags:
        counted = requests.there & ~(requests.known if self.once_a_minute else requests.repeated)
        self.requests += counted.sum(0)
        self.bad += (counted & requests.bad).sum(0)
        full = self.requests >= bt.LEAST_REQUESTS
        share = self.bad / np.maximum(self.requests, 1)
        growth = np.minimum(1.0 + self.stakes * (share[:, None] - self.limit) / self.limit, bt.GREATEST_FACTOR)
        self.sums = np.where(full[:, None], np.minimum((1.0 + self.sums) * growth, 1e15), self.sums)
        self.requests[full] = self.bad[full] = 0
        moved = self.sums.mean(1) >= self.line
        if self.hard:
            moved |= self._answers_nothing(counted, requests.bad)
        self.sums[moved] = (1.0 - self.stakes) / self.stakes
        return moved

    def _answers_nothing(self, counted: Flags, bad: Flags) -> Flags:
        requests, failed = counted.sum(0), (counted & bad).sum(0)
        wholly, some = (failed == requests) & (requests > 0), requests > 0
        self.run = np.where(some, np.where(wholly, self.run + requests, 0), self.run)
        self.run_blocks = np.where(some, np.where(wholly, self.run_blocks + 1, 0), self.run_blocks)
        hit = (self.run_blocks >= LEAST_BLOCKS) & (self.run >= LEAST_REQUESTS)
        self.run[hit] = self.run_blocks[hit] = 0
        return hit


ODDS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""Of the alternatives that the rule of single requests had."""


class SingleRequests:
    """The e-detector on single requests, with a run of eight: as it was before blocks, or with one alternative."""

    def __init__(
        self, p0: float, streams: int, *, p1: float | None = None, line: float = 20_000.0, least: int = 20
    ) -> None:
        if p1 is None:
            p1s = np.array([[odds * p0 / (1.0 - p0 + odds * p0)] for odds in ODDS])
            self.hit, self.miss = p1s / p0, (1.0 - p1s) / (1.0 - p0)
        else:
            self.hit, self.miss = np.array([[p1 / p0]]), np.array([[(1.0 - p1) / (1.0 - p0)]])
        self.line, self.least = line, least
        self.sums = np.zeros((len(self.hit), streams))
        self.seen, self.run = np.zeros(streams, int), np.zeros(streams, int)

    def step(self, requests: Requests) -> Flags:
        moved = np.zeros(len(self.seen), bool)
        for there, bad in zip(requests.there, requests.bad, strict=True):
            self.sums = np.where(there, (1.0 + self.sums) * np.where(bad, self.hit, self.miss), self.sums)
            self.seen += there
            self.run = np.where(there, np.where(bad, self.run + 1, 0), self.run)
            fired = ((self.sums.mean(0) >= self.line) & (self.seen >= self.least)) | (self.run >= HARD_RUN)
            self.sums[:, fired] = 0.0
            self.seen[fired] = self.run[fired] = 0
            moved |= fired
        return moved


def oracle(healthy: float, faulty: float, rate_rps: float, streams: int) -> SingleRequests:
    """Return the Shiryaev-Roberts rule that knows both shares, with the same run length counted in its requests."""
    line = FALSE_ALARM_EVERY_H * 3600.0 * rate_rps * TRIGGERS
    return SingleRequests(healthy, streams, p1=min(faulty, 1.0 - 1e-9), line=line, least=1)


class Windows:
    """Fixed windows of a minute with a number of failures in a row: Flagger's threshold 5, Argo's failureLimit 0."""

    blocks = 30

    def __init__(self, limit: float, streams: int, failures: int) -> None:
        self.limit, self.failures, self.passed = limit, failures, 0
        self.requests, self.bad, self.count = (np.zeros(streams, int) for _ in range(3))

    def step(self, requests: Requests) -> Flags:
        self.requests += requests.there.sum(0)
        self.bad += (requests.there & requests.bad).sum(0)
        self.passed += 1
        moved = np.zeros(len(self.bad), bool)
        if self.passed % self.blocks == 0:
            self.count = np.where(self.bad > self.limit * self.requests, self.count + 1, 0)
            moved = self.count >= self.failures
            self.count[moved] = 0
            self.requests[:] = self.bad[:] = 0
        return moved


class ShareTests:
    """`decisions.evidence.version_tests.ShareTest` for many streams; with `begins` by `observe_change`."""

    def __init__(self, limit: float, streams: int, *, begins: bool = False) -> None:
        self.limit, self.stakes, self.begins = limit, np.array(bt.plan_stakes(limit)), begins
        self.logs = np.full((streams, bt.STAKES), vt.AGAINST.logs[0] if begins else 0.0)

    def observe(self, share: Floats, has: Flags) -> None:
        if self.begins:
            self.logs = np.where(has[:, None], np.logaddexp(self.logs, vt.BEGINS), self.logs)
        growth = np.minimum(1.0 + self.stakes * (share[:, None] - self.limit) / self.limit, bt.GREATEST_FACTOR)
        self.logs += np.where(has[:, None], np.log(growth), 0.0)

    def fade(self, kept: float) -> None:
        self.logs *= kept

    def crossed(self, alpha: float) -> Flags:
        top = self.logs.max(1)
        log_e: Floats = top + np.log(np.exp(self.logs - top[:, None]).mean(1))
        return log_e >= -math.log(alpha)


def check() -> float:
    """Return the largest difference between the rule here and `decisions.evidence.block_tests`, on one stream."""
    draw, here, state, worst = np.random.default_rng(7), Blocks(0.02, 1, hard=False), bt.ShareDetector(), 0.0
    for _ in range(3000):
        there = np.ones((draw.poisson(3), 1), bool)
        bad = draw.random(there.shape) < 0.02
        here.step(Requests(there, bad, np.zeros_like(there), np.zeros_like(there)))
        state = bt.observe_detector(state, 0.02, [bt.Block(requests=len(there), bad=int(bad.sum()))])
        worst = max(worst, abs(float(here.sums.mean()) / state.value - 1.0))
    return worst
