"""Facts that are published and records that are changed without a pause, and what became of each."""

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from nats.js import JetStreamContext

from contracts import facts as f
from contracts.envelope import Event, nats_subject
from contracts.routes import Route
from contracts.services import EVENTS
from shared.errors import Transient
from shared.messaging.publishing import publish_event
from shared.runtime.clock import SystemClock
from shared.storage.compare_and_set import edit_record
from shared.storage.kv import Bucket
from testbed import factories

_AGAIN_S = 0.1
_LAST_WRITE_S = 60.0
COUNTED = "counted"
"""The model of these facts and records, which no service has."""


@dataclass
class Published:
    """Facts that one client publishes, each until the bus acknowledges it."""

    js: JetStreamContext
    every_s: float = 0.005
    acknowledged: list[str] = field(default_factory=list)
    failures: int = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Publish one fact after the other until told to stop."""
        while not stop.is_set():
            event = _event(f.OrderAccepted(order_id=str(uuid.uuid4()), order_type=f.RollbackOrdered.TYPE))
            while True:
                try:
                    await publish_event(self.js, event)
                    break
                except Transient:
                    self.failures += 1
                    await asyncio.sleep(_AGAIN_S)
            self.acknowledged.append(event.id)
            await asyncio.sleep(self.every_s)


@contextlib.asynccontextmanager
async def writing(*writers: "Published | Counted") -> AsyncIterator[None]:
    """Let these write; at the end wait until what each of them is about to write is written."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(writer.run(stop)) for writer in writers]
    try:
        yield
        stop.set()
        async with asyncio.timeout(_LAST_WRITE_S):
            await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _event(fact: f.Fact) -> Event:
    return Event[type(fact)](
        id=str(uuid.uuid4()),
        source=factories.source_for(type(fact)),
        type=fact.TYPE,
        subject=COUNTED,
        time=SystemClock().now(),
        correlationid="counted",
        data=fact,
    )


@dataclass
class Audit:
    """Facts that were acknowledged, and those of them that the stream does not have, or has more than once."""

    acknowledged: int
    lost: list[str]
    twice: list[str]


async def audit(js: JetStreamContext, *published: Published) -> Audit:
    """Read all these facts from the stream, and compare them with those that were acknowledged."""
    subject = nats_subject(f.OrderAccepted.TYPE, COUNTED, "*")
    state = (await js.stream_info(EVENTS, subjects_filter=subject)).state
    subscription = await js.subscribe(subject, stream=EVENTS, ordered_consumer=True)
    stored: Counter[str] = Counter()
    for _ in range(sum((state.subjects or {}).values())):
        message = await subscription.next_msg(timeout=20)
        stored[(message.headers or {})["Nats-Msg-Id"]] += 1
    await subscription.unsubscribe()
    acknowledged = [fact_id for each in published for fact_id in each.acknowledged]
    lost = [fact_id for fact_id in acknowledged if not stored[fact_id]]
    return Audit(len(acknowledged), lost, [fact_id for fact_id, times in stored.items() if times > 1])


@dataclass
class Counted:
    """A record that one client changes by compare-and-set: each change adds one, once."""

    js: JetStreamContext
    every_s: float = 0.01
    changes: int = 0
    failures: int = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Make one change after the other until told to stop; one whose outcome is unknown is decided again."""
        bucket = Bucket(self.js, "routes", Route)
        while not stop.is_set():
            cause = str(uuid.uuid4())

            def decide(route: Route | None, cause: str = cause) -> Route:
                if route is not None and route.cause_id == cause:
                    return route
                return Route(model=COUNTED, epoch=route.epoch + 1 if route else 1, cause_id=cause)

            while True:
                try:
                    await edit_record(bucket, COUNTED, decide, name=f"routes/{COUNTED}")
                    break
                except Transient:
                    self.failures += 1
                    await asyncio.sleep(_AGAIN_S)
            self.changes += 1
            await asyncio.sleep(self.every_s)

    async def stored(self) -> int:
        """Return how many changes the record had; 0 without one."""
        entry = await Bucket(self.js, "routes", Route).get(COUNTED)
        return entry.value.epoch if entry is not None else 0
