"""Hard failures, which need no statistics: a target that answers nothing, or only empty answers."""

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
"""How a request fails whose target has been loaded nowhere for ten seconds."""
LEAST_BLOCKS: Final = 3
LEAST_REQUESTS: Final = 8
"""So many blocks in a row, with so many requests, in which every request was bad, are a hard failure."""
MOST_ENDPOINTS: Final = 64
"""Of so many endpoints it is remembered when they answered last."""


class BadBlocks(Contract):
    """The newest blocks in a row in which every request was bad.

    Attributes:
        open: The blocks that still take requests.
        last: The requests of the bad blocks, and the number of these blocks.
    """

    open: OpenBlocks = OpenBlocks()
    last: Block = Block()
    blocks: Count = 0

    @property
    def is_all(self) -> bool:
        """Return whether at least `LEAST_REQUESTS` in `LEAST_BLOCKS` blocks were bad, without a good one since."""
        return self.blocks >= LEAST_BLOCKS and self.last.requests >= LEAST_REQUESTS and not self.open.good


class Failures(Contract):
    """Evidence that a target answers nothing, or only empty answers.

    Attributes:
        errors: Blocks in which every request failed.
        empties: Blocks in which every answer was empty.
        error: How the last request failed; empty if it was answered.
        began_at: Arrival of the first of the requests in a row that failed or were empty.
        dead: When each endpoint whose engine was reported dead, and has answered nothing since, was.
        alive: Arrival of the newest request that each endpoint answered: what is reported late of before is over.
    """

    errors: BadBlocks = BadBlocks()
    empties: BadBlocks = BadBlocks()
    error: str = ""
    began_at: datetime | None = None
    dead: dict[str, datetime] = Field(default_factory=dict)
    alive: dict[str, datetime] = Field(default_factory=dict)


@dataclass(frozen=True)
class HardFailure:
    """The target answers nothing, or only empty answers; `requests` showed it."""

    kind: AlertKind
    requests: int
    message: str


def note_failures(failures: Failures, records: Sequence[Inference], counted: Iterable[Inference]) -> Failures:
    """Return the evidence with more requests.

    A failure with another cause neither counts nor ends a run. The same holds for an empty answer that the caller's own
    parameters explain, and for an answer whose text was not described.

    Args:
        failures: What is known.
        records: The requests, in the order in which they came.
        counted: Those of them that count: a body that a key repeats counts once.
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
    """Return the evidence with outcomes counted in their blocks: whether requests failed, and answers were empty."""
    update = {
        "errors": failures.errors.model_copy(update={"open": add_to_blocks(failures.errors.open, errors)}),
        "empties": failures.empties.model_copy(update={"open": add_to_blocks(failures.empties.open, empties)}),
    }
    return failures.model_copy(update=update)


def keep_endpoints(failures: Failures, endpoints: Collection[str]) -> Failures:
    """Return the evidence without engines of endpoints that no longer serve the target: it may come back there."""
    dead = {endpoint: at for endpoint, at in failures.dead.items() if endpoint in endpoints}
    return failures if dead == failures.dead else failures.model_copy(update={"dead": dead})


def count_closed(failures: Failures, now: datetime | None) -> Failures:
    """Return the evidence with the blocks that are over at a time; without a time, with all blocks."""
    errors, empties = _counted(failures.errors, now), _counted(failures.empties, now)
    if errors is failures.errors and empties is failures.empties:
        return failures
    return failures.model_copy(update={"errors": errors, "empties": empties})


def assess_failures(failures: Failures, endpoints: Collection[str] = ()) -> HardFailure | None:
    """Return the hard failure of a target; None if there is none.

    Args:
        failures: What is known of it.
        endpoints: Where the target is served; empty if unknown.
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
    """Return whether it is known if an answer is empty; not if its caller's parameters explain the emptiness."""
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
