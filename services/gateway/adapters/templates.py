"""Renders chat templates in a pool of child processes."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from services.gateway.domain.requests import Message
from services.gateway.ports import PROBE_CONVERSATIONS, MessagesRejected, TemplateBusy, TemplateFailed
from shared.errors import SlipwayError
from shared.runtime.clock import Clock
from shared.serving.chat_templates import ChatTemplates

_RESULTS_KEPT = 64
_RESULT_KEPT_S = 30.0
_CONSECUTIVE_FAILURES = 3


_KINDS = ("bad_request", "engine_failed")
"""Codes that are caused by the template or the messages; any other is caused by the gateway."""


class SandboxedTemplates:
    """A small pool of rendering processes (implements `ports.Templates`).

    A template that loops for ever costs its time limit and one process. No template can use all processes, so a bad
    template of one model does not block the other models.
    """

    def __init__(self, clock: Clock, *, workers: int = 2, time_s: float = 2.0) -> None:
        self._clock = clock
        self._time_s = time_s
        # For probes only, with more time: the load by callers must not make a correct template fail.
        self._probe_worker = ChatTemplates(clock, limit_s=2 * time_s)
        self._probing = asyncio.Lock()
        self._probe_results: dict[tuple[str, str, str], tuple[float, bool]] = {}
        self._stopped: dict[tuple[str, str, str], int] = {}
        self._workers = [ChatTemplates(clock, limit_s=time_s) for _ in range(workers)]
        self._free: asyncio.LifoQueue[ChatTemplates] = asyncio.LifoQueue()
        for worker in self._workers:
            self._free.put_nowait(worker)
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(max(1, workers - 1)))

    async def start(self) -> None:
        """Start the processes, so that no request waits for it."""
        template, messages = "{{ messages[0].content }}", PROBE_CONVERSATIONS[0]
        await asyncio.gather(*(worker.render(template, messages) for worker in (*self._workers, self._probe_worker)))

    async def close(self) -> None:
        """End the processes."""
        await asyncio.gather(*(worker.close() for worker in (*self._workers, self._probe_worker)))

    async def render(self, template: str, messages: Sequence[Message], *, bos_token: str, eos_token: str) -> str:
        """Return a rendered conversation (see `ports.Templates`)."""
        turn = self._turns[template]
        try:
            async with asyncio.timeout(self._time_s):
                await turn.acquire()
        except TimeoutError:
            message = f"No process was free to render the conversation within {self._time_s:g} s; try again."
            raise TemplateBusy(message) from None
        try:
            worker = await self._free.get()
            try:
                return await worker.render(template, messages, bos_token=bos_token, eos_token=eos_token)
            except SlipwayError as error:
                raise _as_failure(error) from error
            finally:
                self._free.put_nowait(worker)
        finally:
            turn.release()

    async def renders_probe(self, template: str, *, bos_token: str, eos_token: str) -> bool | None:
        """Return whether the template renders the probe conversations (see `ports.Templates`); cached for 30 s.

        A process that took too long or ended counts as a failure only after three times in a row.
        """
        key = (template, bos_token, eos_token)
        try:
            async with asyncio.timeout(4 * self._time_s), self._probing:
                valid_until_s, renders = self._probe_results.get(key, (0.0, False))
                if self._clock.monotonic() < valid_until_s:
                    return renders
                result = await self._probe(template, bos_token, eos_token)
        except (TimeoutError, SlipwayError):
            return None
        stopped = self._stopped.pop(key, 0) + 1
        if result is None and stopped < _CONSECUTIVE_FAILURES:
            _evict_oldest(self._stopped)
            self._stopped[key] = stopped
            return None
        renders = result is True
        _evict_oldest(self._probe_results)
        self._probe_results[key] = (self._clock.monotonic() + _RESULT_KEPT_S, renders)
        return renders

    async def _probe(self, template: str, bos_token: str, eos_token: str) -> bool | None:
        for number, messages in enumerate(PROBE_CONVERSATIONS):
            try:
                text = await self._probe_worker.render(template, messages, bos_token=bos_token, eos_token=eos_token)
                text.encode()
            except UnicodeEncodeError:
                return False
            except SlipwayError as error:
                if error.code not in _KINDS:
                    raise
                if error.details.get("stopped"):
                    return None
                if number == 0 or error.code != "bad_request":
                    return False
        return True


def _as_failure(error: SlipwayError) -> Exception:
    if error.code == "bad_request":
        return MessagesRejected(error.reason)
    if error.code == "engine_failed":
        return TemplateFailed(error.reason, stopped=bool(error.details.get("stopped")))
    return TemplateBusy(error.reason)


def _evict_oldest(cache: dict[tuple[str, str, str], Any]) -> None:
    while len(cache) >= _RESULTS_KEPT:
        del cache[next(iter(cache))]
