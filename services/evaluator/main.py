"""Starts the evaluator: `python -m services.evaluator.main`."""

import asyncio
from functools import partial

from services.evaluator.adapters.store import StoredReports
from services.evaluator.adapters.triton import TritonEndpoint
from services.evaluator.app import SERVICE, build
from services.evaluator.evaluate import Asking
from services.evaluator.settings import EvaluatorSettings
from shared.messaging.bus import Bus
from shared.provenance.envelopes import Attester, Trust
from shared.runtime.clock import SystemClock
from shared.runtime.service import run_service, serve
from shared.runtime.settings import Connection
from shared.serving.channels import Channels
from shared.serving.languages import recognise
from shared.storage.blobs import Store


async def run(connection: Connection, settings: EvaluatorSettings) -> None:
    """Build the service and serve until SIGTERM."""
    clock = SystemClock()
    bus, store, channels = Bus(connection, SERVICE, clock), Store(connection), Channels(connection.server_keys)
    build(
        bus,
        asking=Asking(
            TritonEndpoint(channels),
            recognise,
            together=settings.rows_at_once,
            timeout_s=settings.answer_timeout_s,
        ),
        reports=StoredReports(
            store, Attester.from_settings(connection, SERVICE, clock), Trust.from_settings(connection)
        ),
        settings=settings,
        clock=clock,
    )
    prepare = (store.check_create_only,)  # it does not start on a store that would overwrite commits
    try:
        await serve(bus, connection, ready={"store": partial(asyncio.to_thread, store.reachable)}, prepare=prepare)
    finally:
        await channels.close()


def main() -> None:
    """Read the settings from the environment and run the evaluator."""
    run_service(SERVICE, EvaluatorSettings, run)


if __name__ == "__main__":
    main()
