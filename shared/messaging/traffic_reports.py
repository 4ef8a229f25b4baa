"""Reports of traffic, as gateways publish them about every second."""

from collections.abc import Callable

from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import ValidationError

from contracts.api_usage import TRAFFIC_PREFIX, TrafficReport


async def follow_traffic(client: Client, take: Callable[[TrafficReport], None]) -> None:
    """Pass each report of a gateway on, for as long as the connection lasts."""

    async def read(message: Msg) -> None:
        report = read_traffic(message)
        if report is not None:
            take(report)

    await client.subscribe(f"{TRAFFIC_PREFIX}.*", cb=read)


def read_traffic(message: Msg) -> TrafficReport | None:
    """Return a report of traffic as its process published it; None for anything else that arrives among them.

    The server sends consumers' messages and answers wherever a client wants: the former keep their own subject, the
    latter have headers or another form. Only gateways may publish under the subjects of reports.
    """
    try:
        report = TrafficReport.model_validate_json(message.data)
    except ValidationError:
        return None
    is_published = message.subject == f"{TRAFFIC_PREFIX}.{report.process}" and not message.reply and not message.headers
    return report if is_published else None
