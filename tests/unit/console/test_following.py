"""The log is read without a gap, whatever is lost between two answers of the bus, and written to the index once."""

import asyncio
import contextlib
import threading
from types import SimpleNamespace

import nats.errors
import pytest

from contracts.envelope import plain
from contracts.services import EVENTS
from contracts.vocabulary import canonical_json
from services.console.adapters.log import StreamLog
from services.console.follower import MOST_BEHIND, STREAMS, Follower
from testbed.story import fleet
from tests.unit.console.world import NOW, log_of

STORY = [entry for entry in log_of(fleet(NOW)) if entry.stream == EVENTS][:12]
STORED = len(STORY)


class FakeConsumer:
    """Delivers each message once, as one without acknowledgements; `faults` says what happens at each fetch."""

    def __init__(self, bus, start):
        self._bus, self._position, self._sequence, self.closed = bus, start - 1, 0, False

    async def fetch(self, batch, timeout):  # noqa: ARG002 - answers at once
        fault = self._bus.faults.pop(0) if self._bus.faults else None
        entries = STORY[self._position : min(self._position + batch, self._bus.stored)]
        messages = []
        for entry in entries:
            self._position, self._sequence = self._position + 1, self._sequence + 1
            messages.append(self._message(entry))
        if isinstance(fault, int):
            return messages[:fault] or self._timeout()
        if fault is not None:
            raise fault
        return messages or self._timeout()

    def _timeout(self):
        raise nats.errors.TimeoutError

    def _message(self, entry):
        pending = self._bus.stored - self._position
        sequence = SimpleNamespace(stream=entry.sequence, consumer=self._sequence)
        return SimpleNamespace(
            subject=entry.event.nats_subject,
            data=canonical_json(plain(entry.event)),
            metadata=SimpleNamespace(num_pending=pending, sequence=sequence),
        )

    async def consumer_info(self):
        return SimpleNamespace(delivered=SimpleNamespace(consumer_seq=self._sequence))

    async def unsubscribe(self):
        self.closed = True


class FakeJetStream:
    """A stream with the first events of the story; its consumers lose what `faults` says."""

    def __init__(self, *faults, stored=STORED):
        self.faults, self.stored, self.consumers = list(faults), stored, []

    async def pull_subscribe(self, _subject, *, stream, config):
        assert stream == EVENTS
        self.consumers.append(FakeConsumer(self, config.opt_start_seq))
        return self.consumers[-1]


async def read_all(js, reads=20):
    stream_log, start, sequences = StreamLog(lambda: js, retry_s=0), 1, []
    for _ in range(reads):
        start, events = await stream_log.read(EVENTS, start, 0.01)
        sequences += [entry.sequence for entry in events]
    return sequences


@pytest.mark.parametrize(
    "faults",
    [
        (),
        (None, nats.errors.TimeoutError()),
        (None, nats.errors.ConnectionClosedError()),
        (nats.errors.TimeoutError(),),
        (nats.errors.ConnectionClosedError(),),
        (None, 0),
        (None, 4),
        (0, None, 3, nats.errors.TimeoutError()),
    ],
)
def test_every_event_is_read_once_and_in_order_whatever_a_consumer_loses(faults):
    js = FakeJetStream(*faults)
    assert asyncio.run(read_all(js)) == [entry.sequence for entry in STORY]
    assert all(consumer.closed for consumer in js.consumers[:-1])


def test_the_last_message_is_read_although_it_was_lost_and_none_follows():
    js = FakeJetStream(nats.errors.TimeoutError(), stored=1)
    assert asyncio.run(read_all(js, 4)) == [1]


def test_a_consumer_that_has_nothing_to_deliver_stays():
    js = FakeJetStream(stored=0)
    assert asyncio.run(read_all(js, 4)) == []
    assert len(js.consumers) == 1


class FakeLog:
    """Streams whose identity a test changes; one has an event, those of the others have expired."""

    def __init__(self, last=1):
        self.name = "first"
        self.last = last

    async def identity(self, stream):
        return self.name, *((1, self.last) if stream == EVENTS else (8, 7))

    async def read(self, stream, start, _wait_s):
        if start == 1 and stream == EVENTS:
            return self.last + 1, STORY[:1]
        await asyncio.sleep(0.01)
        return start, []


class SlowRows:
    """Rows whose writing takes until a test lets it go on."""

    def __init__(self):
        self.steps, self.writing, self.go_on = [], threading.Event(), threading.Event()
        self.known = {}

    def clear(self):
        self.steps.append("clear")
        self.known = {}

    def positions(self):
        return dict(self.known)

    def write(self, stream, sequence, identity, _rows):
        self.writing.set()
        if identity == "first":
            self.go_on.wait(5)
        self.known[stream] = (sequence, identity)
        self.steps.append(identity)


async def nothing(_events):
    return None


async def run_until(condition, follower, before=lambda: None):
    task = asyncio.ensure_future(follower.run())
    for _ in range(400):
        await asyncio.sleep(0.005)
        before()
        if condition():
            break
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_what_a_cancelled_task_was_writing_is_removed_with_the_stream_that_it_is_of():
    async def go():
        streams, rows = FakeLog(), SlowRows()

        def change():
            if rows.writing.is_set() and streams.name == "first":
                streams.name = "second"
                asyncio.get_running_loop().call_later(0.1, rows.go_on.set)

        await run_until(lambda: "second" in rows.steps, Follower(streams, rows, lambda *_: None, nothing, set), change)
        return rows

    rows = asyncio.run(go())
    assert rows.steps == ["first", "clear", "second"]
    assert rows.known[EVENTS] == (1, "second")


def test_a_stream_is_followed_from_where_the_index_ends_and_pages_learn_of_it():
    async def go():
        streams, rows, published, announced = FakeLog(), SlowRows(), [], []
        rows.go_on.set()

        async def publish(events):
            published.extend(events)

        follower = Follower(streams, rows, lambda *_: None, publish, announced.append)
        await run_until(lambda: bool(published), follower)
        return follower, published, announced

    follower, published, announced = asyncio.run(go())
    assert published == STORY[:1]
    assert follower.progress.indexed == {stream: int(stream == EVENTS) for stream in STREAMS}
    assert (follower.progress.behind, announced) == (0, []), "what has expired is not awaited"


def test_pages_learn_that_the_index_was_built():
    async def go():
        streams, rows, announced = FakeLog(last=MOST_BEHIND + 1), SlowRows(), []
        rows.go_on.set()
        await run_until(lambda: bool(announced), Follower(streams, rows, lambda *_: None, nothing, announced.append))
        return announced

    assert asyncio.run(go()) == [{"incidents"}]


class LosingLog(FakeLog):
    """Streams of which a read loses its first cancellation, as one that a message comes to in the same moment."""

    def __init__(self):
        super().__init__()
        self.reading, self.lost = asyncio.Event(), False

    async def read(self, stream, start, wait_s):
        try:
            self.reading.set()
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if self.lost:
                raise
            self.lost = True
        return await super().read(stream, start, wait_s)


def test_following_ends_though_a_read_loses_its_cancellation():
    async def go():
        streams, rows = LosingLog(), SlowRows()
        rows.go_on.set()
        task = asyncio.ensure_future(Follower(streams, rows, lambda *_: None, nothing, set).run())
        await streams.reading.wait()
        task.cancel()
        await asyncio.wait([task], timeout=20)
        return streams.lost, task.done()

    assert asyncio.run(go()) == (True, True)
