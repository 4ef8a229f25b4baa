"""An installation of compose.yaml: its keys, its containers, and the command line in a container."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from contracts.version import VERSION
from shared.runtime.process import child_command
from testbed.containers import engine
from testbed.containers.waiting import wait_for
from testbed.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
FILES = ("compose.yaml", "deploy/docker/compose.seaweedfs.yaml", "deploy/docker/compose.toy.yaml")
ONCE = {"prepare", "serving-folder"}
"""Containers that do their work and end."""
USER = 10001
MODEL = "bot"
READY_S = 600.0
"""Longest wait for healthy containers: sixteen programs start at once, on a machine that may be busy."""
CHECKS_AT_ONCE = 4
"""Health checks that run at the same time: each starts a Python in its container."""
LOOK_S, HEALTHY_LOOK_S = 2.0, 20.0
"""Seconds between health checks of a container that is not healthy yet, and of one that is."""


@dataclass
class Installation:
    """The containers of a project of its own, with keys in a folder of its own.

    Attributes:
        port: Where the gateway listens on this machine; 0: each of several gateways has a free port of its own.
        volumes: Every volume that one of its containers had.
        files: The compose files, relative to the project's folder.
        bus: The names of the servers of the bus.
        variables: More variables for docker-compose.
        healthy_look_s: Seconds between two health checks of a container that is healthy.
    """

    folder: Path
    project: str
    port: int = field(default_factory=free_port)
    console_port: int = field(default_factory=free_port)
    admin_key: str = "demo"
    volumes: set[str] = field(default_factory=set)
    files: tuple[str, ...] = FILES
    bus: tuple[str, ...] = ("nats",)
    variables: dict[str, str] = field(default_factory=dict)
    healthy_look_s: float = HEALTHY_LOOK_S
    _service: subprocess.Popen[bytes] | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.make_keys()
        command = ["podman", "system", "service", "--time=0", f"unix://{self.socket}"]
        with (self.folder / "podman.log").open("wb") as log:  # a session of its own: Ctrl-C is for us, not for it
            self._service = subprocess.Popen(
                child_command(command), stderr=log, stdout=log, env=engine.environment(), start_new_session=True
            )
        try:
            wait_for(self.socket.exists, 30, "socket of podman's service")
            threading.Thread(target=self._check_health, daemon=True).start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        try:
            self.volumes |= engine.volumes(self.project)
            engine.remove_all(self.project)
        finally:
            if self._service is not None:
                self._service.terminate()
                try:
                    self._service.wait(20)
                except subprocess.TimeoutExpired:
                    self._service.kill()

    @property
    def socket(self) -> Path:
        return self.folder / "podman.sock"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make_keys(self) -> None:
        """Make the keys of the installation, and a user's, as docs/guides/containers.md says."""
        slipway = [sys.executable, "-m", "clients.cli.main", "keys"]
        own = ["--folder", str(self.keys)]
        for arguments in (
            ["init", *own, *(word for name in self.bus for word in ("--host", name)), "--store-host", "store"],
            ["add", "admin", "--role", "administrator", *own],
        ):
            subprocess.run([*slipway, *arguments], cwd=ROOT, check=True, capture_output=True, timeout=120)
        for path in (self.keys, *self.keys.rglob("*")):
            os.chown(path, USER, USER)

    def compose(self, *arguments: str, timeout_s: float = 600, **variables: str) -> str:
        """Run docker-compose on the files that people get; return what it prints.

        Raises:
            RuntimeError: It failed; the message has the end of its output.
        """
        files = [word for name in self.files for word in ("-f", str(ROOT / name))]
        command = ["docker-compose", "--project-name", self.project, "--env-file", "/dev/null", *files, *arguments]
        done = subprocess.run(
            command,
            env=self._environment() | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            what = f"docker-compose {' '.join(arguments)}: exit code {done.returncode}"
            shown = "\n".join(dict.fromkeys(f"{done.stdout}\n{done.stderr}".splitlines()))  # each of its lines once
            raise RuntimeError(f"{what}\n{shown[-3000:]}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "DOCKER_HOST": f"unix://{self.socket}",
            "SLIPWAY_VERSION": VERSION,
            "SLIPWAY_KEYS": str(self.keys),
            "SLIPWAY_TRITON_ADMIN_KEY": self.admin_key,
            "SLIPWAY_GATEWAY_ADDRESS": f"127.0.0.1:{self.port or ''}",
            "SLIPWAY_CONSOLE_ADDRESS": f"127.0.0.1:{self.console_port}",
            "ROLLBACK_CONTROLLER_PRODUCTION_DRILLS": MODEL,
            **self.variables,
        }

    def _check_health(self) -> None:
        """Run the containers' health checks: podman leaves that to systemd, which not every machine has."""
        rounds = 0
        while not self._stop.wait(LOOK_S):
            rounds += 1
            all_of_them = rounds % round(self.healthy_look_s / LOOK_S) == 0
            label = f"label=com.docker.compose.project={self.project}"
            lines = engine.podman("ps", "--filter", label, "--format", "{{.Names}} {{.Status}}", check=False)
            for name, _, status in (line.partition(" ") for line in lines.splitlines()):
                if self._stop.is_set():
                    return
                if "(" in status and (all_of_them or "(healthy)" not in status):
                    engine.podman("healthcheck", "run", name, check=False)

    # -- what an operator does ---------------------------------------------------------------------------------------

    def up(self, *arguments: str, **variables: str) -> None:
        """Start services, all unless named, and return when each is healthy or has done its work."""
        self.compose("up", "--detach", "--no-build", "--pull", "never", *arguments, timeout_s=READY_S, **variables)
        self.await_ready()

    def await_ready(self, true: Callable[[], bool] = lambda: True) -> None:
        """Return when all containers are healthy or at their end, and a condition holds.

        Raises:
            TimeoutError: They were not in time; the message has their states.
        """
        wait_for(lambda: true() and not self.not_ready(), READY_S, "healthy containers", lambda: self.not_ready() or "")
        self.volumes |= engine.volumes(self.project)

    def down(self) -> None:
        """End everything as an operator does, volumes included."""
        self.volumes |= engine.volumes(self.project)
        self._stop.set()
        self.compose("--profile", "tools", "down", "--volumes", "--timeout", "30", timeout_s=300)

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """Return what podman knows of the containers of all services, or of one."""
        return [
            each
            for each in engine.inspect(self.project)
            if each["Config"]["Labels"].get("com.docker.compose.oneoff") != "True" and service in ("", service_of(each))
        ]

    def not_ready(self) -> list[str]:
        """Return the containers that are neither healthy nor, where they work once, at their end."""
        return [f"{service_of(each)}: {state_of(each)}" for each in self.containers() if not is_ready(each)]

    def failing_checks(self) -> list[str]:
        """Run the health check of each container that serves, now; return the services whose check fails."""

        def passes(container: dict[str, Any]) -> bool:
            try:
                engine.podman("healthcheck", "run", container["Name"])
            except RuntimeError:
                return False
            return True

        serving = [each for each in self.containers() if service_of(each) not in ONCE]
        with ThreadPoolExecutor(CHECKS_AT_ONCE) as pool:
            passed = list(pool.map(passes, serving))
        return [service_of(each) for each, ok in zip(serving, passed, strict=True) if not ok]

    def logs(self, name: str, lines: int = 30) -> str:
        """Return the end of a container's output, both streams."""
        done = subprocess.run(
            ["podman", "logs", "--tail", str(lines), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=30,
            env=engine.environment(),
        )
        return done.stdout

    def slipway(self, *arguments: str, timeout_s: float = 180) -> str:
        """Run the command line in its container, which sees the folder of models at /models."""
        mounted = ("--volume", f"{self.folder / 'models'}:/models:ro")
        return self.compose("run", "--rm", "--no-deps", "-T", *mounted, "cli", *arguments, timeout_s=timeout_s)

    def hang(self, service: str) -> None:
        """Stop a service's program by a signal, so that it hangs as one that waits forever."""
        (container,) = (each["Name"] for each in self.containers(service))
        own = f"python -m services.{service.replace('-', '_')}.main"
        for line in engine.podman("top", container, "hpid", "args").splitlines()[1:]:
            pid, _, command = line.strip().partition(" ")
            if command.strip().startswith(own):
                os.kill(int(pid), signal.SIGSTOP)
                return
        raise RuntimeError(f"no program of {service} runs in {container}")

    def ask(self, key: str, text: str) -> str:
        """Return an answer of the gateway."""
        body = {"model": MODEL, "prompt": text, "max_tokens": 8}
        headers = {"authorization": f"Bearer {key}"}
        answer = httpx.post(f"{self.url}/v1/completions", json=body, headers=headers, timeout=60, trust_env=False)
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["text"])


def service_of(container: dict[str, Any]) -> str:
    """Return the service of compose.yaml that a container is of."""
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


def state_of(container: dict[str, Any]) -> str:
    """Return a container's state, with its health or exit code."""
    state = container["State"]
    detail = (state.get("Health") or {}).get("Status") if state["Running"] else f"exit code {state['ExitCode']}"
    return f"{state['Status']}, {detail}"


def is_ready(container: dict[str, Any]) -> bool:
    """Return whether a container is healthy or, where it works once, at its end."""
    state = container["State"]
    if service_of(container) in ONCE:
        return state["Status"] == "exited" and state["ExitCode"] == 0
    return bool(state["Running"]) and (state.get("Health") or {}).get("Status") == "healthy"
