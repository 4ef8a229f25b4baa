"""How many requests of each environment are being answered, and how many bytes their bodies have."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from contracts.vocabulary import Environment
from services.gateway.domain import errors
from services.gateway.domain.errors import RequestRejected
from services.gateway.metrics import GatewayMetrics

_MAX_BYTES = 2**28
"""Most bytes of bodies whose requests are being answered, per environment."""


class InFlight:
    """Counts requests that are being answered, and refuses one above the limits.

    Args:
        limit: most requests at the same time, per environment.
        metrics: shows them.
    """

    def __init__(self, limit: int, metrics: GatewayMetrics) -> None:
        self._limit, self._metrics = limit, metrics
        self._requests: Counter[Environment] = Counter()
        self._bytes: Counter[Environment] = Counter()

    def __getitem__(self, environment: Environment) -> int:
        """Return the requests of an environment that are being answered."""
        return self._requests[environment]

    @contextlib.contextmanager
    def count(self, environment: Environment, size: int) -> Iterator[None]:
        """Count a request of an environment as in flight; raise RequestRejected (429) above the limits.

        A body is kept until its answer is complete, because it may be sent again.
        """
        gauge = self._metrics.in_flight.labels(environment)
        if self._requests[environment] >= self._limit:
            raise RequestRejected(errors.too_many_requests(self._limit))
        if self._requests[environment] and self._bytes[environment] + size > _MAX_BYTES:
            raise RequestRejected(errors.too_many_requests(self._requests[environment]))
        self._requests[environment] += 1
        self._bytes[environment] += size
        gauge.inc()
        try:
            yield
        finally:
            self._requests[environment] -= 1
            self._bytes[environment] -= size
            gauge.dec()
