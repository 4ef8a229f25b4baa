"""The bus of an embedded stack for an identity of the tests' own, which may also change who leads a stream."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import nats.errors
from nats.js import JetStreamContext

from clients.cli.connection import find_stack
from deploy.identity.files import write_file
from deploy.identity.key_folder import KeyFolder
from deploy.local.plan import keys_folder
from deploy.local.state import StateFolder, reload_servers
from shared.messaging import credentials
from shared.messaging.patience import PatientJetStream
from testbed.cluster import ELECTION_S, ignore, leader_of, step_down
from testbed.servers import HARNESS, new_harness, wait_until, with_harness
from testbed.stack import Stack


class StackBus:
    """The servers of a stack's bus by the names of their parts."""

    def __init__(self, stack: Stack) -> None:
        """Let the tests' identity in: no identity of an installation may ask a leader to give up."""
        self._stack = stack
        keys = KeyFolder(keys_folder(stack.state))
        write_file(keys.server_config, with_harness(keys, new_harness(keys)).encode())
        assert reload_servers(StateFolder(stack.state))
        self._settings = find_stack(stack.state).connection.model_copy(
            update={"nats_credentials": keys.credential(HARNESS)}
        )

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[JetStreamContext]:
        """Connect until the end of the block, to another server where one is lost; requests are made as services do."""
        async with asyncio.timeout(ELECTION_S):
            while True:
                try:
                    client = await credentials.connect(
                        self._settings, max_reconnect_attempts=-1, reconnect_time_wait=0.2, error_cb=ignore
                    )
                    break
                except nats.errors.Error:  # the servers have not read the identity yet
                    await asyncio.sleep(0.1)
        try:
            yield PatientJetStream(client)
        finally:
            await client.close()

    async def leader(self, js: JetStreamContext, stream: str) -> str:
        """Return the part that leads a stream, once there is one."""
        async with asyncio.timeout(ELECTION_S):
            while True:
                with contextlib.suppress(nats.errors.Error):
                    if leader := await leader_of(js, stream):
                        return leader
                await asyncio.sleep(0.1)

    async def step_down(self, js: JetStreamContext, stream: str) -> str:
        """Let the leader of a stream give up; return it."""
        leader = await self.leader(js, stream)
        await step_down(js, stream)
        return leader

    async def kill_leader(self, js: JetStreamContext, stream: str) -> str:
        """Kill -9 the server that leads a stream; return it. The supervisor starts it again."""
        leader = await self.leader(js, stream)
        os.kill(self._stack.part(leader)["pid"], signal.SIGKILL)
        return leader

    def await_back(self, server: str, restarts: int) -> None:
        """Return once a server was started so many times again, and is ready."""
        wait_until(
            lambda: (part := self._stack.part(server))["restarts"] >= restarts and part["state"] == "ready",
            timeout_s=90,
            what=f"{server} being back",
        )
