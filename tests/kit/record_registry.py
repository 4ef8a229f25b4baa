"""A registry without a store, in a thread of its own: it answers orders about records while a test runs commands."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from contracts.teams import Team
from services.registry.app import SERVICE, build
from services.registry.domain.admission import AllowedLocations
from services.registry.main import connect_ports
from services.registry.settings import RegistrySettings
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.runtime.settings import Connection
from tests.kit.fakes_registry import FakeArtifacts


@contextmanager
def answering_registry(settings: Connection, teams: Callable[[], tuple[Team, ...]] = tuple) -> Iterator[None]:
    """Run the registry until the block ends."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve() -> None:
        bus, clock = Bus(settings, SERVICE, SystemClock()), SystemClock()
        await bus.connect()
        ports = connect_ports(bus, FakeArtifacts(), teams)
        locations = AllowedLocations(bucket="slipway")
        registry = build(bus, ports=ports, locations=locations, settings=RegistrySettings(), clock=clock)
        await bus.broker.start()
        ready.set()
        await ended.wait()
        await registry.admissions.stop()
        await bus.stop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(30), "the registry did not start"
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)
        loop.close()
