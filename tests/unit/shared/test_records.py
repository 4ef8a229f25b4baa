"""The record store over its in-memory twin: the conformance suite, random histories, and fairness in virtual time."""

import asyncio
import contextlib
import random
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.errors import ConnectionClosedError

from contracts.facts import DeadlinePassed
from contracts.records import outbox_entry
from shared.errors import Permanent, Transient
from shared.messaging.topology import DEDUPE_WINDOW_S
from shared.storage.compare_and_set import ATTEMPTS, edit_record, wait_s
from shared.storage.kv import Conflict
from tests.kit.conformance_records import KEY, RecordsConformance
from tests.kit.fakes_rollback import FakeLog
from tests.kit.records import (
    AT,
    STEPS,
    Faults,
    Killed,
    MemoryBucket,
    MemoryPublisher,
    MemoryRecords,
    Tally,
    count,
    no_wait,
    raising,
    tally_store,
)
from tests.kit.soak import often
from tests.kit.virtual_time import run_virtual


class MemoryWorld:
    """One bucket and one log in memory."""

    def __init__(self):
        self.boottime_s = 0.0
        self.options = {"sleep": no_wait, "boottime": lambda: self.boottime_s}
        self.bucket = MemoryBucket()
        self.publisher = MemoryPublisher(now_s=lambda: self.boottime_s)
        self.limit_bytes = self.bucket.limit_bytes

    def records(self, kind):
        return MemoryRecords(kind, self.bucket)

    async def put(self, key, data):
        self.bucket.last_revision += 1
        self.bucket.data[key] = (self.bucket.last_revision, data)

    async def get(self, key):
        return self.bucket.data[key][1]

    async def log(self):
        return [(emit.fact.release_id, emit.fact.step) for emit in self.publisher.log]

    async def origins(self):
        return [(emit.model, emit.correlation_id, emit.environment, emit.cause_id) for emit in self.publisher.log]

    async def forget(self):
        self.boottime_s += DEDUPE_WINDOW_S

    async def lose(self):
        self.bucket.lost = True
        self.bucket.data.clear()

    async def restore(self):
        self.bucket.lost = False


class TestMemoryRecords(RecordsConformance):
    @pytest.fixture
    def world(self):
        return MemoryWorld()


class LogWorld(MemoryWorld):
    """One bucket, and the log that the rollback-controller is tested with."""

    publisher: FakeLog

    def __init__(self):
        super().__init__()
        self.publisher = FakeLog(self, service="registry", limit_bytes=self.limit_bytes)

    def now(self):
        return AT + timedelta(seconds=self.boottime_s)

    async def log(self):
        return [(fact.release_id, fact.step) for fact in self.publisher.facts(DeadlinePassed)]

    async def origins(self):
        events = [stored.event for stored in self.publisher.stored]
        return [(event.subject, event.correlationid, event.environment, event.causationid) for event in events]


class TestRecordsOnFakeLog(RecordsConformance):
    @pytest.fixture
    def world(self):
        return LogWorld()


# -- histories --------------------------------------------------------------------------------------------------------

CAUSES = st.sampled_from("abc")
ENDS = st.sampled_from([None, Killed(), ConnectionClosedError(), Transient("stream_full", "Full.")])
TRIES = st.lists(st.tuples(CAUSES, st.sampled_from([*STEPS, "look 1 before", "look 1 after"]), ENDS, st.booleans()))


@settings(deadline=None, max_examples=often(80))
@given(TRIES, st.integers(1, 3))
def test_whatever_fails_or_is_killed_in_any_order_each_cause_counts_once(tries, facts):
    """Each message is delivered until it is handled; in between, processes die and the dedupe window passes."""

    async def play():
        world = MemoryWorld()
        for cause, step, end, window_passes in tries:
            faults = Faults()
            if end is not None:
                faults.at[step] = raising(end)
            process = tally_store(world.records(Tally), world.publisher, faults, **world.options)
            with contextlib.suppress(Killed, Transient):
                await process.transact(KEY, count(cause, facts))
            if window_passes:
                await world.forget()
        process = tally_store(world.records(Tally), world.publisher, **world.options)
        for cause in "abc":
            await process.transact(KEY, count(cause, facts))
        final = await process.read(KEY)
        assert (sorted(final.causes), final.outbox) == (["a", "b", "c"], ())
        assert await world.log() == [(cause, str(number)) for cause in final.causes for number in range(facts)]

    asyncio.run(play())


async def test_a_fact_that_cannot_be_published_is_counted_at_each_try():
    world = MemoryWorld()
    world.publisher.failing = Permanent("too_large", "Too large for its stream.")
    process = tally_store(world.records(Tally), world.publisher, **world.options)
    await process.transact(KEY, count("a"))
    await process.publish(KEY)
    assert world.publisher.unpublishable == [DeadlinePassed.TYPE] * 2


# -- contention -------------------------------------------------------------------------------------------------------


class SlowRecords(MemoryRecords):
    """Each call takes 1 ms of virtual time."""

    async def _reach(self):
        await asyncio.sleep(0.001)
        await super()._reach()


@pytest.mark.parametrize("seed", range(5))
def test_processes_that_write_all_the_time_all_get_through(seed):
    """Twelve processes, each with ten changes of one record: each change within half of the attempts, none starves."""

    async def play():
        bucket, publisher, numbers, attempts = MemoryBucket(), MemoryPublisher(), random.Random(seed), []

        async def process(name):
            store = tally_store(SlowRecords(Tally, bucket), publisher, jitter=numbers.random)
            for number in range(10):
                tries = 0

                def decide(tally, cause=f"{name} {number}"):
                    nonlocal tries
                    tries += 1
                    return count(cause)(tally)

                await store.transact(KEY, decide)
                attempts.append(tries)

        await asyncio.gather(*(process(name) for name in range(12)))
        assert len(publisher.log) == len(attempts) == 120
        assert max(attempts) <= ATTEMPTS / 2, sorted(attempts)[-5:]

    run_virtual(play())


def test_writers_of_one_process_take_turns_in_the_order_in_which_they_came():
    async def play():
        store = tally_store(SlowRecords(Tally), MemoryPublisher())
        await asyncio.gather(*(store.transact(KEY, count(f"{number:02}")) for number in range(20)))
        return (await store.read(KEY)).causes

    causes = run_virtual(play())
    assert causes == tuple(sorted(causes))


async def test_a_change_that_is_never_first_is_given_up_after_a_bounded_number_of_attempts():
    class Contended(MemoryRecords):
        attempts = 0

        async def create(self, key, _value):
            self.attempts += 1
            raise Conflict(key)

    records = Contended(Tally)
    with pytest.raises(Transient, match="kept changing") as caught:
        await edit_record(records, KEY, count("a"), name="releases/x", sleep=no_wait)
    assert caught.value.code == "bus_unavailable"
    assert records.attempts == ATTEMPTS


def test_waits_between_attempts_are_random_and_bounded():
    assert [wait_s(attempt, 1.0) for attempt in (1, 2, 3)] == [0.005, 0.01, 0.02]
    assert max(wait_s(attempt, 1.0) for attempt in range(1, ATTEMPTS)) == 0.2
    assert {wait_s(attempt, 0.0) for attempt in range(1, ATTEMPTS)} == {0.0}


def test_an_entry_needs_a_cause_or_an_id():
    fact = DeadlinePassed(release_id="r", step="merge", waiting_for="merge")
    origin = {"model": "support-bot", "correlation_id": "r", "decided_at": AT}
    with pytest.raises(ValueError, match="needs a cause or an id"):
        outbox_entry(fact, cause_id=None, **origin)
    assert outbox_entry(fact, cause_id=None, id="alert-1", **origin).id == "alert-1"
    by_cause = [outbox_entry(fact, cause_id="c", key=key, **origin).id for key in ("a", "b", "a")]
    assert by_cause[0] == by_cause[2] != by_cause[1]
