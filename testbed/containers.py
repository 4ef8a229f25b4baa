"""The installation of compose.yaml in real containers, from images built here: `python -m testbed.containers`.

Takes podman and docker-compose. Builds the images, starts everything with SeaweedFS and the toy engine, publishes a
tiny checkpoint, waits for its promotion, asks it through the gateway, and ends with nothing left. Nothing is pulled.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from shared.runtime.process import child_command
from testbed.ports import free_port
from testbed.stack import DATA_HASH, POLICY

ROOT = Path(__file__).resolve().parents[1]
FILES = ("compose.yaml", "deploy/docker/compose.seaweedfs.yaml", "deploy/docker/compose.toy.yaml")
PROGRAMS = ("podman", "docker-compose", "catatonit")
ONCE = {"prepare", "serving-folder"}
"""Containers that do their work and end."""
USER = 10001
MODEL = "bot"
READY_S = 300.0
PROMOTED_S = 420


def missing_programs() -> list[str]:
    """Return the programs that are not installed, of those that containers need here."""
    places = f"{os.environ.get('PATH', '')}:/usr/libexec/podman:/usr/lib/podman"
    return [name for name in PROGRAMS if shutil.which(name, path=places) is None]


def podman(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True, check=False, timeout=300)
    if check and done.returncode:
        raise RuntimeError(f"podman {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@dataclass
class Containers:
    """An installation in containers of a project of its own, with keys in a folder of its own."""

    folder: Path
    project: str
    port: int = field(default_factory=free_port)
    admin_key: str = "demo"
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.make_keys()
        command = ["podman", "system", "service", "--time=0", f"unix://{self.socket}"]
        self._processes.append(subprocess.Popen(child_command(command), stderr=subprocess.DEVNULL))
        threading.Thread(target=self._check_health, daemon=True).start()
        _wait(self.socket.exists, 30, "podman's socket")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.compose("--profile", "tools", "down", "--volumes", "--timeout", "30", check=False, timeout_s=300)
        self._stop.set()
        for process in self._processes:
            process.terminate()
            process.wait(30)

    @property
    def socket(self) -> Path:
        return self.folder / "podman.sock"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    def make_keys(self) -> None:
        """Make the keys of the installation, and a user's, as docs/guides/containers.md says."""
        slipway = [sys.executable, "-m", "clients.cli.main", "keys"]
        own = ["--folder", str(self.keys)]
        for arguments in (
            ["init", *own, "--host", "nats", "--store-host", "store"],
            ["add", "admin", "--role", "administrator", *own],
        ):
            subprocess.run([*slipway, *arguments], cwd=ROOT, check=True, capture_output=True, timeout=60)
        for path in (self.keys, *self.keys.rglob("*")):
            os.chown(path, USER, USER)

    def compose(self, *arguments: str, check: bool = True, timeout_s: float = 600) -> str:
        """Run docker-compose on the files that people get."""
        files = [word for name in FILES for word in ("-f", str(ROOT / name))]
        command = ["docker-compose", "--project-name", self.project, "--env-file", "/dev/null", *files, *arguments]
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, check=False, timeout=timeout_s
        )
        if check and done.returncode:
            raise RuntimeError(f"docker-compose {' '.join(arguments)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "DOCKER_HOST": f"unix://{self.socket}",
            "SLIPWAY_KEYS": str(self.keys),
            "SLIPWAY_TRITON_ADMIN_KEY": self.admin_key,
            "SLIPWAY_GATEWAY_ADDRESS": f"127.0.0.1:{self.port}",
        }

    def _check_health(self) -> None:
        """Run the containers' health checks: podman leaves that to systemd, which not every machine has."""
        while not self._stop.wait(2.0):
            label = f"label=com.docker.compose.project={self.project}"
            for name in podman("ps", "--quiet", "--filter", label, check=False).split():
                podman("healthcheck", "run", name, check=False)

    # -- what an operator does ---------------------------------------------------------------------------------------

    def up(self, *services: str) -> None:
        """Start services, all unless named, and return when each is healthy or has done its work."""
        self.compose("up", "--detach", "--no-build", "--pull", "never", *services)
        _wait(lambda: not self.not_ready(), READY_S, "healthy containers", self.not_ready)

    def containers(self) -> list[dict[str, Any]]:
        lines = self.compose("ps", "--all", "--format", "json").splitlines()
        return [json.loads(line) for line in lines if line.strip()]

    def not_ready(self) -> list[str]:
        """Return the containers that are neither healthy nor, where they work once, at their end."""
        wrong = []
        for each in self.containers():
            done = each["State"] == "exited" and each["ExitCode"] == 0
            if not (done if each["Service"] in ONCE else each["State"] == "running" and "healthy)" in each["Status"]):
                wrong.append(f"{each['Service']}: {each['Status']}")
        return wrong

    def slipway(self, *arguments: str, timeout_s: float = 120) -> str:
        """Run the command line in its container, which sees the folder of models at /models."""
        mounted = ("--volume", f"{self.folder / 'models'}:/models:ro")
        return self.compose("run", "--rm", "--no-deps", *mounted, "cli", *arguments, timeout_s=timeout_s)

    def ask(self, key: str, text: str) -> str:
        """Return an answer of the gateway."""
        body = {"model": MODEL, "prompt": text, "max_tokens": 8}
        answer = httpx.post(
            f"http://127.0.0.1:{self.port}/v1/completions",
            json=body,
            headers={"authorization": f"Bearer {key}"},
            timeout=60,
            trust_env=False,
        )
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["text"])

    def left(self) -> list[str]:
        """Return the containers, volumes and networks of this installation that exist."""
        label = f"label=com.docker.compose.project={self.project}"
        existing = {
            "container": podman("ps", "--all", "--filter", label, "--format", "{{.Names}}"),
            "volume": podman("volume", "ls", "--filter", label, "--format", "{{.Name}}"),
            "network": podman("network", "ls", "--filter", label, "--format", "{{.Name}}"),
        }
        return [f"{kind} {name}" for kind, names in existing.items() for name in names.split()]


def _wait(true: Any, limit_s: float, what: str, why: Any = lambda: "") -> None:
    end = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} within {limit_s:g} s {why()}")
        time.sleep(1.0)


def make_models(folder: Path) -> None:
    """Make a tiny base model and a LoRA on it, with a policy."""
    from testbed.models import tiny_base, tiny_lora

    base = tiny_base(folder / "tiny-llama")
    tiny_lora(base, folder / "lora")
    (folder / "policy.json").write_text(json.dumps(POLICY))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"-- {title}", flush=True)
    yield
    print(f"   {time.monotonic() - began:.1f} s", flush=True)


def release(stack: Containers) -> None:
    """Import a base model, publish a checkpoint, and return when it serves production."""
    stack.slipway("base", "import", "/models/tiny-llama")
    checkpoint = ("--base", "tiny-llama", "--adapter", "/models/lora", "--variant", "bf16")
    proof = ("--run-id", "run-1", "--data-hash", DATA_HASH, "--policy", "/models/policy.json")
    stack.slipway("publish", "--model", MODEL, *checkpoint, *proof)
    follow = ("--follow", "--until", "finished", "--timeout", str(PROMOTED_S))
    print(stack.slipway("status", MODEL, *follow, timeout_s=PROMOTED_S + 60), flush=True)


def main() -> None:
    """Show the installation, step by step; end with an error if a step did not happen."""
    if missing := missing_programs():
        sys.exit(f"not installed: {', '.join(missing)} (docs/guides/containers.md names the packages)")
    with step("build the images"):
        subprocess.run([str(ROOT / "deploy/docker/images.sh")], cwd=ROOT, check=True)
    folder = Path(tempfile.mkdtemp(prefix="slipway-containers-"))
    stack = Containers(folder, "slipway-demo")
    try:
        (folder / "models").mkdir()
        folder.chmod(0o755)
        make_models(folder / "models")
        with stack:
            with step("start all services"):
                stack.up()
            with step("publish a checkpoint, and wait until it serves"):
                release(stack)
            with step("ask it through the gateway"):
                key = json.loads(stack.slipway("keys", "issue", "demo", "--model", MODEL, "--json"))["key"]
                _wait(lambda: _answers(stack, key), 30, "answer")
                print(f"   {stack.ask(key, 'Where is my order?')!r}")
        if left := stack.left():
            sys.exit(f"left behind: {', '.join(left)}")
        print("-- nothing is left")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _answers(stack: Containers, key: str) -> bool:
    try:
        return bool(stack.ask(key, "hello"))
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    main()
