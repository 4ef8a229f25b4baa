"""What counts as another answer than the recorded one, and when a target is asked."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.server_manager.domain.references import (
    KEPT,
    SPREAD_FACTOR,
    TEXTS,
    Reference,
    References,
    describe_difference,
    distance_nats,
    make_reference,
)
from services.server_manager.references import AGAIN_S, RETRY_S, KeptReferences
from shared.errors import Transient
from tests.kit.fakes_serving import FakeClock
from tests.kit.records import MemoryRecords
from tests.unit.server_manager.replicas import Replica

V1 = "bot.v1.bf16"
ONE = ((-1.0, -2.0), (-0.5, -0.25, -4.0))
ANSWERS = st.lists(st.lists(st.floats(-50, 0), min_size=1, max_size=5).map(tuple), min_size=1, max_size=4).map(tuple)


def made(answers, least_nats=0.05, conditions=""):
    reference = make_reference(V1, conditions, answers, least_nats)
    assert reference is not None
    return reference


@given(ANSWERS)
def test_the_same_answer_has_no_distance(answer):
    assert distance_nats(answer, answer) == 0.0
    assert describe_difference(made([answer], 0.01), answer) is None


@given(ANSWERS, st.floats(0.001, 5.0), st.data())
def test_the_distance_is_that_of_the_text_that_differs_most(answer, shift, data):
    """One text of many that differs is found, however many do not."""
    number = data.draw(st.integers(0, len(answer) - 1))
    other = tuple(
        tuple(value - shift for value in text) if index == number else text for index, text in enumerate(answer)
    )
    assert distance_nats(answer, other) == pytest.approx(shift)
    assert distance_nats(other, answer) == pytest.approx(shift)


@pytest.mark.parametrize(
    "other",
    [
        ONE[:1],
        (*ONE, (-1.0,)),
        (ONE[0], ONE[1][:2]),
        ((-1.0, math.nan), ONE[1]),
        ((-math.inf, -2.0), ONE[1]),
        (),
    ],
)
def test_other_tokens_or_no_figures_are_infinitely_far(other):
    assert distance_nats(ONE, other) == math.inf
    assert make_reference(V1, "", [ONE, other], 100.0) is None
    assert "other tokens or no figures" in str(describe_difference(made([ONE], 100.0), other))


def shifted(nats):
    return tuple(tuple(value - nats for value in text) for text in ONE)


@pytest.mark.parametrize(("spread", "tolerance"), [(0.0, 0.05), (0.01, 0.05), (0.02, SPREAD_FACTOR * 0.02)])
def test_the_tolerance_follows_from_the_spread_of_repetitions_and_has_a_least_value(spread, tolerance):
    reference = made([ONE, ONE, shifted(spread)])
    assert reference.tolerance_nats == pytest.approx(tolerance)
    assert describe_difference(reference, shifted(tolerance - 0.001)) is None
    assert f"differ by {tolerance + 0.001:.3f} nats" in str(describe_difference(reference, shifted(tolerance + 0.001)))


def test_a_record_has_one_reference_of_a_target_under_the_same_conditions_and_the_newest_of_all():
    record, other = References(), made([shifted(1.0)], conditions="a")
    first = made([ONE], conditions="a")
    record = record.with_new(first).with_new(other)
    assert record.references == (first,)
    for number in range(KEPT):
        record = record.with_new(Reference(target=V1, conditions=str(number), logprobs=ONE, tolerance_nats=1.0))
    assert len(record.references) == KEPT
    assert record.find(V1, "a") is None
    assert record.find(V1, str(KEPT - 1)) is not None


# -- when it is asked ---------------------------------------------------------------------------------------------------


class Fleet:
    """A target on one server in memory, and what is kept of it."""

    def __init__(self):
        self.clock, self.records, self.server = FakeClock(), MemoryRecords(References), Replica()
        self.start()

    def start(self):
        self.kept = KeptReferences(self.records, "main", "a CPU", self.clock, 0.05)

    async def check(self, *, name=V1, address="a:1", conditions="files", base=None):
        """Return the code of the difference; None without one."""
        try:
            await self.kept.check(self.server, name, address, conditions, 1.0, base=base)
        except Transient as error:
            return error.code
        return None


@pytest.fixture
def fleet():
    return Fleet()


async def test_other_weights_are_found_after_a_load_and_daily_and_the_same_are_not(fleet):
    assert await fleet.check() is None
    fleet.server.nll = 2.1
    assert await fleet.check() is None, "it is not due"
    fleet.kept.forget("b:1", V1)
    assert await fleet.check() is None, "it was loaded elsewhere"
    fleet.kept.forget("a:1", V1)
    assert await fleet.check() == "logprobs_differ"
    fleet.server.nll = 2.0
    assert await fleet.check() == "logprobs_differ", "it is not asked at each probe"
    fleet.clock.seconds += RETRY_S
    fleet.server.failure = Transient("engine_failed", "no")
    assert await fleet.check() == "logprobs_differ", "it could not be asked"
    fleet.server.failure = None
    fleet.clock.seconds += RETRY_S
    assert await fleet.check() is None
    fleet.clock.seconds += AGAIN_S - 1
    fleet.server.nll = 2.1
    assert await fleet.check() is None
    fleet.clock.seconds += 1
    assert await fleet.check() == "logprobs_differ"


async def test_what_was_recorded_outlives_the_process_and_counts_at_every_address(fleet):
    assert await fleet.check() is None
    fleet.start()
    fleet.server.nll = 2.1
    assert await fleet.check(address="b:1") == "logprobs_differ"
    assert await fleet.check(address="b:1", name="bot.v2.bf16") is None
    assert await fleet.check(address="c:1", conditions="another engine") is None


async def test_of_two_processes_that_record_the_first_one_counts(fleet):
    other = KeptReferences(fleet.records, "main", "a CPU", fleet.clock, 0.05)
    assert await fleet.check() is None
    fleet.server.nll = 2.1
    with pytest.raises(Transient):
        await other.check(fleet.server, V1, "a:1", "files", 1.0)


async def test_answers_in_company_widen_the_tolerance(fleet):
    """A kernel that computes several requests at once rounds otherwise."""
    fleet.server.company_nats = 0.03
    assert await fleet.check() is None
    ((reference,),) = [(await fleet.records.get("main.references")).value.references]
    assert reference.tolerance_nats == pytest.approx(SPREAD_FACTOR * 0.03)


@pytest.mark.parametrize("nll", [math.nan, math.inf])
async def test_what_is_no_figure_is_not_recorded(fleet, nll):
    fleet.server.nll = nll
    assert await fleet.check() is None
    assert await fleet.records.get("main.references") is None, "nothing is written"


@pytest.mark.parametrize("wrong", ["no scores", "a failing engine", "a silent engine", "no bus"])
async def test_what_cannot_be_asked_or_compared_is_no_difference_and_is_tried_again(fleet, wrong):
    assert await fleet.check() is None
    fleet.start()
    server, fleet.server = fleet.server, Replica()
    fleet.server.nll = None if wrong == "no scores" else 2.1
    fleet.server.failure = Transient("engine_failed", "no") if wrong == "a failing engine" else None
    fleet.server.waits = wrong == "a silent engine"
    fleet.records.bucket.lost = wrong == "no bus"
    assert await fleet.check() is None
    fleet.records.bucket.lost = False
    fleet.server = server
    fleet.server.nll = 2.1
    fleet.clock.seconds += AGAIN_S if wrong == "no scores" else RETRY_S
    assert await fleet.check() == "logprobs_differ"


async def test_a_target_is_asked_once_by_checks_at_the_same_time(fleet):
    assert await asyncio.gather(*(fleet.check() for _ in range(4))) == [None] * 4
    assert fleet.server.scored == 3 * len(TEXTS), "once to compare, and twice more to record"


@pytest.mark.parametrize(
    ("adapter", "base", "expected"),
    [
        (1.0, 1.2, None),
        (1.0, 1.0, "logprobs_differ"),
        (1.0, 1.04, "logprobs_differ"),
        (None, 1.0, "logprobs_differ"),
        (1.0, None, "logprobs_differ"),
        (None, None, "logprobs_differ"),
    ],
)
async def test_an_adapter_answers_otherwise_than_its_base_or_is_not_proven(fleet, adapter, base, expected):
    fleet.server.next_nll = {V1: adapter, "base": base}
    assert await fleet.check(base="base") == expected
    if expected is None:
        fleet.server.next_nll[V1] = base
        assert await fleet.check(base="base") is None, "it is not due"
        fleet.kept.forget("a:1", V1)
        assert await fleet.check(base="base") == "logprobs_differ", "it came back, and the base answers"


async def test_an_adapter_that_could_not_be_asked_is_asked_again_at_once(fleet):
    fleet.server.next_nll = {V1: 1.0, "base": 2.0}
    fleet.server.failure = Transient("no_first_token", "busy")
    assert await fleet.check(base="base") == "logprobs_differ"
    fleet.server.failure = None
    assert await fleet.check(base="base") is None
