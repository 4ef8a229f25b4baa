"""The whole embedded stack as a user starts it, where every part is needed at once."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from nats.js import JetStreamContext

from clients.cli.connection import ask_bus, connected, find_stack
from clients.cli.events.event_log import EventFilter, read_history
from clients.cli.gateway import read_key
from clients.cli.releases.runtimes import read_runtimes
from clients.cli.releases.version_records import read_routes
from contracts.envelope import Event, plain
from contracts.facts import FACTS
from contracts.manifests import FileEntry
from contracts.runtimes import FleetRuntime
from contracts.services import EVENTS, stream_of
from contracts.vocabulary import Environment, canonical_json
from shared.messaging.credentials import connect
from shared.runtime.process import child_command
from shared.storage.blobs import Store
from testbed.forked import ForkedProcess, may_fork, run
from testbed.servers import wait_until

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
READY_S = 150.0
PROGRAM: tuple[str, ...] = ("clients.cli.main",)
DATA_HASH = "sha256:" + "d" * 64
POLICY = {
    "gates": [{"metric": "error_ratio", "max_value": 0.5}],
    "load": {"requests": 6, "rate_rps": 6.0, "output_tokens": 8, "warmup_requests": 1},
    "rehearsal": "not_required",
    "triggers": [{"name": "errors", "metric": "error_ratio", "threshold": 0.5, "action": "manual"}],
}


def where_is(name: str, environment: Environment) -> EventFilter:
    """Return the part of the log that has the events of a type; of announcements and orders, all of them."""
    is_of_services = stream_of(FACTS[f"slipway.{name}.v1"]) == EVENTS
    return EventFilter((name,) if is_of_services else (), environment, with_orders=not is_of_services)


class Stack:
    """`slipway up` in the background, with the commands of a user."""

    def __init__(self, state: Path, *arguments: str, engine: str = "toy", **environment: str) -> None:
        self.state = state
        self.output = state.parent / f"{state.name}.out"
        self._environment = {**os.environ, **environment}
        self._arguments = ["up", "--engine", engine, "--state", str(state), *arguments]
        self.program = PROGRAM
        self.prefix: tuple[str, ...] = ()
        self.process: subprocess.Popen[bytes] | ForkedProcess | None = None

    def up(self) -> "Stack":
        command = [*self.prefix, sys.executable, "-m", *self.program, *self._arguments]
        if self.program == PROGRAM and may_fork(command, self._environment):
            program = ["testbed.forked_stack", *self._arguments]
            self.process = ForkedProcess(
                program, environment=self._environment, cwd=ROOT, stdout=self.output, stderr=self.output
            )
        else:
            with self.output.open("ab") as out:
                self.process = subprocess.Popen(
                    child_command(command),
                    cwd=ROOT,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=self._environment,
                )
        wait_until(self._ready, timeout_s=READY_S, what=f"the stack being ready, see {self.output}")
        return self

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.output.read_text()
        table = self.table()
        return table["supervisor"] == self.process.pid and table["phase"] == "ready"

    def down(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(120)

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(self, *_: object) -> None:
        self.down()

    @property
    def headers(self) -> dict[str, str]:
        """The header that presents the key of the person of this machine to the gateway."""
        return {"authorization": f"Bearer {read_key(find_stack(self.state))}"}

    @property
    def store(self) -> Store:
        return Store(find_stack(self.state).connection)

    def check_artifacts(self) -> int:
        """Verify every file that a committed manifest names; return their number."""
        store, checked = self.store, 0
        for key in store.keys("manifests/"):
            manifest = json.loads(store.find(key) or b"{}")
            files = [FileEntry.model_validate(plain) for plain in manifest.get("files", [])]
            with tempfile.TemporaryDirectory() as scratch:
                store.fetch_files(files, Path(scratch))  # raises for a file that is not intact
            checked += len(files)
        return checked

    # -- what a user sees and does ------------------------------------------------------------------------------------

    def table(self) -> dict[str, Any]:
        return json.loads((self.state / "parts.json").read_text())

    def part(self, name: str) -> dict[str, Any]:
        return next(part for part in self.table()["parts"] if part["name"] == name)

    def kill(self, name: str) -> None:
        """kill -9 one part, and wait until the supervisor has started it again."""
        before = self.part(name)
        os.kill(before["pid"], signal.SIGKILL)
        wait_until(
            lambda: self.part(name)["pid"] != before["pid"] and self.part(name)["state"] == "ready",
            timeout_s=90,
            what=f"the restart of {name}",
        )

    def slipway(
        self, *arguments: str, timeout_s: float = 240, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [*self.prefix, sys.executable, "-m", "clients.cli.main", *arguments, "--state", str(self.state)]
        given = {**os.environ, **(variables or {})}
        return run(command, environment=given, cwd=ROOT, timeout_s=timeout_s)

    def ok(self, *arguments: str, timeout_s: float = 240, variables: Mapping[str, str] | None = None) -> str:
        done = self.slipway(*arguments, timeout_s=timeout_s, variables=variables)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.tail()}"
        return done.stdout

    def ask_json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def tail(self) -> str:
        return self.output.read_text(errors="replace")[-3000:] if self.output.exists() else ""

    def publish(
        self,
        model: str,
        adapter: Path,
        *more: str,
        base: str = "tiny-llama",
        policy: dict | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        file = self.state.parent / f"policy-{model}.json"
        file.write_text(json.dumps(policy or POLICY))
        self.ok(
            "publish",
            "--model",
            model,
            "--base",
            base,
            "--adapter",
            str(adapter),
            "--run-id",
            f"run-{model}",
            "--data-hash",
            DATA_HASH,
            "--policy",
            str(file),
            *more,
            variables=variables,
        )

    def promoted(self, model: str, timeout_s: float = 240) -> None:
        self.ok(
            "status", model, "--follow", "--until", "finished", "--timeout", str(timeout_s), timeout_s=timeout_s + 30
        )

    # -- what is read again and again: by the command's own functions, without a process for each read ----------------

    def _run(self, main: Coroutine[Any, Any, T]) -> T:
        with ThreadPoolExecutor(1) as thread:  # the caller may have a loop of its own
            return thread.submit(asyncio.run, main).result()

    def _ask(self, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]]) -> T:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(ask_bus, find_stack(self.state), work).result()

    def events(
        self, name: str, model: str | None = None, environment: Environment = "production"
    ) -> list[dict[str, Any]]:
        kind = f"slipway.{name}.v1"
        part = where_is(name, environment)

        async def read() -> list[dict[str, Any]]:
            async with connected(find_stack(self.state)) as client:
                history = await read_history(client.jetstream(timeout=10), model, part)
            return [json.loads(json.dumps(plain(stored.event))) for stored in history]

        return [event for event in self._run(read()) if (event["type"], event["environment"]) == (kind, environment)]

    def route(self, model: str) -> dict[str, Any]:
        """Return what serves a model in production."""
        return self._ask(read_routes)[model].model_dump(mode="json")

    def runtimes(self) -> dict[str, FleetRuntime]:
        """Return the endpoints of the fleet; the first one of a runtime has its name."""
        return {each.endpoint_name or each.name: each for each in self._ask(read_runtimes)}

    def publish_as(self, identity: str, *events: Event[Any]) -> None:
        """Publish events with the key of an identity."""
        connection = find_stack(self.state).connection
        assert connection.nats_credentials is not None
        theirs = connection.nats_credentials.with_name(f"{identity}.nk")

        async def publish() -> None:
            client = await connect(connection.model_copy(update={"nats_credentials": theirs}))
            for event in events:
                await client.jetstream(timeout=20).publish(event.nats_subject, canonical_json(plain(event)))
            await client.close()

        self._run(publish())

    def await_event(self, name: str, model: str, *, count: int = 1, timeout_s: float = 120) -> list[dict[str, Any]]:
        deadline = time.monotonic() + timeout_s
        while len(events := self.events(name, model)) < count:
            assert time.monotonic() < deadline, f"no {name} of {model} within {timeout_s} s\n{self.tail()}"
            time.sleep(0.5)  # each look connects and reads
        return events
