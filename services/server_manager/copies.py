"""The copies of targets that endpoints may hold beside the one that is used."""

from collections.abc import Mapping

from services.server_manager.domain.moves import Copy


class Copies:
    """What each endpoint may hold of targets that another endpoint holds; its next index says what it does."""

    def __init__(self) -> None:
        self._by_endpoint: dict[str, dict[str, int]] = {}

    def add(self, copy: Copy) -> None:
        """Note that an endpoint may still hold a target."""
        self._by_endpoint.setdefault(copy.endpoint, {})[copy.name] = copy.memory_bytes

    def replace(self, endpoint: str, sizes: Mapping[str, int]) -> None:
        """Take over what an endpoint lists: what each copy reserves, by name."""
        self._by_endpoint[endpoint] = dict(sizes)

    def remove(self, copy: Copy) -> None:
        """Forget a copy that is gone."""
        self._by_endpoint.get(copy.endpoint, {}).pop(copy.name, None)

    def clear(self) -> None:
        """Forget all."""
        self._by_endpoint.clear()

    def all(self) -> list[Copy]:
        """Return every copy."""
        return [
            Copy(endpoint, name, size) for endpoint, sizes in self._by_endpoint.items() for name, size in sizes.items()
        ]
