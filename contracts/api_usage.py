"""The use of API keys, in records of the bucket `api-usage`; what gateways have outstanding at endpoints."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from .vocabulary import Contract, StoredRecord

TRAFFIC_PREFIX: Final = "slipway.gateway-traffic.v1"
"""Subjects of traffic reports are this, a dot, and the id of the gateway's process. No stream stores them."""
MOST_ENDPOINTS: Final = 1_000
TEAM_PREFIX: Final = "team-"
"""Beginning of the account that the usage of all keys of a team is counted in; no key has it."""

Account = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,127}$")]
Month = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")]
Count = Annotated[int, Field(ge=0, lt=2**60)]
EndpointAddress = Annotated[str, StringConstraints(min_length=1, max_length=300)]


class MonthlyUsage(StoredRecord):
    """The tokens and requests of one account in a calendar month (UTC); all gateways add to the same record.

    Attributes:
        account: The id of a key, or a team.
        month: As `2026-11`.
        tokens: Tokens of prompts and answers.
        requests: Requests that were admitted.
        writer: The process that added last.
    """

    account: Account
    month: Month
    tokens: Count = 0
    requests: Count = 0
    writer: Annotated[str, Field(max_length=100)] = ""


class EndpointUse(Contract):
    """The load of one gateway process on an endpoint.

    Attributes:
        outstanding_tokens: Tokens of prompts and answers that its requests there still take, at most.
        ejected: How many targets get no requests there meanwhile, because it did not serve them.
        stalled: Whether it gets none at all, because its server answers nothing.
    """

    outstanding_tokens: Count = 0
    ejected: Count = 0
    stalled: bool = False


class TrafficReport(Contract):
    """The outstanding requests of one gateway process, published about every second.

    Attributes:
        process: The id of the process, a new one at each start.
        endpoints: By address, what is outstanding there, and whether it is ejected; without an entry, nothing.
    """

    process: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,32}$")]
    endpoints: Annotated[dict[EndpointAddress, EndpointUse], Field(max_length=MOST_ENDPOINTS)] = {}
