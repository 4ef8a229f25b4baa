"""Counts the requests and the bad ones of a recorded window for a trigger, perhaps not declared at the time.

Pure; the histograms of latency are read by an adapter without I/O.
"""

import binascii
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hdrh.codec import HdrCookieException, HdrLengthException
from hdrh.histogram import HdrHistogram

from contracts.facts import WindowSummarised
from contracts.policy import Trigger

UNITS_PER_MS = 1000.0
_UNREADABLE = (
    binascii.Error,
    zlib.error,
    struct.error,
    ValueError,
    TypeError,
    HdrCookieException,
    HdrLengthException,
)


class UnreadableHistogramError(ValueError):
    """The text is no histogram."""


def count_over(text: str, threshold_ms: float) -> tuple[int, int]:
    """Return how many latencies a histogram holds, and how many of them are over a threshold.

    A histogram has three significant digits: what is above the threshold by less than 0.1 % may count as within.

    Raises:
        UnreadableHistogramError: the text is no histogram.
    """
    try:
        histogram = HdrHistogram.decode(text.encode())
    except _UNREADABLE as error:
        raise UnreadableHistogramError(f"no histogram: {error!r}") from error
    total = int(histogram.total_count)
    if not total or threshold_ms * UNITS_PER_MS >= histogram.max_value:
        return total, 0
    # the library's own iterator takes 200 times as long, and a week has ten thousand windows
    first = histogram.get_counts_array_index(int(threshold_ms * UNITS_PER_MS)) + 1
    return total, sum(histogram.counts[first:])


@dataclass(frozen=True)
class Counted:
    """The number of requests, and of the bad ones among them.

    Attributes:
        blocks: What the monitor counted in each block of two seconds: seconds from the begin of the window, requests,
            and the bad ones; empty if the window does not show it for this trigger.
    """

    trials: int
    hits: int
    blocks: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Unknown:
    """The reason why a window does not show how many requests were bad."""

    reason: str


def count_bad(trigger: Trigger, summary: WindowSummarised, recorded: Mapping[str, Trigger]) -> Counted | Unknown:
    """Return a trigger's counts of a recorded window.

    `recorded` are the triggers that the target's own policy declared, by name: their counts are in `observed`.

    Latencies are counted again at the trigger's threshold; a request that failed, or was given up, has none, and is
    not counted. The other figures are those of the window, as a trigger of the same threshold counted them; what missed
    an SLO was counted by the SLOs of that time.
    """
    counted = _count(trigger, summary, recorded)
    return counted if isinstance(counted, Unknown) else replace(counted, blocks=_blocks_of(trigger, summary, recorded))


def _blocks_of(
    trigger: Trigger, summary: WindowSummarised, recorded: Mapping[str, Trigger]
) -> tuple[tuple[int, int, int], ...]:
    """Return the blocks of a recorded trigger that finds the same requests bad; empty if there is none."""
    same = (name for name, item in recorded.items() if item.metric == trigger.metric and _counts_alike(item, trigger))
    return next((summary.blocks[name] for name in same if name in summary.blocks), ())


def _count(trigger: Trigger, summary: WindowSummarised, recorded: Mapping[str, Trigger]) -> Counted | Unknown:
    rule = trigger.rule
    text = getattr(summary, rule.histogram) if rule.histogram else ""
    if text:
        try:
            return Counted(*count_over(text, trigger.threshold))
        except UnreadableHistogramError as error:
            return Unknown(f"the window's histogram cannot be read ({error})")
    if rule.kind == "errors":
        trials = max(0, summary.requests - summary.other_failures)
        return Counted(trials, min(trials, summary.target_failures))
    if rule.limits == "distance":
        return Unknown(f"{trigger.metric} compares the answers themselves, which window summaries do not hold")
    return _of_flags(trigger, summary) or _of_observed(trigger, summary, recorded)


def _of_flags(trigger: Trigger, summary: WindowSummarised) -> Counted | None:
    """Read refusals and empty answers, which are features of their own; None where the window has none of them."""
    if not trigger.rule.column:
        return None
    if sum(summary.errors.values()) >= summary.requests:
        return Counted(0, 0)  # nothing was answered
    try:
        column: Any = summary.features[trigger.rule.column]
        trials, mean = int(column["count"]), float(column["mean"])
    except (TypeError, KeyError, ValueError):  # whatever the log holds
        return None
    return Counted(trials, min(trials, max(0, round(trials * mean))))


def _of_observed(trigger: Trigger, summary: WindowSummarised, recorded: Mapping[str, Trigger]) -> Counted | Unknown:
    same = {name: item for name, item in recorded.items() if item.metric == trigger.metric and name in summary.observed}
    if not same:
        return Unknown(f"nothing counted {trigger.metric} then: the policy of that time declared no trigger for it")
    names = [name for name, item in same.items() if _counts_alike(item, trigger)]
    if not names:
        thresholds = ", ".join(f"{item.threshold:g}" for item in same.values())
        return Unknown(f"{trigger.metric} was counted by another threshold then ({thresholds})")
    trials, hits = summary.observed[names[0]]
    return Counted(trials, min(trials, hits))


def _counts_alike(recorded: Trigger, trigger: Trigger) -> bool:
    """Return whether two triggers of one metric find the same requests bad."""
    if trigger.rule.limits != "figure":
        return True
    return (recorded.threshold, recorded.is_lower_bound) == (trigger.threshold, trigger.is_lower_bound)
