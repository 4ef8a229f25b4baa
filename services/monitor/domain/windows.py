"""Time windows of a target: by event time, with bounded lateness, each closed into a mergeable summary. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from contracts.facts import Inference, WindowSummarised
from contracts.policy import Trigger
from contracts.trigger_metrics import METRICS
from decisions.evidence import observe_loop
from decisions.evidence.attribution import is_failure
from decisions.evidence.block_tests import Closed
from decisions.evidence.observation import span
from decisions.evidence.triggers import ended_at
from services.monitor.domain import sketch
from services.monitor.domain.record import OpenWindow, TargetState


@dataclass(frozen=True)
class Windowing:
    """Length and lateness of windows, in seconds.

    Attributes:
        lateness_s: time after its end in which a window accepts records.
        ahead_s: maximum lead of a record's time over the monitor's clock.
    """

    length_s: int = 60
    lateness_s: float = 10.0
    ahead_s: float = 30.0


def features_of(record: Inference) -> dict[str, float]:
    """Return the features for drift; empty without features, for forced texts, and without evidence."""
    features = record.features
    if features is None or not record.is_evidence or "refusal_ratio" in record.forced_metrics:
        return {}
    return {
        "prompt_chars": float(features.prompt_chars),
        "output_chars": float(features.output_chars),
        "non_letter_ratio": features.non_letter_ratio,
        "repetition_ratio": features.repetition_ratio,
    }


def add_to_windows(state: TargetState, records: Iterable[Inference], windowing: Windowing) -> TargetState:
    """Add records to their windows; records of closed windows are dropped."""
    groups: dict[int, list[Inference]] = {}
    for record in records:
        start = math.floor(ended_at(record).timestamp()) // windowing.length_s * windowing.length_s
        if start >= state.closed_until_s:
            groups.setdefault(start, []).append(record)
    windows = {window.start_s: window for window in state.windows}
    for start, group in groups.items():
        window = windows.get(start) or OpenWindow(start_s=start, length_s=windowing.length_s)
        windows[start] = _extended(window, group)
    return state.model_copy(update={"windows": tuple(windows[start] for start in sorted(windows))})


def _extended(window: OpenWindow, records: list[Inference]) -> OpenWindow:
    measured = [record for record in records if record.error is None and record.caused_by is None]
    errors = Counter(window.errors) + Counter(record.error for record in records if record.error is not None)
    histograms = {
        rule.histogram: sketch.add(
            window.histograms.get(rule.histogram, ""),
            (
                figure
                for record in measured
                if metric not in record.forced_metrics and (figure := rule.figure(record)) is not None
            ),
        )
        for metric, rule in METRICS.items()
        if rule.histogram
    }
    return window.model_copy(
        update={
            "requests": window.requests + len(records),
            "errors": dict(errors),
            "target_failures": window.target_failures + sum(is_failure(record) for record in records),
            "histograms": histograms,
        }
    )


def close_windows(
    state: TargetState, triggers: Sequence[Trigger], now: datetime | None, windowing: Windowing
) -> tuple[TargetState, tuple[WindowSummarised, ...]]:
    """Close the blocks and windows due at `now` (None: all); return the target and the windows' summaries."""
    state = _close_blocks(state, triggers, now)
    line = math.inf if now is None else now.timestamp() - windowing.lateness_s
    due = [window for window in state.windows if window.start_s + window.length_s <= line]
    if not due:
        return state, ()
    until = max(state.closed_until_s, *(window.start_s + window.length_s for window in due))
    kept = tuple(window for window in state.windows if window not in due)
    summaries = []
    for window in due:
        blocks, later = _split(state.closed, window.start_s + window.length_s)
        summaries.append(_summary(state, window, blocks))
        state = state.model_copy(update={"closed": later})
    return state.model_copy(update={"windows": kept, "closed_until_s": until}), tuple(summaries)


def _close_blocks(state: TargetState, triggers: Sequence[Trigger], now: datetime | None) -> TargetState:
    """Add closed blocks to the evidence; they are also kept until their window is summarised."""
    after, closed = observe_loop.close(state, triggers, now)
    if not closed:
        return after
    kept = {name: {**after.closed.get(name, {}), **blocks} for name, blocks in closed.items()}
    return after.model_copy(update={"closed": {**after.closed, **kept}})


def _split(closed: Mapping[str, Closed], end_s: int) -> tuple[dict[str, Closed], dict[str, Closed]]:
    """Return the blocks that begin before `end_s`, and the others, by trigger."""
    before, later = dict[str, Closed](), dict[str, Closed]()
    for name, blocks in closed.items():
        for at, block in blocks.items():
            (before if at < end_s else later).setdefault(name, {})[at] = block
    return before, later


def _summary(state: TargetState, window: OpenWindow, blocks: Mapping[str, Closed]) -> WindowSummarised:
    histograms: dict[str, Any] = {
        rule.histogram: window.histograms.get(rule.histogram) or sketch.empty_sketch()
        for rule in METRICS.values()
        if rule.histogram
    }
    return WindowSummarised(
        **histograms,
        target=state.target,
        window=span(window.start_s, window.length_s),
        requests=window.requests,
        errors=window.errors,
        target_failures=window.target_failures,
        blocks={
            name: tuple((at - window.start_s, block.requests, block.bad) for at, block in of.items())
            for name, of in blocks.items()
        },
        observed={name: _observed(state, name, window) for name in state.triggers},
    )


def _observed(state: TargetState, name: str, window: OpenWindow) -> tuple[int, int]:
    slots = [
        slot for slot in state.triggers[name].slots if window.start_s <= slot.start_s < window.start_s + window.length_s
    ]
    return sum(slot.trials for slot in slots), sum(slot.hits for slot in slots)
