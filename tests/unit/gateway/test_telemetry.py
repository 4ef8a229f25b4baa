"""Batches: complete, sorted, bounded, sent once."""

import asyncio

import pytest

from contracts.facts import MirroredPair
from services.gateway.telemetry.recorder import Recorder
from shared.errors import Transient
from testbed.factories import inference, target
from tests.unit.gateway.fakes import FakeSink


def recorder(sink, *, queue=100, batch=10, interval_s=60.0, dropped=None):
    drops = dropped if dropped is not None else []
    return Recorder(
        sink, gateway="gw", queue=queue, batch=batch, interval_s=interval_s, on_drop=lambda: drops.append(1)
    )


def numbers(sink):
    return sorted(int(record.request_id) for _, _, batch in sink.batches.values() for record in batch.records)


async def test_everything_arrives_in_batches():
    sink = FakeSink()
    telemetry = recorder(sink)
    for number in range(25):
        telemetry.record(inference(request_id=str(number)))
    await telemetry.flush()
    assert numbers(sink) == list(range(25))
    assert [len(batch.records) for _, _, batch in sink.batches.values()] == [10, 10, 5]


async def test_models_and_environments_travel_apart():
    sink = FakeSink()
    telemetry = recorder(sink)
    telemetry.record(inference(environment="production"))
    telemetry.record(inference(environment="staging"))
    telemetry.record(inference(target=target(1, model="other")))
    await telemetry.flush()
    labels = [(model, environment) for model, environment, _ in sink.batches.values()]
    assert sorted(labels) == [("other", "production"), ("support-bot", "production"), ("support-bot", "staging")]


async def test_a_bus_that_is_away_loses_nothing_and_gets_nothing_twice():
    sink = FakeSink(down=True)
    telemetry = recorder(sink)
    for number in range(3):
        telemetry.record(inference(request_id=str(number)))
    with pytest.raises(Transient):
        await telemetry.flush()
    telemetry.record(inference(request_id="3"))
    sink.down = False
    await telemetry.flush()
    assert numbers(sink) == [0, 1, 2, 3]
    assert sink.attempts[0] == sink.attempts[1]


async def test_a_full_queue_drops_the_oldest_and_counts_it():
    sink, dropped = FakeSink(), []
    telemetry = recorder(sink, queue=5, dropped=dropped)
    for number in range(8):
        telemetry.record(inference(request_id=str(number)))
    await telemetry.flush()
    assert numbers(sink) == [3, 4, 5, 6, 7]
    assert len(dropped) == 3


async def test_a_full_batch_does_not_wait_for_the_interval():
    sink = FakeSink()
    telemetry = recorder(sink, batch=2)
    running = asyncio.ensure_future(telemetry.run())
    try:
        telemetry.record(inference(request_id="0"))
        telemetry.record(inference(request_id="1"))
        async with asyncio.timeout(5):
            while not sink.batches:
                await asyncio.sleep(0)
        assert numbers(sink) == [0, 1]
    finally:
        running.cancel()


async def test_a_lone_record_goes_after_the_interval():
    sink = FakeSink()
    telemetry = recorder(sink, interval_s=0.01)
    running = asyncio.ensure_future(telemetry.run())
    try:
        telemetry.record(inference(request_id="0"))
        async with asyncio.timeout(5):
            while not sink.batches:
                await asyncio.sleep(0.001)
    finally:
        running.cancel()


async def test_a_batch_that_is_never_taken_costs_no_other_model_its_records_and_is_counted():
    sink, dropped = FakeSink(refused="other"), []
    telemetry = recorder(sink, interval_s=0.01, dropped=dropped)
    for number in range(2):
        telemetry.record(inference(request_id=str(number), target=target(1, model="other")))
    telemetry.record(inference(request_id="2"))
    running = asyncio.ensure_future(telemetry.run())
    try:
        async with asyncio.timeout(5):
            while not sink.batches:
                await asyncio.sleep(0.001)
    finally:
        running.cancel()
    assert numbers(sink) == [2]
    assert len(dropped) == 2


async def test_a_bus_that_is_away_is_said_until_it_is_back():
    sink = FakeSink(down=True)
    telemetry = recorder(sink, interval_s=0.01)
    running = asyncio.ensure_future(telemetry.run())
    try:
        telemetry.record(inference(request_id="0"))
        async with asyncio.timeout(5):
            while telemetry.problem is None:
                await asyncio.sleep(0.001)
            assert "away" in telemetry.problem
            sink.down = False
            while telemetry.problem is not None:
                await asyncio.sleep(0.001)
        assert numbers(sink) == [0]
    finally:
        running.cancel()


async def test_pairs_travel_with_the_records_of_their_model():
    sink = FakeSink()
    telemetry = recorder(sink)
    telemetry.record(inference())
    telemetry.record(MirroredPair(served=inference(), mirrored=inference(target=target(6))))
    await telemetry.flush()
    ((model, _, batch),) = sink.batches.values()
    assert (model, len(batch.records), len(batch.pairs)) == ("support-bot", 1, 1)
