"""An embedded stack whose parts run in different versions, and are replaced one by one."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Self

import httpx

from deploy.local.processes import PART_VARIABLE
from shared.runtime.process import child_command, terminate_tree
from testbed.ports import free_port
from testbed.servers import wait_until
from testbed.stack import ROOT, Stack

LAUNCHER = f"""#!/bin/sh
source="$(dirname "$0")/${PART_VARIABLE}"
[ -e "$source" ] || source="$(dirname "$0")/default"
PYTHONPATH="$(readlink -f "$source")"
export PYTHONPATH
exec {sys.executable} "$@"
"""


class RollingStack(Stack):
    """A stack whose parts run from one checkout at first; `assign` lets the next process of a part run from another."""

    def __init__(self, state: Path, checkout: Path, *arguments: str, **environment: str) -> None:
        super().__init__(state, *arguments, **environment)
        self.sources = state.parent / f"{state.name}-sources"
        self.sources.mkdir()
        self.python = self.sources / "python"
        self.python.write_text(LAUNCHER)
        self.python.chmod(0o755)
        (self.sources / "default").symlink_to(checkout)
        self.program = ("tests.kit.rolling_up", str(self.python))

    def assign(self, part: str, checkout: Path) -> None:
        """Let what is started as this part from now on run from a checkout."""
        draft = self.sources / f".{part}"
        draft.symlink_to(checkout)
        draft.replace(self.sources / part)

    def replace(self, *parts: str, checkout: Path) -> None:
        """Stop parts as an operator would, let them run from a checkout, and wait until all are ready."""
        before = {name: self.part(name)["pid"] for name in parts}
        for name, pid in before.items():
            self.assign(name, checkout)
            os.kill(pid, signal.SIGTERM)
        for name, pid in before.items():
            wait_until(
                lambda name=name, pid=pid: self.part(name)["pid"] != pid and self.part(name)["state"] == "ready",
                timeout_s=90,
                what=f"the replacement of {name} being ready, see {self.log_of(name)}",
            )

    def try_up(self) -> tuple[int, str]:
        """Start the stack, which is expected to end by itself; return its exit code and output."""
        command = [sys.executable, "-m", *self.program, *self._arguments]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False, env=self._environment
        )
        return done.returncode, done.stdout + done.stderr

    def log_of(self, part: str) -> Path:
        return self.state / "logs" / f"{part}.log"

    def versions(self) -> dict[str, str]:
        """Return the version that each service of the stack says."""
        parts = [part for part in self.table()["parts"] if part["probe"] == "service"]
        ports = {part["name"]: part["admin_port"] or part["port"] for part in parts}
        return {name: httpx.get(f"http://127.0.0.1:{port}/readyz").json()["version"] for name, port in ports.items()}


class SecondGateway:
    """Another gateway before the same stack, with the environment of the first one."""

    def __init__(self, stack: RollingStack, folder: Path) -> None:
        variables = Path(f"/proc/{stack.part('gateway')['pid']}/environ").read_bytes().decode().split("\0")
        self._environment = dict(each.split("=", 1) for each in variables if each)
        for name in ("SLIPWAY_STACK", PART_VARIABLE):
            del self._environment[name]
        self._folder = folder
        self.port, self.admin_port = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run_from(self, checkout: Path) -> None:
        """Stop the process that runs, start one from a checkout, and wait until it is ready."""
        self.stop()
        more = {
            "PYTHONPATH": str(checkout),
            "SLIPWAY_HTTP_PORT": str(self.port),
            "GATEWAY_ADMIN_PORT": str(self.admin_port),
            "SLIPWAY_STATE_DIR": str(self._folder),
        }
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                child_command([sys.executable, "-m", "services.gateway.main"]),
                env={**self._environment, **more},
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        wait_until(self._ready, timeout_s=60, what="the second gateway being ready")

    def _ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.admin_port}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            terminate_tree(self.process.pid, grace_s=40)
            self.process.wait(50)


class Callers:
    """Callers of one address behind which several gateways answer: one that accepts no connection is passed over."""

    def __init__(self, urls: list[str], headers: dict[str, str], model: str, every_s: float = 0.15) -> None:
        self._urls, self._headers, self._model, self._every_s = urls, headers, model, every_s
        self._stop = threading.Event()
        self.answered: Counter[str] = Counter()
        self.by_gateway: Counter[str] = Counter()
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in (0, 1)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, number: int) -> None:
        while not self._stop.wait(self._every_s):
            self._ask(self._urls[number:] + self._urls[:number])

    def _ask(self, urls: list[str]) -> None:
        body = {"model": self._model, "prompt": "hello", "max_tokens": 4}
        for url in urls:
            try:
                answer = httpx.post(
                    f"{url}/v1/completions", json=body, headers=self._headers, timeout=60, trust_env=False
                )
            except httpx.ConnectError:
                continue
            except httpx.HTTPError as error:
                self.failed.append(repr(error))
                return
            if answer.status_code != httpx.codes.OK:
                self.failed.append(f"{answer.status_code} {answer.text[:200]}")
                return
            self.answered[answer.headers["x-slipway-release"]] += 1
            self.by_gateway[url] += 1
            return
        self.failed.append("no gateway accepts connections")
