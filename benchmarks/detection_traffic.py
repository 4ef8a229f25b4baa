"""Streams of simulated requests for `bench_detection`: independent, in bursts, retried, in conversations, by the day.

The models are plausible, not recorded traffic. All streams of a `Traffic` advance together, a block of two seconds at a
time; the share of bad requests may change between blocks.
"""

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.detection_rules import Floats, Requests
from decisions.evidence.block_tests import BLOCK_S


@dataclass(frozen=True)
class Pattern:
    """How bad requests come.

    Attributes:
        size: Mean number of bad requests that come together (geometric); 1: each by itself.
        follow: Chance of each later request to be the next of them; 0: `every_s` seconds later, on average.
        same_body: They are one body of one key, sent again.
        by_day: The rate changes by 60 % in a day, and is 2.5 times as high for 30 s every ten minutes.
        deadly: One request in so many kills the engine: everything fails for ten seconds.
        loop_rps: Rate at which one key sends, besides, one body that always fails.
        spell: Every so many seconds, for so many, such a share is bad, whatever it is otherwise.
    """

    size: float = 1.0
    follow: float = 0.0
    every_s: float = 1.0
    same_body: bool = False
    by_day: bool = False
    deadly: int = 0
    loop_rps: float = 0.0
    spell: tuple[float, float, float] | None = None


INDEPENDENT = Pattern()


class Traffic:
    """Many streams with one mean rate and one pattern."""

    def __init__(self, rate_rps: float, streams: int, pattern: Pattern, seed: int) -> None:
        self.rate_rps, self.streams, self.pattern = rate_rps, streams, pattern
        self.draw = np.random.default_rng(seed)
        self.remaining, self.dead_s = np.zeros(streams, int), np.zeros(streams)
        self.first = np.zeros(streams, bool)
        self.phase, self.burst = self.draw.random(streams), np.zeros(streams, bool)
        self.at_s = 0.0

    def rates(self) -> Floats:
        """Return the rate of each stream now, in requests per second."""
        rate = np.full(self.streams, self.rate_rps)
        if self.pattern.by_day:
            chance = np.where(self.burst, 1 - BLOCK_S / 30.0, BLOCK_S / 570.0)
            self.burst = self.draw.random(self.streams) < chance
            daily = 1.0 + 0.6 * np.sin(2 * math.pi * (self.at_s / 86_400.0 + self.phase))
            rate = rate * daily * np.where(self.burst, 2.5, 1.0) / 1.075
        return rate

    def step(self, share: float | Floats) -> Requests:
        """Return the requests of the next block, a share of which is bad."""
        count = self.draw.poisson(self.rates() * BLOCK_S)
        if self.pattern.spell is not None and self.at_s % self.pattern.spell[0] < self.pattern.spell[1]:
            share = self.pattern.spell[2]
        self.at_s += BLOCK_S
        there = np.arange(int(count.max(initial=0)))[:, None] < count
        none = np.zeros_like(there)
        if self.pattern.deadly:
            return Requests(there, self._deadly(there, share), none, none)
        if self.pattern.size > 1.0:
            return self._together(there, float(np.mean(share)))
        requests = Requests(there, there & (self.draw.random(there.shape) < share), none, none)
        return self._with_loop(requests) if self.pattern.loop_rps else requests

    def _with_loop(self, requests: Requests) -> Requests:
        count = self.draw.poisson(self.pattern.loop_rps * BLOCK_S, self.streams)
        there = np.arange(int(count.max(initial=0)))[:, None] < count
        repeated = there & (np.arange(len(there))[:, None] > 0)
        known = there if self.at_s % 60.0 else repeated
        parts = ((requests.there, there), (requests.bad, there), (requests.repeated, repeated), (requests.known, known))
        return Requests(*(np.concatenate(part) for part in parts))

    def _deadly(self, there: np.ndarray, share: float | Floats) -> np.ndarray:
        bad = there & (self.draw.random(there.shape) < share)
        for row, present in enumerate(there):
            alive = self.dead_s <= 0.0
            kills = present & alive & (self.draw.random(self.streams) < 1.0 / self.pattern.deadly)
            bad[row] |= kills | (present & ~alive)
            self.dead_s = np.where(kills, 10.0, self.dead_s)
        self.dead_s -= BLOCK_S
        return bad

    def _together(self, there: np.ndarray, share: float) -> Requests:
        follow = self.pattern.follow or min(1.0, 1.0 / (self.pattern.every_s * self.rate_rps))
        begin = 1.0 / (self.pattern.size / share - self.pattern.size / follow)
        bad, repeated, known = np.zeros_like(there), np.zeros_like(there), np.zeros_like(there)
        chance, sizes = self.draw.random(there.shape), self.draw.geometric(1.0 / self.pattern.size, there.shape)
        sent = np.zeros(self.streams, bool)
        for row, present in enumerate(there):
            within = self.remaining > 0
            begins = present & ~within & (chance[row] < begin)
            self.remaining = np.where(begins, sizes[row], self.remaining)
            self.first |= begins
            bad[row] = present & within & (chance[row] < follow)
            if self.pattern.same_body:
                repeated[row], known[row] = bad[row] & sent, bad[row] & ~self.first
                sent |= bad[row]
            self.first &= ~bad[row]
            self.remaining -= bad[row]
        return Requests(there, bad, repeated, known)
