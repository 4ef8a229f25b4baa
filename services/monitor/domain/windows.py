"""Time windows of a target: event time, bounded lateness; each closes into one mergeable summary."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from contracts.facts import Inference, WindowSummarised
from contracts.facts.watch import Window
from decisions.attribution import is_excused, is_failure
from decisions.evidence import as_e_value
from decisions.triggers import is_empty
from services.monitor.domain import sketch
from services.monitor.domain.record import OpenWindow, Slot, TargetState

SLOTS_PER_WINDOW = 12


@dataclass(frozen=True)
class Windowing:
    """How telemetry is cut into windows.

    Attributes:
        lateness_s: how long after its end a window still takes records.
        ahead_s: how far a record's clock may be ahead of ours.
    """

    length_s: int = 60
    lateness_s: float = 10.0
    ahead_s: float = 30.0


def ended_at(record: Inference) -> datetime:
    """Return a record's event time: when its request ended (so that a slow one is not a late one)."""
    return record.scheduled_at + timedelta(milliseconds=record.e2e_ms)


def features_of(record: Inference) -> dict[str, float]:
    """Return the numbers that drift looks at; none for a request without an answer."""
    features = record.features
    if features is None:
        return {}
    return {
        "prompt_chars": float(features.prompt_chars),
        "output_chars": float(features.output_chars),
        "non_letter_ratio": features.non_letter_ratio,
        "repetition_ratio": features.repetition_ratio,
    }


def add_records(state: TargetState, records: Iterable[Inference], windowing: Windowing) -> TargetState:
    """Sort records into their windows; what belongs to a window that is closed already is counted as late."""
    groups: dict[int, list[Inference]] = {}
    late = state.late
    for record in records:
        start = math.floor(ended_at(record).timestamp()) // windowing.length_s * windowing.length_s
        if start < state.closed_until_s:
            late += 1
        else:
            groups.setdefault(start, []).append(record)
    windows = {window.start_s: window for window in state.windows}
    for start, group in groups.items():
        window = windows.get(start) or OpenWindow(start_s=start, length_s=windowing.length_s)
        windows[start] = _extended(window, group)
    return state.model_copy(update={"windows": tuple(windows[start] for start in sorted(windows)), "late": late})


def _extended(window: OpenWindow, records: list[Inference]) -> OpenWindow:
    answered = [record for record in records if record.error is None and record.caused_by is None]
    errors = Counter(window.errors) + Counter(record.error for record in records if record.error is not None)
    drills = Counter(window.drills) + Counter(record.drill for record in records if record.drill is not None)
    columns = dict(window.columns)
    for record in records:
        for name, value in features_of(record).items():
            number, total, squares = columns.get(name, (0, 0.0, 0.0))
            columns[name] = (number + 1, total + value, squares + value * value)
        if record.features is not None:
            for name in ("refusal", "empty"):
                number, total, squares = columns.get(name, (0, 0.0, 0.0))
                flag = float(is_empty(record) if name == "empty" else record.features.refusal)
                columns[name] = (number + 1, total + flag, squares + flag)
    return window.model_copy(
        update={
            "requests": window.requests + len(records),
            "errors": dict(errors),
            "drills": dict(drills),
            "target_failures": window.target_failures + sum(is_failure(record) for record in records),
            "other_failures": window.other_failures + sum(is_excused(record) for record in records),
            "ttft": sketch.add(window.ttft, (r.ttft_ms for r in answered if r.ttft_ms is not None)),
            "e2e": sketch.add(window.e2e, (r.e2e_ms for r in answered)),
            "columns": columns,
        }
    )


def close_windows(
    state: TargetState, now: datetime, windowing: Windowing, *, all_of_them: bool = False
) -> tuple[TargetState, tuple[WindowSummarised, ...]]:
    """Close the windows whose time is over, each into its summary."""
    line = now.timestamp() - windowing.lateness_s
    due = [window for window in state.windows if all_of_them or window.start_s + window.length_s <= line]
    if not due:
        return state, ()
    until = max(state.closed_until_s, *(window.start_s + window.length_s for window in due))
    kept = tuple(window for window in state.windows if window not in due)
    e_values = {name: as_e_value(one.evidence.log_e) for name, one in state.triggers.items()}
    summaries = tuple(_summary(state, window, e_values) for window in due)
    return state.model_copy(update={"windows": kept, "closed_until_s": until}), summaries


def _summary(state: TargetState, window: OpenWindow, e_values: Mapping[str, float]) -> WindowSummarised:
    return WindowSummarised(
        target=state.target,
        window=span(window.start_s, window.length_s),
        requests=window.requests,
        errors=window.errors,
        target_failures=window.target_failures,
        other_failures=window.other_failures,
        ttft_histogram=window.ttft or sketch.empty_sketch(),
        e2e_histogram=window.e2e or sketch.empty_sketch(),
        features={name: _column(*sums) for name, sums in window.columns.items()},
        e_values=dict(e_values),
        drills=window.drills,
        observed={name: _observed(state, name, window) for name in state.triggers},
    )


def _column(number: int, total: float, squares: float) -> dict[str, float]:
    mean = total / number
    return {"count": number, "mean": mean, "deviation": math.sqrt(max(squares / number - mean * mean, 0.0))}


def _observed(state: TargetState, name: str, window: OpenWindow) -> tuple[int, int]:
    slots = [
        slot for slot in state.triggers[name].slots if window.start_s <= slot.start_s < window.start_s + window.length_s
    ]
    return sum(slot.trials for slot in slots), sum(slot.hits for slot in slots)


def span(start_s: float, length_s: float) -> Window:
    """Return a window by its start in seconds since the epoch and its length."""
    start = datetime.fromtimestamp(start_s, UTC)
    return Window.model_validate({"from": start, "to": start + timedelta(seconds=length_s)})


# -- the sliding window of one trigger --------------------------------------------------------------------------------


def slot_length_s(window_s: float) -> int:
    """Return the length of the slots that a trigger's window is made of."""
    return max(1, round(window_s / SLOTS_PER_WINDOW))


def add_to_slots(
    slots: tuple[Slot, ...], window_s: float, at: datetime, *, outcome: bool, drilled: bool
) -> tuple[Slot, ...]:
    """Count an observation at its time; only as much is kept as two windows need."""
    length = slot_length_s(window_s)
    start = math.floor(at.timestamp()) // length * length
    known = {slot.start_s: slot for slot in slots}
    slot = known.get(start, Slot(start_s=start))
    known[start] = slot.model_copy(
        update={"trials": slot.trials + 1, "hits": slot.hits + outcome, "drilled": slot.drilled + (outcome and drilled)}
    )
    oldest = max(known) - 2 * window_s - length
    return tuple(known[one] for one in sorted(known) if one >= oldest)


@dataclass(frozen=True)
class Recent:
    """What a trigger saw in its last window."""

    trials: int
    hits: int
    drilled: int
    window: Window

    @property
    def ratio(self) -> float | None:
        """Share of bad requests; None without any."""
        return self.hits / self.trials if self.trials else None


def recent(slots: tuple[Slot, ...], window_s: float, now: datetime, since: datetime | None = None) -> Recent:
    """Sum up the last window before now, or what lies in it since something began."""
    begin = now.timestamp() - window_s
    if since is not None:
        begin = min(max(begin, since.timestamp()), now.timestamp())
    chosen = [slot for slot in slots if slot.start_s + slot_length_s(window_s) > begin]
    return Recent(
        trials=sum(slot.trials for slot in chosen),
        hits=sum(slot.hits for slot in chosen),
        drilled=sum(slot.drilled for slot in chosen),
        window=span(begin, now.timestamp() - begin),
    )
