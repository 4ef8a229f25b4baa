"""The message between gateways about an engine that died, with the requests in flight."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from .vocabulary import Contract, Environment, Target

DEATHS_PREFIX: Final = "slipway.gateway-deaths.v1"
"""Subjects of these reports are this, a dot, and the id of the gateway's process. No stream stores them."""
MOST_BODIES: Final = 1_000


class DeathReport(Contract):
    """An engine died with requests in flight; the digests of their bodies."""

    process: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,32}$")]
    environment: Environment
    target: Target
    bodies: Annotated[tuple[Annotated[str, Field(min_length=64, max_length=64)], ...], Field(max_length=MOST_BODIES)]
