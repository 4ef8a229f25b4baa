"""Reads the index (list of loaded models) of every engine; a silent engine delays the others only briefly."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from services.server_manager.ports import Engines, Indexed, LeaseLost
from shared.errors import SlipwayError
from shared.runtime.clock import Clock

DOWN_AFTER_S = 3.0
"""Seconds of silence before an engine counts as down."""
OTHERS_WAIT_S = 2.0
"""Seconds to wait for other engines after the first answer; later answers count in the next pass."""

NoteIndex = Callable[[str, Mapping[str, Indexed], float], None]


class Indexes:
    """The indexes of a fleet's engines, by endpoint name."""

    def __init__(self, engines: Engines, clock: Clock, note: NoteIndex) -> None:
        """Start without any index.

        Args:
            engines: the engines by endpoint name.
            clock: measures silence.
            note: called with endpoint, index and the request's monotonic time.
        """
        self._engines = engines
        self._clock = clock
        self._note = note
        self._asked: dict[str, tuple[asyncio.Future[Mapping[str, Indexed] | None], float]] = {}
        self._answered: dict[str, float] = {}
        self._listed: dict[str, frozenset[str]] = {}
        self.fenced: set[str] = set()
        """Endpoints that last refused this process because another one has a higher term."""
        self._log = structlog.get_logger()

    @property
    def listed(self) -> frozenset[str] | None:
        """Return the targets loaded, loading or unloading on any engine; None if an index is missing."""
        if len(self._listed) < len(self._engines):
            return None
        return frozenset().union(*self._listed.values())

    @property
    def listing(self) -> frozenset[str]:
        """Return the endpoints with an index in this pass."""
        return frozenset(self._listed)

    async def ask(self) -> frozenset[str]:
        """Request all indexes; return the endpoints that answered."""
        self._listed = {}
        for name, engine in self._engines.items():
            if name not in self._asked:
                now = self._clock.monotonic()
                self._answered.setdefault(name, now)
                self._asked[name] = asyncio.ensure_future(engine.index()), now
        tasks = [task for task, _ in self._asked.values()]
        _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            await asyncio.wait(pending, timeout=OTHERS_WAIT_S)
        return frozenset(name for name in list(self._asked) if self._take(name))

    def _take(self, name: str) -> bool:
        """Apply the answer of an engine; return whether it answered."""
        task, asked_at = self._asked[name]
        if not task.done():
            self._log.warning("the engine does not answer", endpoint=name, reason="it is still being waited for")
            return False
        del self._asked[name]
        self.fenced.discard(name)
        try:
            index = task.result()
        except LeaseLost as error:
            self._log.warning("the engine lists nothing for this process", endpoint=name, why=str(error))
            self.fenced.add(name)
            return False
        except SlipwayError as error:
            self._log.warning("the engine does not answer", endpoint=name, code=error.code, reason=error.reason)
            return False
        except Exception:  # noqa: BLE001 - one engine must not stop the others
            self._log.exception("the engine failed in an unknown way", endpoint=name)
            return False
        self._answered[name] = self._clock.monotonic()
        if index is not None:
            self._note(name, index, asked_at)
            self._listed[name] = frozenset(key for key, entry in index.items() if entry.ready or not entry.settled)
        return True

    def down(self, answering: frozenset[str]) -> dict[str, float]:
        """Return the endpoints silent for at least `DOWN_AFTER_S`, with the seconds of silence."""
        now = self._clock.monotonic()
        silent = {name: now - self._answered.get(name, now) for name in self._engines.keys() - answering}
        return {name: seconds for name, seconds in silent.items() if seconds >= DOWN_AFTER_S}

    async def stop(self) -> None:
        """Cancel all requests and drop all indexes."""
        tasks = [task for task, _ in self._asked.values()]
        self._asked, self._answered, self._listed = {}, {}, {}
        self.fenced.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
