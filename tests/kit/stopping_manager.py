"""server-manager that stops itself between its last check of the lease and a request to the agent.

python -m tests.kit.stopping_manager METHOD MARKER
"""

import os
import signal
import sys
from pathlib import Path

from services.server_manager import main
from services.server_manager.adapters import agent_client


class StoppingClient(agent_client.AgentClient):
    """Stops its process before the first request of a name that it is to send once a file exists; removes the file."""

    method, marker = sys.argv[1], Path(sys.argv[2])

    async def ask(self, method, request, timeout_s):
        if method == self.method and self.marker.exists():
            self.marker.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        return await super().ask(method, request, timeout_s)


if __name__ == "__main__":
    main.AgentClient = StoppingClient  # type: ignore[attr-defined]
    main.main()
