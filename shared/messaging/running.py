"""Reports of the processes that are connected to the bus: which service, in which version."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import Final

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import ValidationError

from contracts.running import REPORT_EVERY_S, RUNNING_PREFIX, RunningReport
from contracts.services import SERVICES
from contracts.version import VERSION

_LISTEN_S: Final = 2.5 * REPORT_EVERY_S
MOST_PROCESSES: Final = 64
"""Processes of one service that are listed, at most: one that was taken over may report as many as it likes."""
TURN_S: Final = 600.0
"""How long a service waits at most for another one to be replaced first: without it nothing is loaded or repaired."""


async def report_running(client: Client, service: str, is_refused: Callable[[], bool]) -> None:
    """Report this process every few seconds until the connection is closed; what the bus does not take is dropped.

    Args:
        client: The connection of the process.
        service: The name of the service.
        is_refused: Whether the bus does not permit these reports, as one of a version before: none is sent then.
    """
    report = RunningReport(process=secrets.token_hex(8), version=VERSION)
    while not client.is_closed:
        if client.is_connected and not is_refused():
            with contextlib.suppress(nats.errors.Error):  # the next report is due in seconds
                await client.publish(f"{RUNNING_PREFIX}.{service}", report.model_dump_json().encode())
        await asyncio.sleep(REPORT_EVERY_S)


async def collect_running(client: Client, service: str = "*", listen_s: float = _LISTEN_S) -> dict[str, list[str]]:
    """Return the version of each process that reports itself within some seconds, by service.

    Args:
        client: A connection that may subscribe to the reports.
        service: The one to listen to; `*` for all.
        listen_s: How long to listen: longer than processes take between two reports.

    Returns:
        The first `MOST_PROCESSES` processes of each service.
    """
    reported: dict[str, dict[str, str]] = {}

    async def note(message: Msg) -> None:
        report, service = read_running(message), message.subject.rpartition(".")[2]
        if report is None:
            return
        of_service = reported.setdefault(service, {})
        if report.process in of_service or len(of_service) < MOST_PROCESSES:
            of_service[report.process] = report.version

    subscription = await client.subscribe(f"{RUNNING_PREFIX}.{service}", cb=note)
    try:
        await asyncio.sleep(listen_s)
    finally:
        await subscription.unsubscribe()
    return {name: [version for _, version in sorted(processes.items())] for name, processes in sorted(reported.items())}


async def await_turn(client: Client, first: str, *, listen_s: float = _LISTEN_S, turn_s: float = TURN_S) -> None:
    """Return once a process of a service runs in the version of this one, none reports itself, or time is up.

    For a service whose records are newer than what the older version of `first` can decide on: it is replaced after it.

    Args:
        client: A connection that may subscribe to the reports of that service.
        first: The service that is to be replaced first.
        listen_s: How long reports are listened to each time.
        turn_s: How long to wait at most.
    """
    clock = asyncio.get_running_loop().time
    ends_s, log = clock() + turn_s, structlog.get_logger()
    while versions := (await collect_running(client, first, listen_s)).get(first):
        others = sorted(set(versions))
        if VERSION in others:
            return
        if clock() >= ends_s:
            log.error("started before another service was replaced", first=first, runs_in=others, version=VERSION)
            return
        log.warning("waiting for another service to be replaced first", first=first, runs_in=others, version=VERSION)


def read_running(message: Msg) -> RunningReport | None:
    """Return a report as a process of a service published it; None for anything else that arrives among them.

    Only a service may publish under its name, and the server's copies of stored messages keep their own subject.
    """
    service = message.subject.removeprefix(f"{RUNNING_PREFIX}.")
    if service not in SERVICES or message.reply or message.headers:
        return None
    try:
        return RunningReport.model_validate_json(message.data)
    except ValidationError:
        return None
