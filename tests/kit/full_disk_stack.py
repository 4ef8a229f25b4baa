"""Runs bus and store of an embedded stack on a small disk, and fills it: `python -m tests.kit.full_disk_stack FOLDER`."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from nats.js.errors import APIError

from deploy.local import full_disk
from deploy.local.plan import StackConfig
from deploy.local.servers import ServersOnly
from deploy.local.state import ADMIN, StateFolder
from deploy.local.supervisor import Options, default_engine_root, programs_of
from deploy.local.view import View
from shared.messaging.credentials import connect
from shared.runtime.clock import SystemClock
from tests.kit.small_disk import FILLER, fill


class Filled(ServersOnly):
    """Bus and store whose disk is filled once both are ready."""

    def __init__(self, folder, options, view, clock) -> None:
        super().__init__(folder, options, view, clock, self.write_until_started_again)

    async def _bring_up(self, description):
        self._described = description
        await super()._bring_up(description)

    async def write_until_started_again(self) -> None:
        """Fill the disk; return once the bus takes writes again, with the reserve given up."""
        bus = next(runner for runner in self._runners if runner.part.name == "nats")
        store = self._folder.path / "nats"
        client = await connect(
            self._described.keys(self._folder.path).bus(self._described.ports["nats"], identity=ADMIN)
        )
        try:
            js = client.jetstream(timeout=1)
            await js.add_stream(name="KV_routes", subjects=["$KV.routes.>"])
            while not (store / full_disk.RESERVE).exists():
                await asyncio.sleep(0.1)
            fill(self._folder.path / FILLER)
            began = bus.restarts
            while bus.restarts == began or (store / full_disk.RESERVE).exists():
                await write(js)
            while not await write(js):
                await asyncio.sleep(0.1)
        finally:
            await client.close()


async def write(js) -> bool:
    """Return whether the bus stored a record."""
    with contextlib.suppress(TimeoutError, APIError, OSError):
        await js.publish("$KV.routes.filler", bytes(2048))
        return True
    return False


def main() -> None:
    """Run it; exit with 1 unless the bus took writes again."""
    folder, python = StateFolder(Path(sys.argv[1])), Path(sys.executable)
    options = Options(StackConfig("toy"), programs_of(python), default_engine_root(), dict(os.environ))
    servers = Filled(folder, options, View(quiet=False), SystemClock())
    asyncio.run(servers.run())
    sys.exit(0 if servers.completed else 1)


if __name__ == "__main__":
    main()
