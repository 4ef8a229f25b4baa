"""Entry point of the evaluator: `python -m services.evaluator.main`."""

import asyncio
from dataclasses import replace
from functools import partial

from services.evaluator.adapters.production import BusProduction
from services.evaluator.adapters.store import StoredReports
from services.evaluator.adapters.triton import TritonEndpoint
from services.evaluator.app import SERVICE, build
from services.evaluator.evaluate import Asking
from services.evaluator.served import ServedEvaluations
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
    """Connect, build the evaluator and serve until SIGTERM."""
    clock = SystemClock()
    bus, store, channels = Bus(connection, SERVICE, clock), Store(connection), Channels(connection.server_keys)
    attester, trust = Attester.from_settings(connection, SERVICE, clock), Trust.from_settings(connection)
    reports = StoredReports(store, attester, trust)
    asking = Asking(
        TritonEndpoint(channels), recognise, together=settings.rows_at_once, timeout_s=settings.answer_timeout_s
    )
    build(bus, asking=asking, reports=reports, settings=settings, clock=clock)
    alone = replace(asking, together=1)  # limits the load beside callers' requests
    served = ServedEvaluations(bus.publish, BusProduction(lambda: bus.js), reports, alone, clock)
    prepare = (store.check_create_only,)  # refuses a store that would overwrite commits
    try:
        await serve(
            bus,
            connection,
            ready={"store": partial(asyncio.to_thread, store.reachable)},
            prepare=prepare,
            background=[served.sweeper().run],
        )
    finally:
        await channels.close()


def main() -> None:
    """Read the settings from the environment and run the evaluator."""
    run_service(SERVICE, EvaluatorSettings, run)


if __name__ == "__main__":
    main()
