"""Entry point of the benchmarker: `python -m services.benchmarker.main`."""

import asyncio
from functools import partial

from services.benchmarker.adapters.chat_template import SandboxedTemplate
from services.benchmarker.adapters.hardware import read_hardware
from services.benchmarker.adapters.store import StoredReports
from services.benchmarker.adapters.triton import TritonEngine
from services.benchmarker.app import SERVICE, build
from services.benchmarker.settings import BenchmarkerSettings
from shared.messaging.bus import Bus
from shared.provenance.envelopes import Attester, Trust
from shared.runtime.clock import SystemClock
from shared.runtime.service import check_sandbox, run_service, serve
from shared.runtime.settings import Connection
from shared.serving.channels import Channels
from shared.serving.chat_templates import ChatTemplates
from shared.storage.blobs import Store


async def run(connection: Connection, settings: BenchmarkerSettings) -> None:
    """Connect, build the benchmarker and serve until SIGTERM."""
    await check_sandbox(connection)
    clock = SystemClock()
    bus, store = Bus(connection, SERVICE, clock), Store(connection)
    channels, templates = Channels(connection.server_keys), ChatTemplates(clock)
    build(
        bus,
        engine=TritonEngine(channels),
        reports=StoredReports(
            store, Attester.from_settings(connection, SERVICE, clock), Trust.from_settings(connection)
        ),
        template=SandboxedTemplate(templates),
        hardware=read_hardware(declared=settings.serving_hardware),
        settings=settings,
        clock=clock,
    )

    prepare = (store.check_create_only,)  # refuses a store that would overwrite commits
    try:
        await serve(bus, connection, ready={"store": partial(asyncio.to_thread, store.reachable)}, prepare=prepare)
    finally:
        await templates.close()
        await channels.close()


def main() -> None:
    """Read the settings from the environment and run the benchmarker."""
    run_service(SERVICE, BenchmarkerSettings, run)


if __name__ == "__main__":
    main()
