"""Callers whose bodies end an engine."""

import asyncio

from services.gateway.engine_deaths import QUIET_S
from shared.errors import Transient
from tests.unit.gateway.fakes import FakeEngine
from tests.unit.gateway.world import BEARER, World, only_active

DEAD = Transient("engine_dead", "the engine is dead")


class Killable(FakeEngine):
    """Dies of a request with `kill`, with all that it has in flight; it is loaded again when the next request comes."""

    def __init__(self):
        super().__init__()
        self.died = asyncio.Event()
        self.slow = 0
        self.answers_slow = False
        self.begins = True  # an answer, before it dies

    async def send(self, endpoint, target, request):
        if b"kill" in request.body:
            self.calls.append((endpoint, str(target), "kill"))
            self.died.set()
            if self.begins:
                yield await anext(super().send(endpoint, target, request))
            raise DEAD
        if b"slow" in request.body and not self.answers_slow:
            self.slow += 1
            await self.died.wait()
            raise DEAD
        async for piece in super().send(endpoint, target, request):
            yield piece


def asked(text):
    return {"messages": [{"role": "user", "content": text}]}


def world(engine=None, *, sole=True, route=None, **limits):
    made = World(route or only_active(), engine=engine or Killable(), **limits)
    made.http.headers.update(BEARER)
    if sole:  # two exchanges of demand in which no other process reported
        made.shares.divide()
        made.shares.divide()
    return made


async def quiet(made):
    """Let the engine answer, and time pass until no earlier request can be the cause of what comes."""
    assert (await made.chat()).status_code == 200
    await made.clock.pause(QUIET_S)


async def kill_beside(made, text, killer="kill"):
    """Let the engine die while another request with a text is in flight; return that one's answer."""
    assert (await made.chat()).status_code == 200
    made.engine.died.clear()
    before = made.engine.slow
    other = asyncio.ensure_future(made.chat(**asked(text)))
    while made.engine.slow == before and not other.done():
        await asyncio.sleep(0)
    await made.chat(**asked(killer))
    return await other
