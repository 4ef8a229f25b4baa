"""How many requests of each environment are being answered, and how many bytes their bodies have."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from contracts.vocabulary import Environment
from services.gateway.domain import errors
from services.gateway.domain.capacity import may_take
from services.gateway.domain.errors import RequestRejected
from services.gateway.telemetry.metrics import GatewayMetrics

_MAX_BYTES: Final = 2**28
"""Most bytes of bodies whose requests are being answered, per environment."""


@dataclass
class _Use:
    """What is in flight in one environment, in all and by caller."""

    requests: int = 0
    size: int = 0
    requests_of: Counter[str] = field(default_factory=Counter)
    bytes_of: Counter[str] = field(default_factory=Counter)

    def add(self, holder: str, requests: int, size: int) -> None:
        self.requests += requests
        self.size += size
        self.requests_of[holder] += requests
        self.bytes_of[holder] += size
        if not self.requests_of[holder]:
            del self.requests_of[holder], self.bytes_of[holder]


class InFlight:
    """Counts requests that are being answered, and refuses one above the limits.

    Args:
        limit: most requests at the same time, per environment.
        metrics: shows them.
    """

    def __init__(self, limit: int, metrics: GatewayMetrics) -> None:
        self._limit, self._metrics = limit, metrics
        self._uses: dict[Environment, _Use] = {"production": _Use(), "staging": _Use()}

    def __getitem__(self, environment: Environment) -> int:
        """Return the requests of an environment that are being answered."""
        return self._uses[environment].requests

    @contextlib.contextmanager
    def count(self, environment: Environment, holder: str, size: int) -> Iterator[None]:
        """Count a request of an environment as in flight; raise RequestRejected (429) above the limits.

        A body is kept until its answer is complete, because it may be sent again.

        Args:
            environment: Where it is asked.
            holder: Who has what is in flight: the team of its caller, or the caller.
            size: Bytes of its body.
        """
        use, gauge = self._uses[environment], self._metrics.in_flight.labels(environment)
        if use.requests >= self._limit:
            raise RequestRejected(errors.too_many_requests(self._limit))
        if use.requests and use.size + size > _MAX_BYTES:
            raise RequestRejected(errors.too_many_requests(use.requests))
        for own, used, added, limit, unit in (
            (use.requests_of[holder], use.requests, 1, self._limit, "requests"),
            (use.bytes_of[holder], use.size, size, _MAX_BYTES, "bytes of requests"),
        ):
            if not may_take(own, used, added, limit):
                raise RequestRejected(errors.too_many_of_caller(own, limit, unit))
        use.add(holder, 1, size)
        gauge.inc()
        try:
            yield
        finally:
            use.add(holder, -1, -size)
            gauge.dec()
