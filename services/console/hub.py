"""Notifies open pages of changes by server-sent events."""

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
"""Seconds within which changes are sent together."""
MOST_TOPICS: Final = 200
"""Maximum topics in one message; beyond, a single `all` is sent."""
LIVE_KEPT: Final = 500
MOST_OF_A_SESSION: Final = 8
"""Maximum pages of one session with a live stream."""


class Hub:
    """Collects changed topics for each open page.

    Args:
        most: Maximum pages with a live stream.
        clock: Clock for the times of changes.
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
        """Notify pages of events that are now indexed."""
        for logged in events:
            self._notify(logged.event.subject, topics_of(logged.event))

    def progress(self, event: Event[WorkProgressed]) -> None:
        """Keep the newest progress of a release's step and notify pages."""
        self._live.pop(key := (event.correlationid, event.data.step, event.data.variant or ""), None)
        self._live[key] = event
        while len(self._live) > LIVE_KEPT:
            self._live.pop(next(iter(self._live)))
        self._notify(event.subject, {f"release:{event.correlationid}"})

    def live(self, release_id: str) -> list[Event[Any]]:
        """Return the newest progress of a release's running work."""
        return [event for (release, _, _), event in self._live.items() if release == release_id]

    def has_changed(self, since: float, models: Sequence[str] | None = None) -> bool:
        """Return whether a model changed since a monotonic time; True for a future time, taken on another machine."""
        if since > self._clock.monotonic():
            return True
        return any(at >= since for model, at in self._changed_at.items() if models is None or model in models)

    def _notify(self, model: str, topics: set[str]) -> None:
        self._changed_at[model] = self._clock.monotonic()
        for listener in self._waiting:
            if listener.models is None or model in listener.models:
                listener.add(topics)

    def announce(self, topics: set[str]) -> None:
        """Notify pages of topics without a model, including pages that were rendered earlier and connect later."""
        self._announced_at |= dict.fromkeys(topics, self._clock.monotonic())
        for listener in self._waiting:
            listener.add(topics)

    def close(self) -> None:
        """End all streams, so that the process can stop."""
        self._closed = True
        for listener in self._waiting:
            listener.changed.set()

    def is_full(self, session: str) -> bool:
        """Return whether a session's next page gets no live stream."""
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
        """Yield server-sent events: `change` with the changed topics, and keep-alive comments.

        Args:
            models: Models to report on; None for all.
            session: The page's session.
            still: Returns whether the session is valid; checked every `keep_alive_s`, and the stream ends with it.
            keep_alive_s: Seconds without a change before a comment is sent.
            since: Monotonic time when the page was rendered; changes before the stream began are sent first.
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
    """An open page with its unsent changes."""

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
    """Return the topics that an event changes: its model, release and alert, and kinds of pages."""
    topics = {f"model:{event.subject}", event.type.split(".")[1]}
    if event.correlationid.startswith("r-"):
        topics.add(f"release:{event.correlationid}")
    if isinstance(event.data, ReleaseProgressed) and event.data.progress.outcome:
        topics.add("incidents")
    alert = getattr(event.data, "alert_id", None)
    if alert:
        topics.add(f"alert:{alert}")
    return topics
