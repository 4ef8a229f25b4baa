"""Reports of the processes that are connected to the bus, by service."""

import asyncio
import contextlib

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from contracts.running import REPORT_EVERY_S, RUNNING_PREFIX
from contracts.services import SERVICES


async def report_running(client: Client, service: str) -> None:
    """Report this process every few seconds until the connection is closed; failed reports are dropped."""
    while not client.is_closed:
        if client.is_connected:
            with contextlib.suppress(nats.errors.Error):  # the next report is due in seconds
                await client.publish(f"{RUNNING_PREFIX}.{service}")
        await asyncio.sleep(REPORT_EVERY_S)


def read_running(message: Msg) -> str | None:
    """Return the service of a report; None for other messages.

    Only a service may publish under its name; the server's copies of stored messages keep their own subject.
    """
    service = message.subject.removeprefix(f"{RUNNING_PREFIX}.")
    return None if service not in SERVICES or message.reply or message.headers else service
