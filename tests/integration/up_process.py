"""slipway up as a process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from shared.runtime.process import child_command
from testbed.forked import ForkedProcess, start
from testbed.servers import wait_until

ROOT = Path(__file__).resolve().parents[2]


READY_S = 150


class Up:
    """A `slipway up` in the foreground, as a person starts it, or with parts that are forked."""

    def __init__(self, state: Path, *arguments: str, forked: bool = False, **variables: str) -> None:
        self.state = state
        self.output = state.parent / f"{state.name}.out"
        self.output.unlink(missing_ok=True)
        command = ["up", "--engine", "toy", "--state", str(state), *arguments]
        self.process: subprocess.Popen[bytes] | ForkedProcess
        if forked:
            command = [sys.executable, "-m", "testbed.forked_stack", *command]
            self.process = start(command, self.output, environment={**os.environ, **variables})
            return
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                child_command([sys.executable, "-m", "clients.cli.main", *command]),
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def table(self) -> dict:
        return json.loads((self.state / "parts.json").read_text())

    def parts(self) -> dict[str, dict]:
        return {part["name"]: part for part in self.table()["parts"]}

    def until_ready(self) -> "Up":
        def ready():
            assert self.process.poll() is None, self.output.read_text()
            table = self.table()
            return table["supervisor"] == self.process.pid and table["phase"] == "ready"

        try:
            wait_until(ready, timeout_s=READY_S, what="the stack being ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output.read_text()}") from None
        return self

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(120)


def living(state: Path) -> dict[int, str]:
    """Everything of a stack, found without the code under test: its mark, its folder or its run folder says so."""
    stack_id = json.loads((state / "stack.json").read_text())["stack_id"]
    commands_by_pid = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if (folder / "stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            marked = f"SLIPWAY_STACK={stack_id}".encode() in (folder / "environ").read_bytes()
            inside = str(folder.joinpath("cwd").readlink()).startswith(str(state))
        except OSError:
            continue
        if (marked or inside or f"{state}/" in command) and "clients.cli.main" not in command:
            commands_by_pid[int(folder.name)] = command
    return commands_by_pid


def key_of_model_control(stack: Up) -> dict[str, str]:
    """Return the header with the key that Triton's command line has: nothing that the stack writes has it."""
    command = Path(f"/proc/{stack.parts()['triton']['pid']}/cmdline").read_bytes().decode().split("\0")
    (key,) = (part.rpartition("=")[2] for part in command if part.startswith("--grpc-restricted-protocol="))
    return {"triton-grpc-protocol-admin-key": key}
