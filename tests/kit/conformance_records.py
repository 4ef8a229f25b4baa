"""The conformance suite of the record store: run over the in-memory twin and over a real server."""

import asyncio
import random

import pytest
from nats.errors import ConnectionClosedError

from contracts.facts import CheckpointMerged, DeadlinePassed
from shared.errors import Permanent, Transient
from shared.messaging.publishing import Emit
from shared.runtime.sweeper import Sweeper
from shared.storage.compare_and_set import ATTEMPTS
from tests.kit.records import STEPS, Faults, Killed, Tally, count, raising, tally_store

KEY = "support-bot.tally"


class RecordsConformance:
    """A subclass has a fixture `world` with:

    `records(kind)`, `publisher`: what a process has; a new call of `records` is another process.
    `async put(key, bytes)`, `async get(key)`: the bytes of a record.
    `async log()`: release_id and step of each stored fact, in order. `async origins()`: model, correlation id,
    environment and cause of each.
    `async forget()`: lets the dedupe window pass. `async lose()`, `async restore()`: the bucket.
    `limit_bytes`: the largest record. `options`: more arguments of the store, among them the `boottime` that `forget`
    moves past the window.
    """

    def process(self, world, faults=None, **more):
        return tally_store(world.records(Tally), world.publisher, faults, **{**world.options, **more})

    async def test_a_change_is_written_then_published_then_cleared(self, world):
        store = self.process(world)
        tally = await store.transact(KEY, count("a", facts=3))
        assert tally == Tally(causes=("a",)) == await store.read(KEY)
        assert await world.log() == [("a", "0"), ("a", "1"), ("a", "2")]
        assert await store.keys() == [KEY]

    async def test_a_duplicate_of_a_cause_writes_and_publishes_nothing(self, world):
        store = self.process(world)
        await store.transact(KEY, count("a"))
        before = await world.records(Tally).get(KEY)
        for process in (store, self.process(world)):
            assert await process.transact(KEY, count("a")) == before.value
        assert (await world.records(Tally).get(KEY)).revision == before.revision
        assert await world.log() == [("a", "0")]

    async def test_a_decision_for_nothing_creates_nothing(self, world):
        store = self.process(world)
        assert await store.transact(KEY, lambda tally: tally) is None
        assert await store.publish(KEY) is None
        assert await store.read(KEY) is None
        assert await store.keys() == []

    async def test_what_a_decision_raises_passes_through_and_changes_nothing(self, world):
        store = self.process(world)
        await store.transact(KEY, count("a"))

        def refuse(_tally):
            raise Permanent("order_expired", "Too old.")

        with pytest.raises(Permanent, match="order_expired"):
            await store.transact(KEY, refuse)
        assert await store.read(KEY) == Tally(causes=("a",))

    async def test_what_is_only_written_is_published_later(self, world):
        store = self.process(world)
        assert len((await store.write(KEY, count("a"))).outbox) == 1
        assert await world.log() == []
        assert await store.publish(KEY) == Tally(causes=("a",))
        assert await world.log() == [("a", "0")]

    @pytest.mark.parametrize("ends", ["failure", "kill"])
    @pytest.mark.parametrize("heals", ["delivered again", "swept"])
    async def test_after_a_crash_or_failure_at_any_step_each_fact_is_there_once(self, world, ends, heals):
        """Each step on a record of its own; also when the dedupe window has passed in between."""
        for step in STEPS:
            await self.check_step(world, step, step.replace(" ", "-"), ends=ends, swept=heals == "swept")

    async def check_step(self, world, step, key, *, ends, swept):
        async def log():
            return [cause for cause, _ in await world.log() if cause.endswith(step)]

        before, cause, faults = f"before {step}", f"at {step}", Faults()
        await self.process(world).transact(key, count(before))
        faults.at[step] = raising(Killed() if ends == "kill" else ConnectionClosedError())
        process = self.process(world, faults)
        with pytest.raises(Killed if ends == "kill" else Transient):
            await process.transact(key, count(cause))
        assert not faults.at, f"{step} was not reached"
        await world.forget()
        process = self.process(world) if ends == "kill" else process
        if swept:
            assert await Sweeper("tallies", process.keys, process.publish, every_s=1.0).sweep() == 0
            written = cause in (await process.read(key)).causes
            assert written == (step not in ("get 1 before", "get 1 after", "write 1 before")), step
            assert await log() == [before, cause][: 1 + written]
            assert (await process.read(key)).outbox == (), step
        assert await process.transact(key, count(cause)) == Tally(causes=(before, cause))
        assert await log() == [before, cause]

    @pytest.mark.parametrize("step", ["get 1 after", "write 1 before", "write 1 after", "publish 1 after"])
    async def test_another_writer_between_two_steps_loses_nothing(self, world, step):
        faults, other = Faults(), self.process(world)

        async def write_between():
            await other.transact(KEY, count("b"))

        faults.at[step] = write_between
        process = self.process(world, faults)
        await process.transact(KEY, count("a"))
        assert not faults.at
        after = await process.read(KEY)
        assert sorted(after.causes) == ["a", "b"]
        assert after.outbox == ()
        assert sorted(await world.log()) == [("a", "0"), ("b", "0")]

    @pytest.mark.parametrize("step", ["write 1 after", "publish 1 after", "publish 2 after"])
    async def test_a_process_that_stood_still_for_the_dedupe_window_publishes_nothing_again(self, world, step):
        """Stopped, or suspended with its machine: another process publishes and clears meanwhile."""
        faults, other = Faults(), self.process(world)

        async def stand_still():
            await other.publish(KEY)
            await world.forget()

        faults.at[step] = stand_still
        stopped = self.process(world, faults)
        await stopped.transact(KEY, count("a", facts=3))
        assert not faults.at
        assert await world.log() == [("a", "0"), ("a", "1"), ("a", "2")]
        assert (await other.read(KEY)).outbox == ()

    async def test_what_was_written_a_moment_ago_is_published_without_a_look_at_the_log(self, world):
        faults = Faults()
        process = self.process(world, faults)
        await process.transact(KEY, count("a"))
        await process.write(KEY, count("b"))
        await process.write(KEY, count("c"))
        await process.publish(KEY)
        assert "look" not in faults.counts
        assert [cause for cause, _ in await world.log()] == ["a", "b", "c"]

    async def test_what_another_process_wrote_or_this_one_long_ago_is_looked_up_once(self, world):
        faults = Faults()
        process = self.process(world, faults)
        await self.process(world).write(KEY, count("another"))
        await process.publish(KEY)
        assert faults.counts["look"] == 1
        await process.write(KEY, count("own"))
        await world.forget()
        await process.publish(KEY)
        assert faults.counts["look"] == 2
        assert [cause for cause, _ in await world.log()] == ["another", "own"]

    async def test_where_a_decision_may_be_made_again_each_written_fact_is_looked_up(self, world):
        faults = Faults()
        process = self.process(world, faults, decides_again=True)
        for looks in (1, 2):
            await process.write(KEY, lambda tally: count("a")(tally and tally.model_copy(update={"causes": ()})))
            await process.publish(KEY)
            assert faults.counts["look"] == looks
        assert faults.counts["publish"] == 1
        assert await world.log() == [("a", "0")]

    async def test_while_a_publication_waits_its_record_is_written_and_the_order_of_facts_stays(self, world):
        faults, later = Faults(), []
        process = self.process(world, faults)

        async def write_meanwhile():
            async with asyncio.timeout(10):
                later.append(asyncio.create_task(process.transact(KEY, count("b"))))
                await asyncio.sleep(0)  # it is first in the queue
                assert (await process.write(KEY, count("c"))).causes == ("a", "b", "c")

        faults.at["publish 1 before"] = write_meanwhile
        await process.transact(KEY, count("a"))
        assert not faults.at
        assert (await later[0]).causes == ("a", "b", "c")
        assert [cause for cause, _ in await world.log()] == ["a", "b", "c"]
        assert (await process.read(KEY)).outbox == ()

    async def test_a_publication_that_fails_is_done_by_the_one_that_waits_for_it(self, world):
        faults, later = Faults(), []
        process = self.process(world, faults)

        async def fail():
            later.append(asyncio.create_task(process.transact(KEY, count("b"))))
            await asyncio.sleep(0)  # it is first in the queue
            raise Transient("stream_full", "Full.")

        faults.at["publish 1 before"] = fail
        with pytest.raises(Transient, match="stream_full"):
            await process.transact(KEY, count("a"))
        assert await later[0] == Tally(causes=("a", "b"))
        assert [cause for cause, _ in await world.log()] == ["a", "b"]

    async def test_an_id_is_stored_once_within_the_dedupe_window_and_again_after_it(self, world):
        emit = Emit(DeadlinePassed(release_id="a", step="0", waiting_for="nothing"), model="support-bot", id="a")
        await world.publisher.publish(emit)
        await world.publisher.publish(emit)
        assert await world.log() == [("a", "0")]
        await world.forget()
        await world.publisher.publish(emit)
        assert await world.log() == [("a", "0")] * 2

    async def test_a_fact_that_the_service_does_not_declare_is_not_published(self, world):
        fact = CheckpointMerged.model_construct()  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="does not declare"):
            await world.publisher.publish(Emit(fact, model="support-bot", id="a"))

    async def test_a_fact_that_is_larger_than_the_bus_takes_is_refused(self, world):
        fact = DeadlinePassed(release_id="a", step="0", waiting_for="x" * (world.limit_bytes + 600))
        with pytest.raises(Permanent) as caught:
            await world.publisher.publish(Emit(fact, model="support-bot", id="a"))
        assert caught.value.code == "internal_error"
        assert await world.log() == []

    async def test_all_of_many_writers_get_through_in_a_bounded_number_of_attempts(self, world):
        """Eight processes, each with two writers, all at one record: none needs half of the allowed attempts."""
        attempts, numbers = [], random.Random(7)

        async def write(store, cause):
            tries = 0

            def decide(tally):
                nonlocal tries
                tries += 1
                return count(cause)(tally)

            await store.transact(KEY, decide)
            attempts.append(tries)

        stores = [self.process(world, jitter=numbers.random) for _ in range(8)]
        await asyncio.gather(*(write(store, f"{n} {part}") for n, store in enumerate(stores) for part in (1, 2)))
        final = await stores[0].read(KEY)
        assert (len(final.causes), final.outbox) == (16, ())
        assert sorted(await world.log()) == sorted((cause, "0") for cause in final.causes)
        assert max(attempts) <= ATTEMPTS / 2

    async def test_facts_keep_their_order_and_a_failed_one_holds_those_behind_it(self, world):
        faults = Faults()
        process = self.process(world, faults)
        faults.at["publish 2 before"] = raising(Transient("stream_full", "Full."))
        with pytest.raises(Transient, match="stream_full"):
            await process.transact(KEY, count("a", facts=3))
        assert await world.log() == [("a", "0")]
        await world.forget()
        await process.transact(KEY, count("b"))
        assert await world.log() == [("a", "0"), ("a", "1"), ("a", "2"), ("b", "0")]

    @pytest.mark.parametrize("refusal", [Permanent("too_large", "Too large for its stream."), ValueError("undeclared")])
    async def test_a_fact_that_is_refused_for_good_fails_no_message_and_stays_in_the_outbox(self, world, refusal):
        """The message is done: delivered again, it could only be refused for what its record holds."""
        faults = Faults()
        process = self.process(world, faults)
        faults.at["publish 2 before"] = raising(refusal)
        tally = await process.transact(KEY, count("a", facts=3))
        assert [pending.key for pending in tally.outbox] == ["1", "2"], "what is published is cleared all the same"
        assert await process.read(KEY) == tally
        assert await world.log() == [("a", "0")]
        await world.forget()
        assert await process.publish(KEY) == Tally(causes=("a",))
        assert await world.log() == [("a", "0"), ("a", "1"), ("a", "2")]

    async def test_a_lost_bucket_is_transient_and_a_new_one_starts_empty(self, world):
        store = self.process(world)
        await store.transact(KEY, count("a"))
        await world.lose()
        for call in (store.transact(KEY, count("b")), store.read(KEY), store.keys()):
            with pytest.raises(Transient) as caught:
                await call
            assert caught.value.code == "bus_unavailable"
        await world.restore()
        assert await store.transact(KEY, count("b")) == Tally(causes=("b",))

    async def test_a_record_that_is_too_large_is_refused_with_its_size_and_the_limit(self, world):
        store = self.process(world)
        await store.transact(KEY, count("a"))
        large = "x" * world.limit_bytes
        with pytest.raises(Transient) as caught:
            await store.transact(KEY, lambda tally: tally.model_copy(update={"note": large}))
        assert caught.value.code == "too_large"
        assert f"{world.limit_bytes:,}" in caught.value.reason
        assert await store.read(KEY) == Tally(causes=("a",))

    @pytest.mark.parametrize(
        "data",
        [
            b'{"schema_version":2,"causes":["a"]}',
            b'{"schema_version":2,"causes":{"a":1}}',
            b'{"causes":["a"]}',
            b'{"occupant":[],"schema_version":null}',
            b'{"schema_version":0}',
            b'{"schema_version":true}',
            b'{"schema_version":1.0}',
        ],
    )
    async def test_a_record_of_another_version_is_neither_decided_on_nor_written(self, world, data):
        await world.put(KEY, data)
        store = self.process(world)
        for call in (store.read(KEY), store.transact(KEY, count("b"))):
            with pytest.raises(Transient) as caught:
                await call
            assert caught.value.code == "record_version_unknown"
        assert await world.get(KEY) == data

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{not json",
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"schema_version":1,"causes":' + b"[" * 100_000,
            b'{"schema_version":1,"causes":7}',
        ],
        ids=["empty", "not JSON", "not text", "nested", "nested within", "of another type"],
    )
    async def test_a_damaged_record_is_refused_and_named(self, world, data):
        await world.put(KEY, data)
        with pytest.raises(Transient, match=KEY) as caught:
            await self.process(world).transact(KEY, count("b"))
        assert caught.value.code == "internal_error"
        assert "Restore it from a backup" in caught.value.reason
        assert await world.get(KEY) == data

    async def test_a_fact_is_published_with_the_origin_that_its_entry_names(self, world):
        await self.process(world).transact(KEY, count("a"))
        assert await world.origins() == [("support-bot", "a", "production", "a")]
