"""Attached servers: two groups that take turns, and what serves a version there once it is to be staged."""

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from nats.js.api import RawStreamMsg

from contracts.attachments import Attachment
from contracts.facts import StageRequested
from contracts.routes import ServedTarget
from shared.storage.record_format import dump
from tests.kit import fakes_registry as k
from tests.kit.fakes_serving import FakeAttached

if TYPE_CHECKING:
    from tests.world.world import World

GROUPS: Final = {"blue": ("http://blue:80",), "green": ("http://green-1:80", "http://green-2:80")}
DEPLOYED_S = (1.0, 15.0)


class AttachedServers:
    """The servers of a story whose model is attached.

    Attributes:
        names: The versions that each address lists.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self.names: dict[str, set[str]] = {url: set() for urls in GROUPS.values() for url in urls}
        self._orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        if world.fate.attached:
            self.names[GROUPS["blue"][0]] = {f"{k.MODEL}.v0.bf16"}
            record = dump(Attachment(model=k.MODEL, groups=GROUPS))
            world.server.publish(f"$KV.attachments.{k.MODEL}", record, None)
            world.server.stored.append(self._note)

    def engine(self) -> FakeAttached:
        """Return the servers as one process of server-manager has them."""
        engine = FakeAttached()
        engine.names = self.names
        return engine

    def lists(self, served: ServedTarget) -> bool:
        """Return whether one of the endpoints of a target lists it."""
        return any(str(served.target) in self.names.get(url, ()) for url in served.endpoints)

    def _note(self, message: RawStreamMsg) -> None:
        if StageRequested.TYPE in (message.subject or ""):
            self._orders.put_nowait(json.loads(message.data or b"")["data"]["candidate"]["target"])

    async def deploy(self) -> None:
        """Serve each version that is to be staged on the group that does not serve callers, for ever."""
        while True:
            target = await self._orders.get()
            name = f"{target['model']}.v{target['version']}.{target['variant']}"
            while any(name not in self.names[url] for url in self._free()):
                await asyncio.sleep(self._world.fate.noise.uniform(*DEPLOYED_S))
                for url in [url for url in self._free() if name not in self.names[url]][:1]:  # as it is by now
                    self.names[url] = {name}
                    self._world.tell(f"{url} serves {name}")

    def _free(self) -> tuple[str, ...]:
        """Return the group that does not serve callers now."""
        route = self._world.checks.route
        active = route.active.endpoints if route is not None and route.active is not None else GROUPS["blue"]
        return next(urls for urls in GROUPS.values() if not set(urls) & set(active))
