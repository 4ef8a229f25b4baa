"""False alarms and detection delay of the monitor's tests, compared with a fixed window with a failure count.

Both watch the same simulated requests, three per second. A request is bad with probability `healthy` until the change,
and with a multiple of it after. The limit is 5 %, and so is the threshold of the fixed window: it checks once a minute
whether more than 5 % of the minute's requests were bad, and raises an alarm at the fifth (or the first) such minute, as
canary controllers with a failure threshold do. Run: python benchmarks/bench_detectors.py
"""

import math
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from decisions import evidence as ev

RATE_RPS = 3
LIMIT = 0.05
ALPHA = 0.001
MIN_REQUESTS = 20
HEALTHY_REQUESTS = 100_000
QUIET = 1800
LONGEST = 20_000
RUNS = 40


class Detector:
    """The e-detector as the monitor uses it: a run of min_requests/alpha requests at the limit, on average."""

    portions = MIN_REQUESTS

    def __init__(self) -> None:
        self.bet = ev.plan_bet(LIMIT)
        self.line = math.log(self.portions / ALPHA)
        self.reset()

    def reset(self) -> None:
        self.sums: tuple[float, ...] = ()
        self.seen = self.bad = 0

    def step(self, bad: bool) -> bool:
        self.seen += 1
        self.sums = ev.step_sums(self.sums, self.bet, bad)
        return self.seen >= MIN_REQUESTS and ev.log_mean_exp(self.sums, self.bet.log_weight) >= self.line


class Plain(Detector):
    """The e-detector with a run of 1/alpha single requests."""

    portions = 1


class Process(Detector):
    """The e-process of a canary; evaluated after bad requests only, because it rises only there."""

    portions = 1

    def step(self, bad: bool) -> bool:
        self.seen, self.bad = self.seen + 1, self.bad + bad
        return bad and self.seen >= MIN_REQUESTS and ev.process_log_e(self.bet, self.seen, self.bad) >= self.line


class Fixed:
    def __init__(self, failures: int) -> None:
        self.failures, self.size = failures, 60 * RATE_RPS
        self.reset()

    def reset(self) -> None:
        self.seen = self.bad = self.count = 0

    def step(self, bad: bool) -> bool:
        self.seen, self.bad = self.seen + 1, self.bad + bad
        if self.seen < self.size:
            return False
        self.count += self.bad / self.seen > LIMIT
        self.seen = self.bad = 0
        return self.count >= self.failures


Make = Callable[[], Detector | Fixed]
MAKERS: dict[str, Make] = {
    "e-detector (after promotion)": Detector,
    "e-detector, run of 1/alpha": Plain,
    "e-process (canary)": Process,
    "fixed minute, 1 failure": lambda: Fixed(1),
    "fixed minute, 5 failures": lambda: Fixed(5),
}


def false_alarms(make: Make, ratio: float, seed: int) -> int:
    draw, watcher, alarms = random.Random(seed), make(), 0
    for _ in range(HEALTHY_REQUESTS):
        if watcher.step(draw.random() < ratio):
            alarms += 1
            watcher.reset()
    return alarms


def delay(make: Make, healthy: float, times: float, seed: int) -> int | None:
    """Return the number of requests from the change to the alarm, -1 for an alarm before it, None if there is none."""
    draw, watcher = random.Random(seed), make()
    quiet = 0 if make is Process else QUIET  # a canary is new
    for _ in range(quiet):
        if watcher.step(draw.random() < healthy):
            return -1
    for number in range(1, LONGEST + 1):
        if watcher.step(draw.random() < min(healthy * times, 1.0)):
            return number
    return None


def main() -> None:
    print(f"False alarms in {HEALTHY_REQUESTS:,} healthy requests (limit {LIMIT:.0%}, alpha {ALPHA})\n")
    ratios = (0.01, 0.02, 0.04, 0.05)
    print("| detector | " + " | ".join(f"{ratio:.0%} bad" for ratio in ratios) + " |")
    print("|---|" + "---|" * len(ratios))
    for name, make in MAKERS.items():
        print(f"| {name} | " + " | ".join(str(false_alarms(make, ratio, 11)) for ratio in ratios) + " |")
    print(f"\nDetection delay in seconds at {RATE_RPS} requests/s, median (90th percentile) of {RUNS} runs")
    print("4 % bad before the change; a run with an alarm before it is left out and counted\n")
    steps = (1.5, 2.0, 5.0)
    print("| detector | " + " | ".join(f"{times:g} times" for times in steps) + " | alarms before the change |")
    print("|---|" + "---|" * (len(steps) + 1))
    for name, make in MAKERS.items():
        cells, early = [], 0
        for times in steps:
            delays = [delay(make, 0.04, times, seed) for seed in range(RUNS)]
            early += sum(requests == -1 for requests in delays)
            good = sorted(requests / RATE_RPS for requests in delays if requests is not None and requests > 0)
            missed = sum(requests is None for requests in delays)
            text = f"{statistics.median(good):.0f} ({good[int(0.9 * (len(good) - 1))]:.0f})" if good else "never"
            cells.append(text + (f", {missed} missed" if missed else ""))
        print(f"| {name} | " + " | ".join(cells) + f" | {early} of {len(steps) * RUNS} |")


if __name__ == "__main__":
    main()
