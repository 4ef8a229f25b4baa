"""Which requests can be true, and which fail so plainly that no statistics are needed."""

from dataclasses import dataclass

from contracts.facts import Inference
from contracts.facts.watch import AlertKind
from decisions.attribution import is_excused
from decisions.triggers import CANCELLED, is_empty


def is_plausible(record: Inference) -> bool:
    """Return whether a record's figures can be true; others are counted and left aside."""
    times = (record.e2e_ms, record.ttft_ms if record.ttft_ms is not None else 0.0)
    itl = record.itl_ms
    gaps = (itl.mean, itl.p95, itl.max) if itl is not None else ()
    return all(0.0 <= one < 86_400_000.0 for one in (*times, *gaps)) and record.output_tokens >= 0


@dataclass(frozen=True)
class HardFailure:
    """Every one of the last requests failed outright: no statistics needed."""

    kind: AlertKind
    run: int
    what: str


def count_runs(runs: tuple[int, int], record: Inference) -> tuple[int, int]:
    """Count how many requests in a row failed through the target, and how many had an empty output.

    What others caused neither counts nor ends a run; nor does an answer without text that the caller's own
    parameters explain.
    """
    errors, empties = runs
    if record.finish_reason == CANCELLED or is_excused(record):
        return runs
    if record.error is not None:
        return errors + 1, empties
    if is_empty(record):
        return 0, empties + 1
    explained = record.features is not None and record.features.empty
    return 0, empties if explained else 0


def assess_runs(runs: tuple[int, int], *, run: int) -> HardFailure | None:
    """Return whether the last `run` requests all failed, or all came out empty."""
    errors, empties = runs
    if errors >= run:
        return HardFailure("errors", errors, f"The last {errors} requests all failed.")
    if empties >= run:
        return HardFailure("quality", empties, f"The last {empties} answers were all empty.")
    return None
