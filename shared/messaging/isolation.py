"""Leaves a server of a cluster that is cut off from the others: its clients stay connected, and nothing gets through.

A server tells its clients which servers of its cluster they can connect to: those that it has a connection to itself.
Fewer than half of those that it named before cannot choose a leader, so the client connects to another one.
"""

import asyncio
from typing import Any, Final

import structlog
from nats.aio.client import Client

FIRST_WAIT_S: Final = 1.0
"""How long a server may be without the others before it is left: it may be the first of all that are started."""
_LONGEST_WAIT_S: Final = 60.0


class Isolation:
    """Whether the server of one connection is cut off."""

    def __init__(self) -> None:
        self._most = 0
        self._reachable = 0
        self._wait_s = FIRST_WAIT_S
        self._leaving: asyncio.Task[None] | None = None

    @property
    def cut_off(self) -> bool:
        """Return whether the server reaches no majority of the servers that were named so far."""
        return 2 * self._reachable <= self._most

    def guard(self, client: Client) -> None:
        """Follow what the server of this client says; nats-py has no callback for it."""
        process = client._process_info  # noqa: SLF001 - see above
        self._note(client, client._server_info)  # noqa: SLF001 - what was said when it connected

        async def process_info(info: dict[str, Any], initial_connection: bool = False) -> None:
            await process(info, initial_connection)
            self._note(client, info)

        client._process_info = process_info  # type: ignore[method-assign]  # noqa: SLF001 - see above

    def _note(self, client: Client, info: dict[str, Any]) -> None:
        urls = info.get("connect_urls")
        if not urls:  # one server, or one that does not say
            return
        self._reachable = len(urls)
        self._most = max(self._most, self._reachable)
        if not self.cut_off:
            self._wait_s = FIRST_WAIT_S
        elif self._leaving is None or self._leaving.done():
            self._leaving = asyncio.create_task(self._leave(client))

    async def _leave(self, client: Client) -> None:
        """Connect to another server after a while, and again as long as it is one that is cut off, too."""
        while True:
            await asyncio.sleep(self._wait_s)
            if client.is_closed or not self.cut_off:
                return
            self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
            structlog.get_logger().warning(
                "the server is cut off from the others of its cluster; connecting to another one",
                server=client._server_info.get("server_name"),  # noqa: SLF001 - nats-py has no public name for it
                reachable=self._reachable,
                servers=self._most,
            )
            await client.force_reconnect()
