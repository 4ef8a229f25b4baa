"""What the bus promises a service's handlers: run on the twin in memory and on a real NATS server."""

import asyncio
import contextlib

import pytest

from contracts.envelope import derived_id
from contracts.facts import AlertRaised, OrderRefused, RollbackFailed, RollbackOrdered, WorkAbandoned
from shared.errors import Permanent, Transient
from shared.messaging.delivery import UNKNOWN_ERROR_DELIVERIES
from shared.messaging.orders import order_refused
from testbed import factories as f

SERVICE = "rollback-controller"
OTHER = "other-bot"


def alert(event_id, model=f.MODEL, environment="production"):
    return f.event(AlertRaised, id=event_id, subject=model, environment=environment)


def failed(reason="No."):
    return f.fact(RollbackFailed, reason=reason)


class BusConformance:
    """A subclass gives the fixture `world`.

    It has `bus`, `ack_wait_s` (of `AlertRaised`), and as coroutines `start`, `kill` (ends the process of `bus` without a
    word, and makes another `bus`), `put` (stores an event for the service), `facts` (events of a type that the
    service published), `dead_letters` (their codes) and `unacknowledged` (how many messages no handler has finished).
    """

    @contextlib.asynccontextmanager
    async def handling(self, world, handler, fact=AlertRaised, **options):
        world.bus.on(fact, **options)(handler)
        await world.start()
        yield

    async def until(self, condition):
        async with asyncio.timeout(20):
            while not await condition():
                await asyncio.sleep(0.05)

    async def settled(self, world, count=0):
        async def done():
            return await world.unacknowledged() == count

        await self.until(done)

    async def test_what_a_handler_returns_is_published_in_its_order_as_caused_by_the_event(self, world):
        async def handler(event):
            return [failed(), f.fact(OrderRefused, reason="No.")]

        async with self.handling(world, handler):
            await world.put(alert("a1"))
            await self.settled(world)
            (event,), (refused,) = await world.facts(RollbackFailed), await world.facts(OrderRefused)
            assert (event.id, refused.id) == tuple(
                derived_id("a1", kind.TYPE) for kind in (RollbackFailed, OrderRefused)
            )
            assert (event.subject, event.causationid, event.correlationid) == (f.MODEL, "a1", f.RELEASE)
            assert (event.source, event.environment) == (f"/slipway/{SERVICE}", "production")

    async def test_an_event_that_is_stored_twice_has_one_result(self, world):
        handled = []

        async def handler(event):
            handled.append(world.bus.received.sequence)
            return failed()

        async with self.handling(world, handler):
            await world.put(alert("a1"))
            await world.put(alert("a1"))
            await self.settled(world)
            assert len(await world.facts(RollbackFailed)) == 1
            assert len(set(handled)) == 2
            assert handled == sorted(handled)

    async def test_messages_of_a_consumer_are_handled_one_after_the_other(self, world):
        at_work, most, order = 0, 0, []

        async def handler(event):
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(0.05)  # the next one would begin meanwhile
            order.append(event.id)
            at_work -= 1

        async with self.handling(world, handler):
            for number in range(4):
                await world.put(alert(f"a{number}"))
            await self.settled(world)
            assert (most, order) == (1, ["a0", "a1", "a2", "a3"])

    async def test_as_many_are_handled_at_once_as_there_are_workers(self, world):
        at_work, most, both = 0, 0, asyncio.Event()

        async def handler(event):
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            if at_work == 2:
                both.set()
            await both.wait()
            await asyncio.sleep(0.05)  # a third one would begin meanwhile
            at_work -= 1

        async with self.handling(world, handler, max_workers=2):
            for number in range(4):
                await world.put(alert(f"a{number}"))
            await self.settled(world)
            assert most == 2

    async def test_a_transient_error_brings_the_message_again_and_others_are_handled_meanwhile(self, world):
        tries, handled = [], []

        async def handler(event):
            if event.subject == OTHER:
                handled.append(len(tries))
                return None
            tries.append(world.bus.received)
            if len(tries) < 3:
                raise Transient("store_unavailable", "Gone.")
            return failed()

        async with self.handling(world, handler):
            await world.put(alert("a1"))
            await world.put(alert("a2", OTHER))
            await self.settled(world)
            assert len(await world.facts(RollbackFailed)) == 1
            assert len(tries) == 3
            assert len(set(tries)) == 1, "the same message, stored at the same time"
            assert handled in ([1], [2]), "not behind the last try"

    async def test_a_permanent_error_becomes_the_declared_fact(self, world):
        async def handler(event):
            raise Permanent("not_in_traffic", "It takes none.")

        async with self.handling(world, handler, failure=lambda _event, error: failed(error.reason)):
            await world.put(alert("a1"))
            await self.settled(world)
            (event,) = await world.facts(RollbackFailed)
            assert (event.data.reason, event.causationid) == ("It takes none.", "a1")
            assert await world.dead_letters() == []

    async def test_a_permanent_error_without_a_fact_is_a_dead_letter_and_abandons_the_work(self, world):
        async def handler(event):
            raise Permanent("engine_failed", "It broke.")

        async with self.handling(world, handler):
            await world.put(alert("a1"))
            await self.settled(world)
            (abandoned,) = await world.facts(WorkAbandoned)
            assert await world.dead_letters() == ["engine_failed"]
            assert (abandoned.data.cause_id, abandoned.data.cause_type) == ("a1", AlertRaised.TYPE)
            assert (abandoned.data.service, abandoned.data.code) == (SERVICE, "engine_failed")
            assert (abandoned.data.dead_letter_sequence, abandoned.correlationid) == (1, f.RELEASE)

    async def test_two_orders_with_one_id_have_a_refusal_each(self, world):
        async def handler(event):
            raise Permanent("not_in_traffic", event.data.reason)

        async with self.handling(world, handler, RollbackOrdered, failure=order_refused):
            for reason in ("first", "second"):
                await world.put(f.event(f.fact(RollbackOrdered, reason=reason), id="o1"))
            await self.settled(world)
            refused = await world.facts(OrderRefused)
            assert ["first" in event.data.reason for event in refused] == [True, False]
            assert [event.causationid for event in refused] == ["o1", "o1"]

    async def test_events_of_staging_come_to_their_own_handler_and_their_results_stay_there(self, world):
        handled = []

        async def production(event):
            handled.append(("production", event.id))

        async def staging(event):
            handled.append(("staging", event.id))
            return failed()

        world.bus.on(AlertRaised)(production)
        async with self.handling(world, staging, environment="staging"):
            await world.put(alert("a1", environment="staging"))
            await world.put(alert("a2"))
            await self.settled(world)
            assert sorted(handled) == [("production", "a2"), ("staging", "a1")]
            (event,) = await world.facts(RollbackFailed)
            assert event.environment == "staging"

    async def test_a_message_whose_process_is_killed_comes_again_after_the_ack_wait(self, world):
        handled, begun = [], asyncio.Event()

        async def hang(event):
            begun.set()
            await asyncio.Event().wait()

        async def handler(event):
            handled.append(event.id)

        async with self.handling(world, hang):
            await world.put(alert("a1"))
            await begun.wait()
        begun_s = asyncio.get_running_loop().time()
        await world.kill()
        async with self.handling(world, handler):
            await world.put(alert("a2", OTHER))
            await self.settled(world, 1)
            assert handled == ["a2"]
            await self.settled(world)
            assert handled == ["a2", "a1"]
            assert asyncio.get_running_loop().time() - begun_s >= world.ack_wait_s - 0.1

    async def test_an_unknown_error_is_a_dead_letter_after_five_tries(self, world, monkeypatch):
        monkeypatch.setattr("shared.messaging.delivery._BACKOFF_S", (0.05,))
        tries = []

        async def handler(event):
            tries.append(event.id)
            raise ZeroDivisionError("a defect")

        async with self.handling(world, handler):
            await world.put(alert("a1"))
            await self.settled(world)
            assert tries == ["a1"] * UNKNOWN_ERROR_DELIVERIES
            assert await world.dead_letters() == ["internal_error"]

    @pytest.mark.parametrize("perishable", [True, False])
    async def test_only_what_is_perishable_is_dropped_after_a_while_of_failures_at_one_record(
        self, world, monkeypatch, perishable
    ):
        monkeypatch.setattr("shared.messaging.delivery._BACKOFF_S", (0.05,))
        monkeypatch.setattr("shared.messaging.delivery.RECORD_LIMIT_S", 0.1)
        tries = []

        async def handler(event):
            tries.append(event.id)
            raise Transient("record_version_unknown", "Version 2.")

        async def tried():
            return len(tries) >= 6 or not await world.unacknowledged()

        async with self.handling(world, handler, perishable=perishable):
            await world.put(alert("a1"))
            await self.until(tried)
            assert await world.unacknowledged() == (0 if perishable else 1)
            assert await world.dead_letters() == []
            assert await world.facts(WorkAbandoned) == []
