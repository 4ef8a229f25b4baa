"""Bus and store of a stack without its services, during a piece of work."""

import time
from collections.abc import Awaitable, Callable

from deploy.local.plan import Part
from deploy.local.state import Description, StateFolder
from deploy.local.supervisor import Options, Supervisor
from deploy.local.view import View
from shared.runtime.clock import Clock

Work = Callable[[], Awaitable[None]]


class ServersOnly(Supervisor):
    """Starts bus and store of a state folder, does a piece of work, and stops them; a signal ends it earlier."""

    def __init__(self, folder: StateFolder, options: Options, view: View, clock: Clock, work: Work) -> None:
        """Set the options of a stack, and the work to do while bus and store run."""
        super().__init__(folder, options, view, clock)
        self._work = work
        self.completed = False

    def _plan_parts(self, description: Description) -> list[Part]:
        return self._plan_servers(description)

    async def _bring_up(self, _description: Description) -> None:
        began = time.monotonic()
        await self._start_and_wait(self._runners)
        self._view.print_line("slipway", f"bus and store ready after {time.monotonic() - began:.1f} s")
        await self._work()
        self.completed = True

    async def _keep_provisioned(self, _description: Description) -> None:
        """Return at once: the work is done."""
