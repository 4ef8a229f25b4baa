"""The open connections of one server, with a limit: a new one replaces the one that has waited longest."""

import asyncio
from typing import Protocol


class Connection(Protocol):
    """What is known of an open connection."""

    transport: asyncio.Transport

    def is_waiting_for_request(self) -> bool:
        """Return whether there is no complete request that is not answered."""

    def is_unread(self) -> bool:
        """Return whether the caller does not read its answer."""


class OpenConnections:
    """Connections in the order in which they were opened or answered, the oldest first.

    Args:
        most: how many may be open.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: dict[Connection, None] = {}

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._connections)

    def add(self, connection: Connection) -> None:
        """Add a connection, and close one if there are too many now; that may be the new one."""
        self._connections[connection] = None
        if len(self._connections) > self._most:
            self._evict(connection)

    def renew(self, connection: Connection) -> None:
        """Note that a connection was answered."""
        if connection in self._connections:
            del self._connections[connection]
            self._connections[connection] = None

    def discard(self, connection: Connection) -> None:
        """Remove a connection."""
        self._connections.pop(connection, None)

    def _evict(self, newest: Connection) -> None:
        """Close the connection that has waited longest for its caller; if there is none, the newest."""
        others = [connection for connection in self._connections if connection is not newest]
        evicted = next((connection for connection in others if connection.is_waiting_for_request()), None)
        evicted = evicted or next((connection for connection in others if connection.is_unread()), newest)
        del self._connections[evicted]
        evicted.transport.abort()
