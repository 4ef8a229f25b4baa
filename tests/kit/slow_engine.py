"""An engine whose loads take time, one process's side of it, and the file of routes beside its models."""

import asyncio
from pathlib import Path
from typing import Any

from services.server_manager.ports import LeaseLost
from shared.errors import Transient
from tests.kit.fakes_serving import FakeEngine

ANSWER_S = 10.0
"""So long the real engine's client waits for an answer."""


class SlowEngine(FakeEngine):
    """Loads take time and end even if no caller waits for them any more; its world checks loads and unloads."""

    def __init__(self, world: Any) -> None:
        super().__init__()
        self._world = world
        self.load_s = 3.0
        self.hanging = False
        self._loads: set[asyncio.Task[None]] = set()

    async def index(self):
        if self.hanging:
            await asyncio.sleep(ANSWER_S)
            raise Transient("endpoint_unreachable", f"no answer within {ANSWER_S:g} s")
        return await super().index()

    async def probe(self, name, deadline_s):
        until_s = asyncio.get_running_loop().time() + deadline_s
        while self.hanging:  # what was asked is answered once it goes on
            if asyncio.get_running_loop().time() >= until_s:
                raise Transient("no_first_token", f"nothing came within {deadline_s:g} s")
            await asyncio.sleep(1.0)
        return await super().probe(name, deadline_s)

    async def load(self, name, folder: Path, *, digest, memory_bytes, serving=None, permit=None):  # noqa: ARG002
        self._check()
        self._world.check_memory(name, memory_bytes)
        loading = asyncio.create_task(self._load(name, folder, digest, memory_bytes, serving))
        self._loads.add(loading)
        loading.add_done_callback(self._loads.discard)
        await asyncio.shield(loading)

    async def _load(self, name, folder, digest, memory_bytes, serving):
        self.loading = True
        try:
            await asyncio.sleep(self.load_s)
            await super().load(name, folder, digest=digest, memory_bytes=memory_bytes, serving=serving)
        finally:
            self.loading = False

    async def unload(self, name, *, wait=True, permit=None):  # noqa: ARG002
        self._check()
        self._world.check_unload(name, self)
        await super().unload(name, wait=wait)


class EngineClient:
    """One process's side of the engine, which takes its loads and unloads one at a time.

    As in the real one, the term beside the engine is read last, with nothing awaited before the request.
    """

    def __init__(self, engine: SlowEngine, process: Any) -> None:
        self._engine = engine
        self._process = process
        self._turn = asyncio.Lock()
        self.endpoint = engine.endpoint
        self.runtime, self.parts = engine.runtime, engine.parts

    def addresses(self, name):  # noqa: ARG002
        return (self.endpoint,)

    def context_tokens(self, name):  # noqa: ARG002
        return None

    async def index(self):
        return await self._engine.index()

    async def probe(self, name, deadline_s):
        return await self._engine.probe(name, deadline_s)

    async def load(self, name, folder, *, digest, memory_bytes, serving=None, permit):
        async with self._turn:
            await permit()
            self._fence()
            await self._engine.load(name, folder, digest=digest, memory_bytes=memory_bytes, serving=serving)

    async def unload(self, name, *, wait=True, permit):
        async with self._turn:
            await permit()
            self._fence()
            await self._engine.unload(name, wait=wait)

    def _fence(self) -> None:
        if self._process.lead.superseded():
            raise LeaseLost("another process took the engine over")
        self._process.world.note_act(self._process)


class Memory:
    """The file of routes beside the models."""

    def __init__(self) -> None:
        self.routes = {}

    def load(self):
        return dict(self.routes)

    def save(self, routes):
        self.routes = dict(routes)
