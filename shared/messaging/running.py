"""Reports of the processes that are connected to the bus: which service, in which version."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import ValidationError

from contracts.running import REPORT_EVERY_S, RUNNING_PREFIX, RunningReport
from contracts.services import SERVICES
from contracts.version import VERSION

_LISTEN_S: Final = 2.5 * REPORT_EVERY_S


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


async def collect_running(client: Client, listen_s: float = _LISTEN_S) -> dict[str, list[str]]:
    """Return the version of each process that reports itself within some seconds, by service.

    Args:
        client: A connection that may subscribe to the reports.
        listen_s: How long to listen: longer than processes take between two reports.
    """
    reported: dict[tuple[str, str], str] = {}

    async def note(message: Msg) -> None:
        report, service = read_running(message), message.subject.rpartition(".")[2]
        if report is not None:
            reported[service, report.process] = report.version

    subscription = await client.subscribe(f"{RUNNING_PREFIX}.*", cb=note)
    try:
        await asyncio.sleep(listen_s)
    finally:
        await subscription.unsubscribe()
    versions: dict[str, list[str]] = {}
    for (service, _), version in sorted(reported.items()):
        versions.setdefault(service, []).append(version)
    return versions


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
