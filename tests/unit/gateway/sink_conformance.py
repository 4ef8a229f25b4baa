"""What every sink of telemetry does, fake or real: inherited by one test class for each."""

from typing import Any

import pytest

from contracts.facts import InferenceBatch
from shared.errors import Transient
from testbed.factories import inference


def batch(*request_ids):
    records = tuple(inference(request_id=request_id) for request_id in request_ids)
    return InferenceBatch(gateway="gateway-1", records=records)


class SinkConformance:
    """Needs the fixtures `sink`, `unreachable` (one whose bus is away), and the method `stored(sink, count)`.

    `stored` returns (model, environment, ids of the requests) of each stored batch, in order.
    """

    stored: Any

    async def test_a_batch_is_stored_for_its_model_and_environment(self, sink):
        await sink.publish(batch("1", "2"), model="bot", environment="production", batch_id="b-1")
        await sink.publish(batch("3"), model="bot", environment="staging", batch_id="b-2")
        assert await self.stored(sink, 2) == [("bot", "production", ("1", "2")), ("bot", "staging", ("3",))]

    async def test_a_batch_that_is_published_again_is_stored_once(self, sink):
        for _ in range(3):
            await sink.publish(batch("1"), model="bot", environment="production", batch_id="b-1")
        await sink.publish(batch("2"), model="bot", environment="production", batch_id="b-2")
        assert await self.stored(sink, 2) == [("bot", "production", ("1",)), ("bot", "production", ("2",))]

    async def test_while_the_bus_is_away_it_says_so(self, unreachable):
        with pytest.raises(Transient) as caught:
            await unreachable.publish(batch("1"), model="bot", environment="production", batch_id="b-1")
        assert caught.value.code == "bus_unavailable"
