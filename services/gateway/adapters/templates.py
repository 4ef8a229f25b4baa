"""Renders chat templates in a few killable child processes."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from services.gateway.domain.requests import Message
from services.gateway.ports import TemplateFailure, TemplateRefusal
from shared.chat_templates import ChatTemplates
from shared.clock import Clock
from shared.errors import SlipwayError

_WARM = [{"role": "user", "content": "Hello"}]


class SandboxedTemplates:
    """A small pool of rendering processes (implements `ports.Templates`).

    A template that loops for ever costs its deadline and one process. No template ever holds all processes, so that
    one model's bad template cannot keep the other models from answering.
    """

    def __init__(self, clock: Clock, *, workers: int = 2, time_s: float = 2.0) -> None:
        self._time_s = time_s
        self._workers = [ChatTemplates(clock, limit_s=time_s) for _ in range(workers)]
        self._free: asyncio.LifoQueue[ChatTemplates] = asyncio.LifoQueue()
        for worker in self._workers:
            self._free.put_nowait(worker)
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(max(1, workers - 1)))

    async def start(self) -> None:
        """Start the processes before the first request needs one."""
        await asyncio.gather(*(worker.render("{{ messages[0].content }}", _WARM) for worker in self._workers))

    async def close(self) -> None:
        """End the processes."""
        await asyncio.gather(*(worker.close() for worker in self._workers))

    async def render(self, template: str, messages: Sequence[Message], *, bos_token: str, eos_token: str) -> str:
        """Render a conversation up to where the assistant speaks (see `ports.Templates`)."""
        turn = self._turns[template]
        try:
            async with asyncio.timeout(self._time_s):
                await turn.acquire()
        except TimeoutError:
            raise TemplateFailure("The model's chat template is too slow for the requests that wait for it.") from None
        try:
            worker = await self._free.get()
            try:
                return await worker.render(template, messages, bos_token=bos_token, eos_token=eos_token)
            except SlipwayError as error:
                kind = TemplateRefusal if error.code == "bad_request" else TemplateFailure
                raise kind(error.reason) from error
            finally:
                self._free.put_nowait(worker)
        finally:
            turn.release()
