"""Live messages that no stream stores: progress of work, and reports of running processes."""

import asyncio
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from contracts.envelope import Event
from contracts.facts import WorkProgressed
from contracts.running import RUNNING_PREFIX
from decisions.access.bus_permissions import LIVE
from services.console.domain.logged import parse_message
from shared.messaging.running import read_running


async def follow_progress(client: Client, on_progress: Callable[[Event[Any]], None]) -> None:
    """Call `on_progress` with each progress report until cancelled; survives reconnects.

    A consumer may deliver stored messages to this subject; anything but a valid progress report is ignored.
    """

    async def take(message: Msg) -> None:
        event = parse_message(message.subject, message.data)
        if event is not None and isinstance(event.data, WorkProgressed) and event.environment == "production":
            on_progress(event)

    await client.subscribe(LIVE, cb=take)
    await asyncio.Event().wait()


async def follow_running(client: Client, on_report: Callable[[str], None]) -> None:
    """Call `on_report` with the service of each process report until cancelled."""

    async def take(message: Msg) -> None:
        if service := read_running(message):
            on_report(service)

    await client.subscribe(f"{RUNNING_PREFIX}.*", cb=take)
    await asyncio.Event().wait()
