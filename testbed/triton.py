"""A real tritonserver on free ports, with our engines, killable and restartable; its processes are found and ended."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from deploy.local import triton
from testbed.agent import TritonAgent
from testbed.ports import free_port
from testbed.servers import Server, accepts, wait_until

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / ".venv-engine"


def find_marked(state: Path, *, proc: Path = Path("/proc")) -> Iterator[int]:
    """Yield the process ids of a tritonserver of this run folder and of everything that it started."""
    mark = f"{triton.MARKER}={state}".encode()
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark in variables:
            yield int(folder.name)


def marked_engine(folder: Path, marker: str) -> Path:
    """Make an engine environment of the same packages and one more, which is empty: another runtime by its digest."""
    engine = triton.find_engine(ENGINE)
    packages = folder / "lib" / f"python{engine.python_version}" / "site-packages"
    packages.mkdir(parents=True)
    for entry in engine.site_packages.iterdir():
        (packages / entry.name).symlink_to(entry)
    (packages / f"{marker}-1.0.dist-info").mkdir()
    (folder / "bin").mkdir()
    for name in ("python", "python3"):  # Triton's stub looks for the second
        (folder / "bin" / name).symlink_to((ENGINE / "bin" / "python").resolve())
    shutil.copy2(ENGINE / "pyvenv.cfg", folder / "pyvenv.cfg")
    return folder


class TritonServer(Server):
    name = "triton"

    def __init__(self, folder: Path, *, admin_key: str | None = None) -> None:
        super().__init__(folder)
        self.engine = triton.find_engine(ENGINE)
        self.admin_key = admin_key
        self._agent: TritonAgent | None = None
        self.ports = triton.Ports(http=free_port(), grpc=free_port(), metrics=free_port())
        triton.prepare_run_folder(self.engine, self.folder)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.ports.grpc}"

    @property
    def repository(self) -> Path:
        return self.folder / "models"

    def command(self) -> list[str]:
        return triton.build_command(self.engine, self.folder, self.ports, admin_key=self.admin_key, exit_timeout_s=15)

    def environment(self) -> dict[str, str]:
        return triton.build_environment(self.engine, self.folder, os.environ)

    def ready(self) -> bool:
        import tritonclient.grpc as client
        from tritonclient.utils import InferenceServerException

        with contextlib.closing(client.InferenceServerClient(self.endpoint)) as connection:
            try:
                return connection.is_server_ready() and accepts(self.ports.http)  # HTTP listens a moment later
            except InferenceServerException:
                return False

    def agent(self, managers: Path) -> TritonAgent:
        """Return the agent beside it, which is started if there is none; it trusts these keys of server-managers."""
        if self._agent is None:
            self._agent = TritonAgent(self.folder, self.endpoint, managers, self.admin_key or "key")
            self._agent.start()
        return self._agent

    def revive(self) -> bool:
        """Start it again if it has died by itself, as a supervisor would; return whether it had."""
        assert self.process is not None
        if self.process.poll() is None:
            return False
        self.start()
        return True

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(Exception):
                self.process.wait(30)
        self.discard()

    def discard(self) -> None:
        """Kill it, its agent, and every process that it started."""
        if self._agent is not None:
            self._agent.discard()
            self._agent = None
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.02)
        if self.process is not None:
            self.process.wait(10)

    # -- its processes ------------------------------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """Return the live processes of this server, itself included."""
        alive = []
        for pid in find_marked(self.folder):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
        return alive

    def stub(self, name: str) -> psutil.Process:
        """Return the process that runs a model's backend: the youngest, if an older one is still ending."""
        stubs = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(f"/models/{name}/" in part for part in process.cmdline()) and "stub" in process.name():
                    stubs.append(process)
        assert stubs, f"{name} has no stub"
        return max(stubs, key=psutil.Process.create_time)

    def engine_process(self, name: str) -> psutil.Process:
        """Return the process of vLLM's engine core below a model's stub."""
        cores = [child for child in self.stub(name).children() if "EngineCore" in " ".join(child.cmdline())]
        assert cores, f"{name} has no engine process"
        return cores[0]

    def kill_stub(self, name: str) -> None:
        self.stub(name).send_signal(signal.SIGKILL)

    def nothing_left(self, *, timeout_s: float = 10.0) -> None:
        """Fail unless every process of this server ends."""
        wait_until(lambda: not self.processes(), timeout_s=timeout_s, what="every engine process ending")
