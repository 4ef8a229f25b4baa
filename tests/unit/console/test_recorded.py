"""Reading the log for a replay ends in time, also where each answer of the bus does."""

import asyncio
from types import SimpleNamespace

import nats.errors
import pytest

from services.console.adapters.recorded import RecordedEvents
from shared.errors import Transient
from tests.kit.virtual_time import virtual_time
from tests.unit.console.world import NOW


class SlowBus:
    """A bus that has events without end and answers every request after `answer_s`, with `error` if there is one."""

    def __init__(self, answer_s: float, error: Exception | None = None) -> None:
        self.answer_s, self.error, self.subscriptions = answer_s, error, 0

    async def pull_subscribe(self, _subject, **_options):
        self.subscriptions += 1
        return self

    async def consumer_info(self):
        return SimpleNamespace(num_pending=10**9)

    async def fetch(self, _count, timeout):
        await asyncio.sleep(min(self.answer_s, timeout))
        if self.error is not None:
            raise self.error
        return [SimpleNamespace(subject="x", data=b"{}")]

    async def unsubscribe(self):
        self.subscriptions -= 1


@pytest.mark.parametrize("answer_s", [0.01, 60.0])
@virtual_time
async def test_a_log_that_never_ends_is_read_for_a_limited_time(answer_s):
    bus = SlowBus(answer_s)
    with pytest.raises(Transient, match=r"cannot be read within 0\.2 s") as refused:
        await RecordedEvents(lambda: bus, within_s=0.2).read("m", NOW)
    assert refused.value.code == "bus_unavailable"
    assert asyncio.get_running_loop().time() == pytest.approx(0.2)
    assert bus.subscriptions == 0


def test_an_error_of_the_bus_is_no_deadline():
    bus = SlowBus(0.0, nats.errors.ConnectionClosedError())
    with pytest.raises(Transient, match=r"cannot be read \(") as refused:
        asyncio.run(RecordedEvents(lambda: bus).read("m", NOW))
    assert "within" not in str(refused.value)
