"""Renders chat templates in a few killable child processes."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from services.gateway.domain.requests import Message
from services.gateway.ports import HARMLESS, TemplateBusy, TemplateFailure, TemplateRefusal
from shared.errors import SlipwayError
from shared.runtime.clock import Clock
from shared.serving.chat_templates import ChatTemplates

_PROOFS_KEPT = 64
_PROOF_KEPT_S = 30.0
_IN_A_ROW = 3


_KINDS = ("bad_request", "engine_failed")
"""Codes that say something about the template or the messages; any other is the gateway's own."""


class SandboxedTemplates:
    """A small pool of rendering processes (implements `ports.Templates`).

    A template that loops for ever costs its deadline and one process. No template ever holds all processes, so that
    one model's bad template cannot keep the other models from answering.
    """

    def __init__(self, clock: Clock, *, workers: int = 2, time_s: float = 2.0) -> None:
        self._clock = clock
        self._time_s = time_s
        # For proofs alone, and given more time: what callers have rendered must not make a harmless template fail.
        self._prover = ChatTemplates(clock, limit_s=2 * time_s)
        self._proving = asyncio.Lock()
        self._proofs: dict[tuple[str, str, str], tuple[float, bool]] = {}
        self._stopped: dict[tuple[str, str, str], int] = {}
        self._workers = [ChatTemplates(clock, limit_s=time_s) for _ in range(workers)]
        self._free: asyncio.LifoQueue[ChatTemplates] = asyncio.LifoQueue()
        for worker in self._workers:
            self._free.put_nowait(worker)
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(max(1, workers - 1)))

    async def start(self) -> None:
        """Start the processes before the first request needs one."""
        everything = (*self._workers, self._prover)
        await asyncio.gather(*(worker.render("{{ messages[0].content }}", HARMLESS[0]) for worker in everything))

    async def close(self) -> None:
        """End the processes."""
        await asyncio.gather(*(worker.close() for worker in (*self._workers, self._prover)))

    async def render(self, template: str, messages: Sequence[Message], *, bos_token: str, eos_token: str) -> str:
        """Render a conversation up to where the assistant speaks (see `ports.Templates`)."""
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

    async def renders_plain(self, template: str, *, bos_token: str, eos_token: str) -> bool | None:
        """Return whether the template renders something harmless (see `ports.Templates`); remembered for 30 s.

        A process that took too long, or ended, proves nothing until it happened three times in a row.
        """
        key = (template, bos_token, eos_token)
        try:
            async with asyncio.timeout(4 * self._time_s), self._proving:
                until_s, found = self._proofs.get(key, (0.0, False))
                if self._clock.monotonic() < until_s:
                    return found
                proved = await self._prove(template, bos_token, eos_token)
        except (TimeoutError, SlipwayError):
            return None
        stopped = self._stopped.pop(key, 0) + 1
        if proved is None and stopped < _IN_A_ROW:
            _make_room(self._stopped)
            self._stopped[key] = stopped
            return None
        found = proved is True
        _make_room(self._proofs)
        self._proofs[key] = (self._clock.monotonic() + _PROOF_KEPT_S, found)
        return found

    async def _prove(self, template: str, bos_token: str, eos_token: str) -> bool | None:
        for number, messages in enumerate(HARMLESS):
            try:
                text = await self._prover.render(template, messages, bos_token=bos_token, eos_token=eos_token)
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
        return TemplateRefusal(error.reason)
    if error.code == "engine_failed":
        return TemplateFailure(error.reason, stopped=bool(error.details.get("stopped")))
    return TemplateBusy(error.reason)


def _make_room(kept: dict[tuple[str, str, str], Any]) -> None:
    while len(kept) >= _PROOFS_KEPT:
        del kept[next(iter(kept))]
