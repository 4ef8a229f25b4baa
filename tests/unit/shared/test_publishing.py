"""A fact whose acknowledgement was lost, on a bus that then does not answer."""

import types

import pytest
from nats.errors import TimeoutError as NoAnswer
from nats.js.api import PubAck
from nats.js.errors import ServiceUnavailableError

from contracts.envelope import Event
from contracts.facts import OrderAccepted
from shared.errors import Transient
from shared.messaging.publishing import publish_event
from testbed import factories
from tests.kit.virtual_time import START, virtual_time


class Bus:
    """Acknowledges what it has already, and fails when it is asked for it."""

    def __init__(self, *failures):
        self._failures = list(failures)
        self._nc = types.SimpleNamespace(max_payload=1_000_000)

    async def publish(self, subject, _body, *, headers, **_options):
        self._stored = types.SimpleNamespace(subject=subject, headers=headers)
        return PubAck(stream="SLIPWAY_EVENTS", seq=7, duplicate=True)

    async def get_msg(self, stream, seq):
        if self._failures:
            raise self._failures.pop(0)
        assert (stream, seq) == ("SLIPWAY_EVENTS", 7)
        return self._stored


def event():
    fact = OrderAccepted(order_id="o", order_type="slipway.rollback.ordered.v1")
    return Event[OrderAccepted](
        id="e-1",
        source=factories.source_for(OrderAccepted),
        type=OrderAccepted.TYPE,
        subject="chat",
        time=START,
        correlationid="r-1",
        data=fact,
    )


@virtual_time
async def test_a_bus_without_a_leader_is_asked_again_whether_a_duplicate_is_the_publishers_own():
    assert await publish_event(Bus(ServiceUnavailableError(), NoAnswer()), event()) is False


@virtual_time
async def test_one_that_stays_without_a_leader_is_unavailable():
    with pytest.raises(Transient) as caught:
        await publish_event(Bus(*[ServiceUnavailableError()] * 1000), event())
    assert caught.value.code == "bus_unavailable"
