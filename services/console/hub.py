"""Notifies open pages of changes."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final

from contracts.envelope import Event
from contracts.facts import ReleaseProgressed, WorkProgressed
from services.console.domain.logged import LoggedEvent
from shared.runtime.clock import Clock, SystemClock

KEEP_ALIVE_S: Final = 15.0
GATHER_S: Final = 0.1
"""Changes within this time are sent as one."""
MOST_TOPICS: Final = 200
"""Above it one message says that all has changed."""
LIVE_KEPT: Final = 500
MOST_OF_A_SESSION: Final = 8
"""Pages of one session that are live at the same time."""


class Hub:
    """Collects which models and releases have changed, for each open page.

    Args:
        most: Pages that are served at the same time.
        clock: Says when a model changed.
    """

    def __init__(self, most: int, clock: Clock | None = None) -> None:
        self._most, self._clock = most, clock or SystemClock()
        self._changed_at: dict[str, float] = {}
        self._announced_at: dict[str, float] = {}
        self._waiting: set[_Listener] = set()
        self._closed = False
        self._live: dict[tuple[str, str, str], Event[Any]] = {}

    @property
    def listeners(self) -> int:
        """Return the number of open pages."""
        return len(self._waiting)

    async def publish(self, events: Sequence[LoggedEvent]) -> None:
        """Notify all pages of events that are in the index now."""
        for logged in events:
            self._notify(logged.event.subject, topics_of(logged.event))

    def progress(self, event: Event[WorkProgressed]) -> None:
        """Keep the newest progress of a step of a release, and notify all pages."""
        self._live.pop(key := (event.correlationid, event.data.step, event.data.variant or ""), None)
        self._live[key] = event
        while len(self._live) > LIVE_KEPT:
            self._live.pop(next(iter(self._live)))
        self._notify(event.subject, {f"release:{event.correlationid}"})

    def live(self, release_id: str) -> list[Event[Any]]:
        """Return the newest progress of work on a release."""
        return [event for (release, _, _), event in self._live.items() if release == release_id]

    def has_changed(self, since: float, models: Sequence[str] | None = None) -> bool:
        """Return whether a model has changed since a time (monotonic); a time to come is another machine's: yes."""
        if since > self._clock.monotonic():
            return True
        return any(at >= since for model, at in self._changed_at.items() if models is None or model in models)

    def _notify(self, model: str, topics: set[str]) -> None:
        self._changed_at[model] = self._clock.monotonic()
        for listener in self._waiting:
            if listener.models is None or model in listener.models:
                listener.add(topics)

    def announce(self, topics: set[str]) -> None:
        """Notify all pages of topics without a model, also pages that were rendered before and connect later."""
        self._announced_at |= dict.fromkeys(topics, self._clock.monotonic())
        for listener in self._waiting:
            listener.add(topics)

    def close(self) -> None:
        """End all streams, so that the process can end."""
        self._closed = True
        for listener in self._waiting:
            listener.changed.set()

    def is_full(self, session: str) -> bool:
        """Return whether no further page of a session is served."""
        own = sum(listener.session == session for listener in self._waiting)
        return self._closed or len(self._waiting) >= self._most or own >= MOST_OF_A_SESSION

    async def stream(
        self,
        models: Sequence[str] | None = None,
        session: str = "",
        still: Callable[[], bool] = lambda: True,
        keep_alive_s: float = KEEP_ALIVE_S,
        since: float | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> AsyncGenerator[str]:
        """Yield server-sent events: `change` with the topics that have changed, and comments that keep it open.

        Args:
            models: Only what is about these; None for all.
            session: Whose page it is.
            still: Whether the session goes on, asked every `keep_alive_s`; the stream ends with it.
            keep_alive_s: After how long without a change a comment is sent.
            since: When the page was rendered: what changed between that and this stream is sent as `all`.
            sleep: Waits while changes are gathered.
        """
        listener = _Listener(models, session)
        checked = asyncio.get_running_loop().time()
        self._waiting.add(listener)
        if since is not None:
            missed = {topic for topic, at in self._announced_at.items() if at >= since}
            listener.add({"all"} if self.has_changed(since, models) else missed)
        try:
            yield "retry: 1000\n\n"
            while not self._closed:
                if asyncio.get_running_loop().time() - checked >= keep_alive_s:
                    checked = asyncio.get_running_loop().time()
                    if not await asyncio.to_thread(still):
                        return
                try:
                    async with asyncio.timeout(keep_alive_s):
                        await listener.changed.wait()
                except TimeoutError:
                    yield ": keep open\n\n"
                    continue
                if not self._closed:
                    await sleep(GATHER_S)
                    yield f"event: change\ndata: {json.dumps(listener.take())}\n\n"
        finally:
            self._waiting.discard(listener)


class _Listener:
    """One open page, with the changes since the last message to it."""

    def __init__(self, models: Sequence[str] | None, session: str) -> None:
        self.models, self.session = models, session
        self.changed = asyncio.Event()
        self._topics: set[str] = set()

    def add(self, topics: set[str]) -> None:
        self._topics |= topics
        if len(self._topics) > MOST_TOPICS:
            self._topics = {"all"}
        if topics:
            self.changed.set()

    def take(self) -> list[str]:
        topics, self._topics = sorted(self._topics), set()
        self.changed.clear()
        return topics


def topics_of(event: Event[Any]) -> set[str]:
    """Return the topics that an event changes: its model, its release, and kinds of screens."""
    topics = {f"model:{event.subject}", event.type.split(".")[1]}
    if event.correlationid.startswith("r-"):
        topics.add(f"release:{event.correlationid}")
    if isinstance(event.data, ReleaseProgressed) and event.data.progress.outcome:
        topics.add("incidents")
    alert = getattr(event.data, "alert_id", None)
    if alert:
        topics.add(f"alert:{alert}")
    return topics
