"""Runs the benchmarker: `python -m services.benchmarker.main`."""

import asyncio

from services.benchmarker.adapters.hardware import read_hardware
from services.benchmarker.adapters.store import StoredReports
from services.benchmarker.adapters.templates import SandboxedTemplate
from services.benchmarker.adapters.triton import TritonEngine
from services.benchmarker.app import SERVICE, Benchmarker, build
from services.benchmarker.settings import BenchmarkerSettings
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.runtime.service import serve
from shared.runtime.settings import Connection
from shared.runtime.telemetry import configure_logging
from shared.serving.chat_templates import ChatTemplates
from shared.serving.inference import Channels
from shared.storage.blobs import Store


async def run() -> None:
    """Wire everything up and serve until told to stop."""
    connection, settings, clock = Connection(), BenchmarkerSettings(), SystemClock()
    configure_logging(SERVICE, connection.log_level)
    bus, store = Bus(connection, SERVICE, clock), Store(connection)
    channels, templates = Channels(), ChatTemplates(clock)
    benchmarker = Benchmarker(
        engine=TritonEngine(channels),
        reports=StoredReports(store),
        template=SandboxedTemplate(templates),
        clock=clock,
        hardware=read_hardware(declared=settings.serving_hardware),
        give_up_after_s=settings.give_up_after_s,
    )
    await asyncio.to_thread(store.check_create_only)  # a store that overwrites commits must stop us here
    build(bus, benchmarker, progress_interval_s=settings.progress_interval_s)

    async def check_store() -> None:
        await asyncio.to_thread(store.reachable)

    try:
        await serve(bus, connection, ready={"store": check_store})
    finally:
        await templates.close()
        await channels.close()


if __name__ == "__main__":
    asyncio.run(run())
