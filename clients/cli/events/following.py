"""Follow the event log: new events as they arrive."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from clients.cli.events.event_log import EventFilter, LoggedEvent, Reader, by_consumer, parse, read_all, streams_of
from clients.cli.events.last_events import last_sequences
from clients.cli.reading import ANSWER_S, own_models
from contracts.envelope import nats_subject
from contracts.facts import WorkProgressed
from shared.errors import Transient
from shared.runtime.tasks import end_tasks

Put = Callable[[LoggedEvent], Awaitable[None]]
Subjects = list[tuple[str, ...]]
WAIT_S = 1.0
_AGAIN_S = 0.5


async def follow(
    client: Client, model: str | None = None, *, after: dict[str, int], where: EventFilter | None = None
) -> AsyncGenerator[LoggedEvent, None]:
    """Yield the events after these sequences as they arrive, without an end, also after restarts of the bus.

    Live progress events are included unless there is a filter. Close the generator (`contextlib.aclosing`) before the
    client.
    """
    queue: asyncio.Queue[LoggedEvent] = asyncio.Queue()

    async def on_progress(message: Msg) -> None:
        event = parse(message.subject, message.data)
        if event is not None:
            await queue.put(LoggedEvent("", 0, event))

    own = await own_models(client.jetstream(timeout=ANSWER_S))
    models = (model,) if model is not None else own
    groups = {stream: by_consumer(stream, models, where, of_team=own is not None) for stream in streams_of(where)}
    followed = [] if where is not None else ["*"] if models is None else models
    live = [await client.subscribe(nats_subject(WorkProgressed.TYPE, each, "*"), cb=on_progress) for each in followed]
    pumps = []
    for stream, subjects in groups.items():
        pump, js = _pump if len(subjects) == 1 else _take_turns, client.jetstream(timeout=ANSWER_S)
        pumps += [asyncio.create_task(pump(js, stream, subjects, after.get(stream, 0), queue.put))]
    try:
        while True:
            yield await _next_of(queue, pumps)
    finally:
        # while the connection is open: once it is closed, nats-py answers a cancellation with its own error
        await end_tasks(pumps, again_s=_AGAIN_S)
        with contextlib.suppress(nats.errors.Error):
            for subscription in live:
                await subscription.unsubscribe()


async def _pump(js: JetStreamContext, stream: str, subjects: Subjects, after: int, put: Put) -> None:
    """Put the events of a stream into a queue as they arrive, through one consumer."""
    reader = Reader(js, stream, *subjects, start=after + 1)
    while not js._nc.is_closed:  # noqa: SLF001 - nats-py turns a cancellation into an error once its connection is closed
        for logged in await reader.read(wait_s=WAIT_S):
            await put(logged)


async def _take_turns(js: JetStreamContext, stream: str, subjects: Subjects, after: int, put: Put) -> None:
    """Put the events of several subjects into a queue, with one consumer at a time: the identity may have few."""
    read = dict.fromkeys(subjects, after)
    while not js._nc.is_closed:  # noqa: SLF001 - as above
        with contextlib.suppress(TimeoutError, nats.errors.Error, Transient):
            last = (await last_sequences(js))[stream]
            for each in subjects:
                if read[each] < last:
                    history = await read_all(Reader(js, stream, each, start=read[each] + 1))
                    read[each] = max(last, *(logged.sequence for logged in history), 0)
                    for logged in history:
                        await put(logged)
        await asyncio.sleep(WAIT_S)


async def _next_of(queue: asyncio.Queue[LoggedEvent], pumps: list[asyncio.Task[None]]) -> LoggedEvent:
    """Return the next event; raise the error of a pump that failed."""
    getting = asyncio.create_task(queue.get())
    try:
        await asyncio.wait([getting, *pumps], return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not getting.done():
            getting.cancel()
    for task in pumps:
        if task.done():
            task.result()
    return await getting
