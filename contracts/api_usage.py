"""Monthly usage of API keys (bucket `api-usage`), and gateways' reports of outstanding requests."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from .vocabulary import Contract, StoredRecord

TRAFFIC_PREFIX: Final = "slipway.gateway-traffic.v1"
"""Subject of traffic reports: `<prefix>.<process id>`; no stream stores them."""
MOST_ENDPOINTS: Final = 1_000
TEAM_PREFIX: Final = "team-"
"""Prefix of a team's account, which counts the usage of all its keys; no key id begins with it."""

Account = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,127}$")]
Month = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")]
Count = Annotated[int, Field(ge=0, lt=2**60)]
EndpointAddress = Annotated[str, StringConstraints(min_length=1, max_length=300)]


class MonthlyUsage(StoredRecord):
    """The tokens and requests of an account in a calendar month (UTC), summed over all gateways.

    Attributes:
        account: Id of a key, or `team-<name>`.
        month: As `2026-11`.
        tokens: Prompt and answer tokens.
        requests: Admitted requests.
        writer: Id of the last process that wrote the record.
    """

    account: Account
    month: Month
    tokens: Count = 0
    requests: Count = 0
    writer: Annotated[str, Field(max_length=100)] = ""


class EndpointUse(Contract):
    """The load of one gateway process on an endpoint.

    Attributes:
        outstanding_tokens: Upper bound of the prompt and answer tokens of requests in progress.
        ejected: Number of targets ejected there because the endpoint did not serve them.
        stalled: Whether the endpoint gets no requests because its server does not answer.
    """

    outstanding_tokens: Count = 0
    ejected: Count = 0
    stalled: bool = False


class TrafficReport(Contract):
    """The load of one gateway process on endpoints, published about every second.

    Attributes:
        process: Id of the process, new at each start.
        endpoints: Load by address; an endpoint without an entry has none.
    """

    process: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,32}$")]
    endpoints: Annotated[dict[EndpointAddress, EndpointUse], Field(max_length=MOST_ENDPOINTS)] = {}
