"""The cluster as its tests see it: what an operator asks of it, in a container of the command line."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from testbed.containers.hosts import bus, clock, third_triton
from testbed.containers.hosts.log_checks import Event
from testbed.containers.hosts.members import BUS, GATEWAYS
from testbed.containers.installation import FILES, MODEL, Installation
from testbed.ports import free_port
from testbed.stack import DATA_HASH

FILES_OF_THREE = (*FILES, "deploy/docker/compose.cluster.yaml", "deploy/docker/compose.cluster.toy.yaml")
COPIES = 3
LOOK_S = 60.0
"""Seconds between two health checks of each healthy container: each costs a start of Python, of 26."""


@dataclass
class Cluster:
    """The containers of three hosts, and the command line.

    Attributes:
        urls: The address of the gateway of each host that has one.
        headers: Those of a caller, once it has a key.
    """

    stack: Installation
    urls: dict[str, str]
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, project: str) -> "Cluster":
        """Return the cluster of a project, before any container of it."""
        ports = {host: free_port() for host in GATEWAYS}
        stack = Installation(
            folder,
            project,
            port=ports["a"],
            files=FILES_OF_THREE,
            bus=tuple(BUS.values()),
            variables={"SLIPWAY_GATEWAY_B_ADDRESS": f"127.0.0.1:{ports['b']}"},
            healthy_look_s=LOOK_S,
        )
        return cls(stack, {host: f"http://127.0.0.1:{port}" for host, port in ports.items()})

    def add_triton(self) -> None:
        """Add a third Triton, on host c, which is there when all is started."""
        config = json.loads(self.stack.compose("config", "--format", "json"))
        file = self.stack.folder / "compose.third.yaml"
        file.write_text(third_triton.override(config))
        self.stack.files = (*self.stack.files, str(file))

    def set_clock(self, ahead_s: float) -> None:
        """Set the clocks of host b's services ahead when they start."""
        services = self.stack.compose("config", "--services").split()
        file = self.stack.folder / "compose.clock.yaml"
        file.write_text(clock.override(services, ahead_s))
        self.stack.files = (*self.stack.files, str(file))

    def name_of(self, service: str) -> str:
        """Return the name of a service's container."""
        (name,) = (each["Name"] for each in self.stack.containers(service))
        return str(name)

    # -- what an operator asks ---------------------------------------------------------------------------------------

    def publish(self, adapter: str) -> None:
        """Publish a checkpoint; returns when the bus has acknowledged it."""
        checkpoint = ("--base", "tiny-llama", "--adapter", f"/models/{adapter}", "--variant", "bf16")
        proof = ("--run-id", f"run-{adapter}", "--data-hash", DATA_HASH, "--policy", "/models/policy.json")
        self.stack.slipway("publish", "--model", MODEL, *checkpoint, *proof)

    def order_rollback(self, target: str) -> str:
        """Order a rollback of a target; return why the command failed, or nothing."""
        try:
            self.stack.slipway("rollback", MODEL, "--target", target, "--reason", "a host failed")
        except RuntimeError as error:
            return " ".join(str(error).split())[-300:]
        return ""

    def events(self) -> list[Event]:
        """Return the whole event log."""
        lines = self.stack.slipway("events", "--json").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def route(self) -> dict[str, Any]:
        """Return the model's route in production."""
        (route,) = (each for each in self._json("routes") if each["model"] == MODEL)
        return dict(route)

    def missing_copies(self) -> str:
        """Return on how many Tritons the active version is, if its policy asks for more."""
        active = self.route()["active"]
        on, asked = len(active["endpoints"]), active.get("copies", 1)
        return f"{on} of {asked}" if on < asked else ""

    def dead_letters(self) -> list[Any]:
        """Return what no service could process."""
        return list(self._json("deadletters", "list"))

    def alerts(self) -> list[str]:
        """Return the open alerts, a text each."""
        return [f"{each.get('kind')} {each.get('message')}" for each in self._json("alerts")]

    def issue_key(self) -> None:
        """Make a key of a caller."""
        shown = self.stack.slipway("keys", "issue", "hosts", "--model", MODEL, "--unlimited", "--json")
        self.headers = {"authorization": f"Bearer {json.loads(shown)['key']}"}

    def no_answer(self, host: str) -> str:
        """Return why the gateway of a host does not answer a request, or nothing if it does."""
        body = {"model": MODEL, "prompt": "hello", "max_tokens": 4}
        try:
            answer = httpx.post(
                f"{self.urls[host]}/v1/completions", json=body, headers=self.headers, timeout=10, trust_env=False
            )
        except httpx.HTTPError as error:
            return repr(error)
        return "" if answer.status_code == httpx.codes.OK else f"{answer.status_code} {answer.text[:200]}"

    def _json(self, *arguments: str) -> Any:
        return json.loads(self.stack.slipway(*arguments, "--json"))

    # -- what may lag behind a failure ---------------------------------------------------------------------------------

    def streams(self) -> list[bus.Stream]:
        """Return all streams of the bus, or none while it does not say."""
        try:
            return bus.streams(self.name_of("provisioner"))
        except (RuntimeError, ValueError):
            return []

    def not_whole(self) -> list[str]:
        """Return the streams without a leader or with a copy that lacks something."""
        streams = self.streams()
        if not streams:
            return ["the bus does not answer"]
        return [
            f"{each.name}: leader {each.leader}, behind {each.behind}" for each in streams if not each.is_whole(COPIES)
        ]
