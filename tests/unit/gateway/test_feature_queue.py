"""Features are added to records after the answer, on a sample, within bounds; no record is lost."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.facts import MirroredPair
from decisions.evidence.hard_failures import Failures, note_failures
from services.gateway.domain.excerpts import SAMPLED_CHARS, Excerpts
from services.gateway.telemetry.recorder import FeatureQueue, QueueLimits
from testbed.factories import inference, target
from tests.unit.gateway.describer_conformance import ANSWER, DescriberConformance
from tests.unit.gateway.fake_describer import FakeDescriber, describe


class TestFakeDescriber(DescriberConformance):
    @pytest.fixture
    def describer(self):
        return FakeDescriber()


@dataclass
class Time:
    """A clock that only pauses move."""

    now_s: float = 0.0

    def monotonic(self):
        return self.now_s

    async def pause(self, delay_s):
        self.now_s += delay_s
        await asyncio.sleep(0)


@dataclass
class World:
    """A queue with what it published."""

    limits: QueueLimits = field(default_factory=QueueLimits)
    describer: FakeDescriber = field(default_factory=FakeDescriber)
    time: Time = field(default_factory=Time)
    records: list = field(default_factory=list)
    pairs: list = field(default_factory=list)
    skipped: Counter = field(default_factory=Counter)

    def __post_init__(self):
        self.queue = FeatureQueue(
            self.describer,
            lambda record: (self.pairs if isinstance(record, MirroredPair) else self.records).append(record),
            limits=self.limits,
            clock=self.time,
            pause=self.time.pause,
            on_skip=lambda reason: self.skipped.update([reason]),
        )

    def submit(self, count, output=ANSWER, prompt="How?", holder="", **changes):
        about = {"features": None, "drill": None, "error": None, "environment": "production", **changes}
        for number in range(count):
            record = inference(**{"request_id": f"r-{number}", **about})
            self.queue.submit(record, Excerpts.of(prompt, output, holder=holder), draw_id=f"d-{number}")

    @property
    def described(self):
        return [record.request_id for record in self.records if record.features is not None]


async def test_what_callers_schemas_may_make_costly_is_described_last():
    world = World(limits=QueueLimits(batch=2))
    for number, form in enumerate(('{"response_format": {}}', "", '{"tools": []}')):
        texts = Excerpts.of("How?", ANSWER, form=form)
        record = inference(request_id=f"r-{number}", features=None, drill=None, environment="production")
        world.queue.submit(record, texts, draw_id=f"d-{number}")
    for _ in range(2):
        await world.queue.describe_batch()
    assert world.described == ["r-1", "r-0", "r-2"], "in its batch: no answer waits for later ones"


async def test_a_record_is_published_with_its_features():
    world = World()
    world.submit(1)
    assert world.records == []
    await world.queue.describe_batch()
    (record,) = world.records
    assert record.features == describe("How?", ANSWER)
    assert record == inference(
        request_id="r-0", features=record.features, drill=None, error=None, environment="production"
    )


@pytest.mark.parametrize("about", [{}, {"request_id": "mine"}])
async def test_the_share_that_is_declared_is_described_whatever_ids_the_callers_choose(about):
    world = World(QueueLimits(sample_ratio=0.25))
    world.submit(2000, **about)
    while len(world.records) < 2000:
        await world.queue.describe_batch()
    assert 420 < len(world.described) < 580
    assert not world.skipped


async def test_the_language_of_the_declared_share_is_looked_at():
    world = World(QueueLimits(language_ratio=0.25, batch=2000))
    world.submit(2000)
    await world.queue.describe_batch()
    assert len(world.described) == 2000
    assert 420 < sum(bool(texts.asked) for texts in world.describer.texts) < 580


async def test_records_outside_the_sample_go_out_at_once():
    world = World(QueueLimits(sample_ratio=0.0))
    world.submit(5)
    assert (len(world.records), world.described, world.describer.batches) == (5, [], [])


@pytest.mark.parametrize("about", [{"drill": "drill-1"}, {"environment": "staging"}])
async def test_drills_and_staging_are_always_described(about):
    world = World(QueueLimits(sample_ratio=0.0))
    world.submit(5, **about)
    await world.queue.describe_batch()
    assert len(world.described) == 5


async def test_a_full_queue_publishes_without_features_and_counts():
    world = World(QueueLimits(max_chars=10 * (256 + len("How?") + len(ANSWER))))
    world.submit(13, holder="one")
    assert (len(world.records), world.skipped) == (5, {"queue_full": 5})
    world.submit(2, holder="other")  # has a share that the first one cannot take
    assert world.skipped == {"queue_full": 6}
    await world.queue.describe_batch()
    assert (len(world.records), len(world.described)) == (15, 9)
    world.submit(8, holder="one")
    assert world.skipped == {"queue_full": 6}


async def test_an_answer_that_was_not_judged_by_its_form_counts():
    world = World()
    texts = Excerpts.of("How?", ANSWER, form='{"response_format": {"type": "json_object"}}', delivered=b"no JSON")
    world.queue.submit(inference(features=None, drill=None, error=None), texts, draw_id="d-1")
    await world.queue.describe_batch()
    assert (len(world.described), world.skipped) == (1, {"form": 1})


async def test_a_long_text_waits_as_its_beginning():
    world = World(QueueLimits(max_chars=256 + 1000 + SAMPLED_CHARS))
    world.submit(1, output="word " * 1_000_000, prompt="x" * 1_000_000)
    await world.queue.describe_batch()
    (record,) = world.records
    assert (record.features.output_chars, record.features.prompt_chars) == (5_000_000, 1_000_000)


async def test_a_text_that_cannot_be_described_goes_out_without_features():
    world = World(describer=FakeDescriber(failing={"bad"}))
    world.submit(1, "bad")
    world.submit(1)
    await world.queue.describe_batch()
    assert (len(world.records), len(world.described), world.skipped) == (2, 1, {"failed": 1})


async def test_what_waited_too_long_goes_out_without_features():
    world = World()
    world.submit(2)
    world.time.now_s = 3.1
    world.submit(1)
    await world.queue.describe_batch()
    assert (len(world.records), len(world.described), world.skipped) == (3, 1, {"late": 2})


async def test_texts_are_collected_into_batches():
    world = World(QueueLimits(batch=64))
    running = asyncio.ensure_future(world.queue.run())
    world.submit(100)
    async with asyncio.timeout(5):
        while len(world.records) < 100:
            await asyncio.sleep(0)
    assert world.describer.batches == [64, 36]
    world.submit(1)
    async with asyncio.timeout(5):
        while len(world.records) < 101:
            await asyncio.sleep(0)
    await stop(running)


async def test_at_the_end_everything_goes_out():
    world = World(QueueLimits(batch=2), FakeDescriber(stuck=True))
    running = asyncio.ensure_future(world.queue.run())
    world.submit(5)
    while not world.describer.batches:
        await asyncio.sleep(0)
    await stop(running)
    world.queue.drain()
    world.queue.drain()
    assert sorted(record.request_id for record in world.records) == [f"r-{number}" for number in range(5)]
    assert world.skipped == {"late": 5}


async def stop(task):
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@given(
    sizes=st.lists(st.integers(0, 400), max_size=40),
    ratio=st.floats(0, 1),
    batch=st.integers(1, 7),
    max_chars=st.integers(0, 4000),
    waits=st.lists(st.floats(0, 4), max_size=8),
)
async def test_every_record_is_published_exactly_once(sizes, ratio, batch, max_chars, waits):
    world = World(QueueLimits(sample_ratio=ratio, batch=batch, max_chars=max_chars), FakeDescriber(failing={"x" * 7}))
    for number, size in enumerate(sizes):
        world.submit(1, "x" * size, request_id=f"r-{number}")
        if number % 5 == 0 and waits:
            await world.time.pause(waits[number // 5 % len(waits)])
            await world.queue.describe_batch()
    while len(world.records) < len(sizes):
        before = len(world.records)
        await world.queue.describe_batch()
        assert len(world.records) > before
    assert sorted(record.request_id for record in world.records) == sorted(f"r-{n}" for n in range(len(sizes)))
    undescribed = len(sizes) - len(world.described)
    assert undescribed >= world.skipped.total()


def test_an_answer_that_was_not_described_is_neither_an_empty_one_nor_another():
    record = inference(features=None, error=None, drill=None)
    after = note_failures(Failures(), [record], [record])
    assert (len(after.errors.open.counts), after.errors.open.bad, after.empties.open.counts) == (1, 0, {})


def pair(**changes):
    about = {"features": None, "drill": None, "error": None, "environment": "production", **changes}
    return MirroredPair(served=inference(target=target(7), **about), mirrored=inference(target=target(6), **about))


@pytest.mark.parametrize("sample_ratio", [0.0, 1.0])
async def test_a_pair_is_published_once_both_answers_are_described(sample_ratio):
    world = World(QueueLimits(sample_ratio=sample_ratio, batch=1))
    world.queue.submit(pair(), Excerpts.of("How?", ANSWER), Excerpts.of("How?", ""), draw_id="d-1")
    assert len(world.pairs) == (sample_ratio == 0.0)
    await world.queue.describe_batch()
    (published,) = world.pairs
    assert (published.served.target, published.mirrored.target) == (target(7), target(6))
    assert world.records == []
    if sample_ratio:
        assert (published.served.features, published.mirrored.features.empty) == (describe("How?", ANSWER), True)


async def test_a_pair_of_which_one_side_cannot_be_described_is_published_with_the_other():
    world = World(describer=FakeDescriber(failing={"bad"}))
    world.queue.submit(pair(), Excerpts.of("How?", ANSWER), Excerpts.of("How?", "bad"), draw_id="d-1")
    await world.queue.describe_batch()
    (published,) = world.pairs
    assert (published.served.features, published.mirrored.features) == (describe("How?", ANSWER), None)
    assert world.skipped == {"failed": 1}
