"""The live progress of work, which no stream stores."""

import asyncio
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from contracts.envelope import Event
from contracts.facts import WorkProgressed
from decisions.bus_permissions import LIVE
from services.console.domain.logged import parse_message


async def follow_progress(client: Client, on_progress: Callable[[Event[Any]], None]) -> None:
    """Call `on_progress` with each report of progress, for ever; the client subscribes again after a reconnect.

    A consumer can deliver a stored message here: what is no progress of its sender is left out.
    """

    async def take(message: Msg) -> None:
        event = parse_message(message.subject, message.data)
        if event is not None and isinstance(event.data, WorkProgressed) and event.environment == "production":
            on_progress(event)

    await client.subscribe(LIVE, cb=take)
    await asyncio.Event().wait()
