"""Hard failures: runs of requests that all failed, or were all empty, which need no statistics."""

from dataclasses import dataclass

from contracts.facts import Inference
from contracts.facts.watch import AlertKind
from decisions.attribution import is_excused
from decisions.triggers import CANCELLED, is_empty


@dataclass(frozen=True)
class HardFailure:
    """Every one of the last `run` requests failed, or was empty."""

    kind: AlertKind
    run: int
    message: str


def count_runs(runs: tuple[int, int], record: Inference) -> tuple[int, int]:
    """Return how many requests in a row failed because of the target, and how many answers in a row were empty.

    A failure with another cause neither counts nor ends a run. The same holds for an empty answer that the caller's own
    parameters explain, and for an answer whose text was not described.
    """
    errors, empties = runs
    if record.finish_reason == CANCELLED or is_excused(record):
        return runs
    if record.error is not None:
        return errors + 1, empties
    if is_empty(record):
        return 0, empties + 1
    unknown = record.features is None or record.features.empty
    return 0, empties if unknown else 0


def assess_runs(runs: tuple[int, int], *, run: int) -> HardFailure | None:
    """Return the hard failure if the last `run` requests all failed, or were all empty; None if not."""
    errors, empties = runs
    if errors >= run:
        return HardFailure("errors", errors, f"The last {errors} requests all failed.")
    if empties >= run:
        return HardFailure("quality", empties, f"The last {empties} answers were all empty.")
    return None
