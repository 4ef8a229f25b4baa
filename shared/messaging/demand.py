"""Reports of demand, as gateways publish them about every second."""

from collections.abc import Callable
from typing import TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import ValidationError

from contracts.api_usage import DEMAND_PREFIX, DemandReport, EndpointsReport

R = TypeVar("R", bound=EndpointsReport)


async def follow_demand(client: Client, take: Callable[[DemandReport], None]) -> None:
    """Pass each report of a gateway on, for as long as the connection lasts."""
    await _follow(client, DemandReport, take)


async def follow_endpoints(client: Client, take: Callable[[EndpointsReport], None]) -> None:
    """Pass on what each report of a gateway has of endpoints, for as long as the connection lasts.

    A whole report may have thousands of accounts and models, which are not validated here.
    """
    await _follow(client, EndpointsReport, take)


async def _follow(client: Client, part: type[R], take: Callable[[R], None]) -> None:
    async def read(message: Msg) -> None:
        report = read_demand(message, part)
        if report is not None:
            take(report)

    await client.subscribe(f"{DEMAND_PREFIX}.*", cb=read)


def read_demand(message: Msg, part: type[R]) -> R | None:
    """Return a part of a report of demand as its process published it; None for anything else that arrives among them.

    The server sends consumers' messages and answers wherever a client wants: the former keep their own subject, the
    latter have headers or another form. Only gateways may publish under the subjects of reports.

    Args:
        message: What arrived.
        part: What is read of it: `DemandReport` for all.
    """
    try:
        report = part.model_validate_json(message.data)
    except ValidationError:
        return None
    is_published = message.subject == f"{DEMAND_PREFIX}.{report.process}" and not message.reply and not message.headers
    return report if is_published else None
