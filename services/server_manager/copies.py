"""The copies of targets that endpoints hold, or may hold, beside the one that is their home."""

from collections.abc import Iterable

from services.server_manager.domain.moves import Copy


class Copies:
    """What each endpoint may hold of targets that another endpoint holds; its next index says what it does."""

    def __init__(self) -> None:
        self._by_endpoint: dict[str, dict[str, Copy]] = {}

    def add(self, copy: Copy) -> None:
        """Note that an endpoint may still hold a target."""
        self._by_endpoint.setdefault(copy.endpoint, {})[copy.name] = copy

    def replace(self, endpoint: str, copies: Iterable[Copy]) -> None:
        """Take over what an endpoint lists."""
        self._by_endpoint[endpoint] = {copy.name: copy for copy in copies}

    def remove(self, copy: Copy) -> None:
        """Forget a copy that is gone."""
        self._by_endpoint.get(copy.endpoint, {}).pop(copy.name, None)

    def find(self, name: str, endpoint: str | None = None) -> Copy | None:
        """Return a copy of a target, on this endpoint or on any; None if there is none."""
        holders = self._by_endpoint.values() if endpoint is None else [self._by_endpoint.get(endpoint, {})]
        return next((copies[name] for copies in holders if name in copies), None)

    def clear(self) -> None:
        """Forget all."""
        self._by_endpoint.clear()

    def all(self) -> list[Copy]:
        """Return every copy."""
        return [copy for copies in self._by_endpoint.values() for copy in copies.values()]
