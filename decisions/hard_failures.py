"""Hard failures, which need no statistics: a target that answers nothing, or only empty answers."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from pydantic import Field

from contracts.facts import Inference
from contracts.facts.watch import AlertKind
from contracts.vocabulary import Contract
from decisions.attribution import is_excused
from decisions.triggers import CANCELLED, ended_at, is_empty

NOT_LOADED = "not_loaded"
"""How a request fails whose target has been loaded nowhere for ten seconds."""
_BODIES_KEPT = 8


class Runs(Contract):
    """Requests in a row that failed through the target, or were empty.

    Attributes:
        errors: How many failed; the same body again does not count.
        empties: How many answers were empty.
        bodies: The newest bodies of those that failed.
        error: How the last one failed.
        dead: When each endpoint whose engine was reported dead, and has answered nothing since, was.
    """

    errors: int = 0
    empties: int = 0
    bodies: tuple[str, ...] = ()
    error: str = ""
    dead: dict[str, datetime] = Field(default_factory=dict)

    @property
    def length(self) -> int:
        """Return the length of the longer run."""
        return max(self.errors, self.empties)


@dataclass(frozen=True)
class HardFailure:
    """The target answers nothing, or the last `run` answers were empty."""

    kind: AlertKind
    run: int
    message: str


def count_runs(runs: Runs, record: Inference) -> Runs:
    """Return the runs with one more request.

    A failure with another cause neither counts nor ends a run. The same holds for an empty answer that the caller's own
    parameters explain, and for an answer whose text was not described.
    """
    if record.finish_reason == CANCELLED or is_excused(record):
        return runs
    if record.error is not None:
        dead = {**runs.dead, record.endpoint: ended_at(record)} if record.engine_died else runs.dead
        if record.body is not None and record.body in runs.bodies:
            return runs.model_copy(update={"dead": dead, "error": record.error})
        bodies = (*runs.bodies, record.body)[-_BODIES_KEPT:] if record.body is not None else runs.bodies
        counted = {"errors": runs.errors + 1, "bodies": bodies, "dead": dead, "error": record.error}
        return runs.model_copy(update=counted)
    dead = {
        endpoint: at for endpoint, at in runs.dead.items() if endpoint != record.endpoint or at >= record.scheduled_at
    }
    unknown = record.features is None or record.features.empty
    empties = runs.empties + 1 if is_empty(record) else runs.empties if unknown else 0
    return Runs(empties=empties, dead=dead)


def assess_runs(runs: Runs, *, run: int, endpoints: Collection[str] = ()) -> HardFailure | None:
    """Return the hard failure of a target; None if there is none.

    Args:
        runs: What failed in a row, and which engines are dead.
        run: How many different requests in a row show it.
        endpoints: Where the target is served; empty if unknown.
    """
    if endpoints and all(endpoint in runs.dead for endpoint in endpoints):
        return HardFailure("errors", runs.errors, "Its last replica is reported dead.")
    if runs.error == NOT_LOADED:
        return HardFailure("errors", runs.errors, "It has been loaded nowhere for ten seconds.")
    if runs.errors >= run:
        return HardFailure("errors", runs.errors, f"The last {runs.errors} different requests all failed.")
    if runs.empties >= run:
        return HardFailure("quality", runs.empties, f"The last {runs.empties} answers were all empty.")
    return None
