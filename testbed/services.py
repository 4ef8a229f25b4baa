"""A service as a process of its own, as in production, and the facts that it publishes."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from contracts.envelope import Event, nats_subject
from contracts.facts import Fact
from contracts.services import stream_of
from shared.runtime.process import terminate_tree
from shared.runtime.settings import Connection
from testbed.attesters import attester_variables
from testbed.forked import ForkedProcess, start
from testbed.servers import bus_variables, store_variables


def environment(connection: Connection, identity: str | None = None, **more: str) -> dict[str, str]:
    """Return the environment that makes a program use these settings, as this identity if one is given."""
    values = connection.model_dump()
    ours = {f"SLIPWAY_{name.upper()}": str(value) for name, value in values.items() if value is not None}
    if identity is not None:
        ours |= bus_variables(connection, identity) | store_variables(connection, identity)
    return {**os.environ, **ours, **more}


class ServiceProcess:
    """One service process that can be killed and started again."""

    def __init__(self, module: str, connection: Connection, **more: str) -> None:
        self._module = module
        service = module.split(".")[1].replace("_", "-")
        self._environment = environment(connection, service, **attester_variables(connection.state_dir, module), **more)
        self._log = connection.state_dir / f"{module}.log"
        self.process: subprocess.Popen[bytes] | ForkedProcess | None = None

    def start(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self.process = start([sys.executable, "-m", self._module], self._log, environment=self._environment)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def wait_until_dead(self, timeout_s: float = 60.0) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            terminate_tree(self.pid, grace_s=15.0)
            self.process.wait(20)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


@contextlib.contextmanager
def running_service(module: str, connection: Connection, **more: str) -> Iterator[ServiceProcess]:
    service = ServiceProcess(module, connection, **more)
    service.start()
    try:
        yield service
    finally:
        service.stop()


async def stored_facts(js, fact: type[Fact], model: str = "*") -> list[Event]:
    """Return every stored fact of a type."""
    stream = stream_of(fact)
    subject = nats_subject(fact.TYPE, model, "*")
    state = (await js.stream_info(stream, subjects_filter=subject)).state
    count = sum((state.subjects or {}).values())
    if not count:
        return []
    subscription = await js.subscribe(subject, stream=stream, ordered_consumer=True)
    try:
        messages = [await subscription.next_msg(timeout=10) for _ in range(count)]
    finally:
        await subscription.unsubscribe()
    return [Event[fact].model_validate_json(message.data) for message in messages]


async def wait_for_fact(
    js, fact: type[Fact], *, model: str = "*", count: int = 1, timeout_s: float = 90.0
) -> list[Event]:
    """Return the stored facts of a type once there are so many."""
    async with asyncio.timeout(timeout_s):
        while len(stored := await stored_facts(js, fact, model)) < count:
            await asyncio.sleep(0.1)
    return stored
