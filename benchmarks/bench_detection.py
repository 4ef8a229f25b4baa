"""Seconds to the move, wrong moves and verdicts of the rules by blocks, beside fixed windows and the oracle.

Simulated without a stack, seeded (`detection_traffic`); a model with five triggers that may together have one false
alarm in 168 hours. The delay is the time from the change to the end of the block in which the line is crossed; from
there the gateway's batches and the bus add less than a second. "5 in a row": windows of a minute with a threshold of
five, as Flagger has; "first": as Argo with `failureLimit: 0`. The oracle knows both shares and takes independent single
requests with the same run length.

Run: python -m benchmarks.bench_detection [--quick] [--seed N]
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.detection_rules import Blocks, Floats, Rule, SingleRequests, Windows, check, oracle
from benchmarks.detection_traffic import INDEPENDENT, Pattern, Traffic
from benchmarks.detection_verdicts import judge_candidates, judge_suspended
from benchmarks.parts import show_table
from decisions.evidence import block_tests as bt
from decisions.evidence.block_tests import BLOCK_S

OWN_FACTOR = 1.1
LIMIT, WARM_BLOCKS, LONGEST_BLOCKS, HEALTHY_BLOCKS = 0.02, 300, 3600, 1500
WEEK_BLOCKS = 168 * 1800
MIXED = Pattern(size=2.0, follow=0.625, by_day=True)


@dataclass(frozen=True)
class Fault:
    """Shares of bad requests before and after a change.

    Attributes:
        title: What happens.
        limit: The share that the policy allows.
        own: Whether it is shown beside the limit that the version's first hour sets with a declared factor.
        late_s: How long the first requests that show it take to end.
    """

    title: str
    limit: float
    before: float
    after: float
    own: bool = False
    late_s: float = 0.0
    pattern: Pattern = INDEPENDENT
    hard: bool = True


def beyond(quantile_z: float, times: float, sigma: float = 0.78) -> float:
    """Return the share of lognormal times beyond a quantile after all are so many times as long."""
    return 0.5 * math.erfc((quantile_z - math.log(times) / sigma) / math.sqrt(2.0))


Z_975, Z_90 = 1.96, 1.2816
FAULTS = (
    Fault("errors 1 to 5 %, limit 2 %", 0.02, 0.01, 0.05, own=True),
    Fault("the same, in twos, by day", 0.02, 0.01, 0.05, own=True, pattern=MIXED),
    Fault("errors 2 to 5 %, limit 3 %", 0.03, 0.02, 0.05, own=True),
    Fault("errors 5 to 25 %, limit 10 %", 0.10, 0.05, 0.25, own=True),
    Fault("refusals 2 to 6 %, limit 4 %", 0.04, 0.02, 0.06, own=True, hard=False),
    Fault("TTFT + 20 %, threshold at p97.5, 5 %", 0.05, 0.025, beyond(Z_975, 1.2), hard=False),
    Fault("TTFT + 50 %", 0.05, 0.025, beyond(Z_975, 1.5), hard=False),
    Fault("TTFT + 100 %", 0.05, 0.025, beyond(Z_975, 2.0), hard=False),
    Fault("TTFT + 20 %, threshold at own p90, 11 %", 0.11, 0.10, beyond(Z_90, 1.2), hard=False),
    Fault("TTFT + 50 %, own p90, 11 %", 0.11, 0.10, beyond(Z_90, 1.5), hard=False),
    Fault("all slow by 4 s, limit 5 %", 0.05, 0.01, 1.0, late_s=4.0, hard=False),
    Fault("all fail", 0.02, 0.005, 1.0),
    Fault("dies of one prompt in ten, 10 s each", 0.02, 0.005, 0.005, pattern=Pattern(deadly=10)),
    Fault("one tenant of five fails", 0.02, 0.005, 0.204),
    Fault("hostile key fails 5 % of all", 0.02, 0.005, 0.055),
    Fault("hostile key fails 20 % of all", 0.02, 0.005, 0.205),
    Fault("hostile key fails 50 % of all", 0.02, 0.005, 0.505),
)
HEALTHY: Mapping[str, tuple[float, Pattern]] = {
    "independent, half of the limit": (0.01, INDEPENDENT),
    "independent, at the limit": (0.02, INDEPENDENT),
    "in twos, a quarter of the limit": (0.005, Pattern(2.0, 0.625)),
    "in twos, a quarter, by day and bursts": (0.005, MIXED),
    "in threes, half": (0.01, Pattern(3.0, 0.625)),
    "in fives, a quarter": (0.005, Pattern(5.0, 0.625)),
    "in tens, a tenth": (0.002, Pattern(10.0, 0.625)),
    "one body sent four times, a tenth": (0.002, Pattern(4.0, 0.0, every_s=1.0, same_body=True)),
    "conversations of five, 10 s a turn, a quarter": (0.005, Pattern(5.0, 0.0, every_s=10.0)),
    "one body in a loop, 1 a second": (0.005, Pattern(loop_rps=1.0)),
    "a query of death each ten minutes, 10 s": (0.005, Pattern(deadly=1800)),
    "a rolling restart each hour: a third for 60 s": (0.005, Pattern(spell=(3600.0, 60.0, 1.0 / 3.0))),
    "three times the load each hour: 6 % for 5 min": (0.005, Pattern(spell=(3600.0, 300.0, 0.06))),
}
RULES: Mapping[str, Callable[[float, int], Rule]] = {
    "before": SingleRequests,
    "5 in a row": lambda limit, streams: Windows(limit, streams, 5),
    "first": lambda limit, streams: Windows(limit, streams, 1),
}
OTHERS = ("before", "5 in a row", "first")


def learned_limit(fault: Fault, seed: int) -> float:
    """Return the limit that a version's first hour at 3 requests a second sets (`block_tests.own_limit`)."""
    traffic = Traffic(3.0, 1, fault.pattern, seed)
    steps = (traffic.step(fault.before) for _ in range(2 * bt.LEARNED))
    shown = [bt.Block(requests=int(step.there.sum()), bad=int(step.bad.sum())) for step in steps]
    return min(fault.limit, bt.own_limit(bt.learn(bt.History(), shown), OWN_FACTOR))


def delays(rule: Rule, fault: Fault, rate_rps: float, streams: int, seed: int) -> Floats:
    """Return the seconds from the change to the move of each stream; infinite if it is later than two hours."""
    pattern = INDEPENDENT if fault.pattern.deadly else fault.pattern
    traffic = Traffic(rate_rps, streams, pattern, seed)
    for _ in range(WARM_BLOCKS):
        rule.step(traffic.step(fault.before))
    if fault.pattern.deadly:
        traffic = Traffic(rate_rps, streams, fault.pattern, seed + 1)
    moved_s = np.full(streams, np.inf)
    for block in range(LONGEST_BLOCKS):
        moved = rule.step(traffic.step(fault.after))
        moved_s = np.where(moved & np.isinf(moved_s), (block + 1.0) * BLOCK_S + fault.late_s, moved_s)
        if np.isfinite(moved_s).all() or (block == LONGEST_BLOCKS // 4 and not np.isfinite(moved_s).any()):
            break
    return moved_s


def cell(seconds: Floats) -> str:
    """Return the median and the 90th percentile."""
    parts = [float(np.quantile(seconds, share, method="higher")) for share in (0.5, 0.9)]
    median, most = ("later" if math.isinf(part) else f"{part:.0f}" for part in parts)
    return median if median == most else f"{median} ({most})"


def fault_rows(streams: int, seed: int) -> list[list[str]]:
    rows = []
    for fault in FAULTS:
        rules = [(Blocks(fault.limit, streams, hard=fault.hard), rate) for rate in (1.0, 3.0, 10.0)]
        if fault.own:
            rules.append((Blocks(learned_limit(fault, seed), streams, hard=fault.hard), 3.0))
        cells = [cell(delays(rule, fault, rate, streams, seed)) for rule, rate in rules]
        cells += ["-"] * (4 - len(cells))
        others = [RULES[name](fault.limit, streams) for name in OTHERS]
        if fault.pattern == INDEPENDENT:
            others.append(oracle(fault.before, fault.after, 3.0, streams))
        cells += [cell(delays(rule, fault, 3.0, streams, seed)) for rule in others]
        rows.append([fault.title, *cells, *["-"] * (8 - len(cells))])
    return rows


def wrong_moves(rule: Rule, traffic: Traffic, share: float, blocks: int) -> tuple[int, float]:
    """Return the moves of a healthy version, and the weeks watched."""
    moves = sum(int(rule.step(traffic.step(share)).sum()) for _ in range(blocks))
    return moves, traffic.streams * blocks / WEEK_BLOCKS


def healthy_rows(streams: int, blocks: int, seed: int) -> list[list[str]]:
    rows = []
    own = f"independent, 1 %, own history x {OWN_FACTOR:g}"
    for title, (share, pattern) in (HEALTHY | {own: (FAULTS[0].before, INDEPENDENT)}).items():
        cells = [title]
        limit = learned_limit(FAULTS[0], seed) if title == own else LIMIT
        for rule in (Blocks(limit, streams), Blocks(limit, streams, once_a_minute=True)):
            moves, weeks = wrong_moves(rule, Traffic(3.0, streams, pattern, seed), share, blocks)
            cells.append(f"{moves / weeks:.2f} ({moves} in {weeks:.0f})")
        for name in OTHERS:
            traffic = Traffic(3.0, streams, pattern, seed)
            moves, weeks = wrong_moves(RULES[name](limit, streams), traffic, share, blocks // 10)
            cells.append(f"{moves / weeks:.0f}")
        rows.append(cells)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer streams: two minutes")
    parser.add_argument("--seed", type=int, default=31)
    options = parser.parse_args()
    began, seed = time.perf_counter(), options.seed
    streams, watched, runs = (60, 300, 300) if options.quick else (300, 1000, 1000)
    print(f"seed {seed}; vectorised and `decisions.evidence.block_tests` differ by {check():.1e}\n")
    print("Seconds from the change to the move, median (90th percentile); at 3 requests/s where nothing else is said\n")
    own = f"own history x {OWN_FACTOR:g}"
    head = ("fault", "blocks, 1/s", "3/s", "10/s", own, "before", "5 in a row", "first", "oracle")
    show_table(head, fault_rows(streams, seed))
    print("\nMoves per week of a healthy version, limit 2 %, 3 requests/s (number in weeks)\n")
    head = ("bad requests", "blocks", "equal bodies once a minute", "before", "5 in a row", "first")
    show_table(head, healthy_rows(watched, HEALTHY_BLOCKS, seed))
    judge_candidates(runs, seed)
    judge_suspended(runs, seed)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
