"""Hard failures, detected without statistics: a target without answers, or with empty answers only."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import Field

from contracts.facts import Inference
from contracts.facts.watch import AlertKind
from contracts.trigger_metrics import CANCELLED
from contracts.vocabulary import Contract
from decisions.evidence.attribution import is_excused
from decisions.evidence.block_tests import Block, Count, OpenBlocks, add_to_blocks, close_blocks
from decisions.evidence.triggers import Outcome, ended_at, is_empty

NOT_LOADED = "not_loaded"
"""Error code of requests to a target that has been loaded nowhere for ten seconds."""
LEAST_BLOCKS: Final = 3
LEAST_REQUESTS: Final = 8
"""Number of consecutive wholly bad blocks, and of their requests, that are a hard failure."""
MOST_ENDPOINTS: Final = 64
"""Maximum number of endpoints in `Failures.alive`."""


class BadBlocks(Contract):
    """The newest consecutive blocks with bad requests only.

    Attributes:
        last: Their requests.
        blocks: Their number.
    """

    open: OpenBlocks = OpenBlocks()
    last: Block = Block()
    blocks: Count = 0

    @property
    def is_all(self) -> bool:
        """Return whether there are `LEAST_BLOCKS` with `LEAST_REQUESTS`, and no good request since."""
        return self.blocks >= LEAST_BLOCKS and self.last.requests >= LEAST_REQUESTS and not self.open.good


class Failures(Contract):
    """Evidence that a target gives no answers, or only empty ones.

    Attributes:
        errors: Blocks with failed requests only.
        empties: Blocks with empty answers only.
        error: Error code of the last request; empty if it was answered.
        began_at: Arrival of the first of the consecutive failed or empty requests.
        dead: Time of the engine's death by endpoint, until the endpoint answers again.
        alive: Arrival of the newest answered request by endpoint; earlier failures that are reported late are ignored.
    """

    errors: BadBlocks = BadBlocks()
    empties: BadBlocks = BadBlocks()
    error: str = ""
    began_at: datetime | None = None
    dead: dict[str, datetime] = Field(default_factory=dict)
    alive: dict[str, datetime] = Field(default_factory=dict)


@dataclass(frozen=True)
class HardFailure:
    """The target gives no answers, or only empty ones, as `requests` requests show."""

    kind: AlertKind
    requests: int
    message: str


def note_failures(failures: Failures, records: Sequence[Inference], counted: Iterable[Inference]) -> Failures:
    """Return the evidence with more requests.

    Failures with another cause, empty answers that the request's parameters explain, and answers without features are
    ignored.

    Args:
        failures: The evidence so far.
        records: The requests in order of arrival.
        counted: The requests without repeated bodies of a key.
    """
    error, began_at, dead, alive = failures.error, failures.began_at, dict(failures.dead), dict(failures.alive)
    for record in filter(_is_evidence, records):
        at, endpoint = ended_at(record), record.endpoint
        if record.error is None:
            alive[endpoint] = max(alive.get(endpoint, record.scheduled_at), record.scheduled_at)
            if dead.get(endpoint, alive[endpoint]) < alive[endpoint]:
                del dead[endpoint]
        elif record.engine_died and alive.get(endpoint, at) <= at:
            dead[endpoint] = at
        if record.error is None or max(alive.values(), default=at) <= at:
            error = record.error or ""
            began_at = (began_at or record.scheduled_at) if error or is_empty(record) else None
    alive = dict(sorted(alive.items(), key=lambda entry: entry[1])[-MOST_ENDPOINTS:])
    failures = add_outcomes(
        failures,
        errors=[_outcome(record, bad=record.error is not None) for record in counted if _is_evidence(record)],
        empties=[_outcome(record, bad=is_empty(record)) for record in records if _shows_emptiness(record)],
    )
    return failures.model_copy(update={"error": error, "began_at": began_at, "dead": dead, "alive": alive})


def add_outcomes(failures: Failures, *, errors: Iterable[Outcome], empties: Iterable[Outcome]) -> Failures:
    """Return the evidence with outcomes added: whether requests failed, and whether answers were empty."""
    update = {
        "errors": failures.errors.model_copy(update={"open": add_to_blocks(failures.errors.open, errors)}),
        "empties": failures.empties.model_copy(update={"open": add_to_blocks(failures.empties.open, empties)}),
    }
    return failures.model_copy(update=update)


def keep_endpoints(failures: Failures, endpoints: Collection[str]) -> Failures:
    """Return the evidence without dead engines of endpoints that no longer serve the target."""
    dead = {endpoint: at for endpoint, at in failures.dead.items() if endpoint in endpoints}
    return failures if dead == failures.dead else failures.model_copy(update={"dead": dead})


def count_closed(failures: Failures, now: datetime | None) -> Failures:
    """Return the evidence with closed blocks counted; `now` None closes all."""
    errors, empties = _counted(failures.errors, now), _counted(failures.empties, now)
    if errors is failures.errors and empties is failures.empties:
        return failures
    return failures.model_copy(update={"errors": errors, "empties": empties})


def assess_failures(failures: Failures, endpoints: Collection[str] = ()) -> HardFailure | None:
    """Return the hard failure of a target; None if there is none.

    Args:
        failures: The evidence about the target.
        endpoints: Endpoints of the target; empty if unknown.
    """
    failed, empty = failures.errors.last.requests, failures.empties.last.requests
    if endpoints and all(endpoint in failures.dead for endpoint in endpoints):
        return HardFailure("errors", failed, "Its last replica is reported dead.")
    if failures.error == NOT_LOADED:
        return HardFailure("errors", failed, "It has been loaded nowhere for ten seconds.")
    if failures.errors.is_all:
        return HardFailure("errors", failed, f"The last {failed} different requests all failed.")
    if failures.empties.is_all:
        return HardFailure("quality", empty, f"The last {empty} answers were all empty.")
    return None


def _is_evidence(record: Inference) -> bool:
    return record.finish_reason != CANCELLED and not is_excused(record)


def _shows_emptiness(record: Inference) -> bool:
    """Return whether an answer is evidence about emptiness: its features are known, and not forced to be empty."""
    if not _is_evidence(record) or record.error is not None or record.features is None:
        return False
    return is_empty(record) or not record.features.empty


def _outcome(record: Inference, *, bad: bool) -> Outcome:
    return Outcome(bad=bad, at=record.scheduled_at, ended_at=ended_at(record))


def _counted(state: BadBlocks, now: datetime | None) -> BadBlocks:
    still_open, closed = close_blocks(state.open, now)
    if not closed:
        return state
    last, blocks = state.last, state.blocks
    for block in closed.values():
        last, blocks = (last.joined(block), blocks + 1) if block.bad == block.requests else (Block(), 0)
    return BadBlocks(open=still_open, last=last, blocks=blocks)
