"""Message between gateways: an engine died with requests in flight."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from .vocabulary import Contract, Environment, Target

DEATHS_PREFIX: Final = "slipway.gateway-deaths.v1"
"""Subject of these reports: `<prefix>.<process id>`; no stream stores them."""
MOST_BODIES: Final = 1_000


class DeathReport(Contract):
    """An engine died; `bodies` are the SHA-256 digests of the requests in flight."""

    process: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,32}$")]
    environment: Environment
    target: Target
    bodies: Annotated[tuple[Annotated[str, Field(min_length=64, max_length=64)], ...], Field(max_length=MOST_BODIES)]
