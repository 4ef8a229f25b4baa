"""The selection of checks: for `slipway up`, for a running embedded stack, or for a deployment elsewhere."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clients.cli.doctor import assess, servers, stack
from clients.cli.doctor.findings import Finding, failure
from deploy.local import triton
from deploy.local.plan import StackConfig
from deploy.local.state import StateFolder
from shared.runtime import sandbox
from shared.runtime.process import available_memory_bytes, memory_bytes
from shared.runtime.settings import Connection

WEIGHTS_BYTES = 270 * 1024**2
"""Weights of the demo's model in 16 bits; a larger model needs more memory than the check asks for."""
SHM = Path("/dev/shm")  # noqa: S108 - only its free space is read
Check = Callable[[], Finding | list[Finding]]


@dataclass(frozen=True)
class Subject:
    """The machine or stack to check.

    Attributes:
        folder: The state folder of the embedded stack.
        config: The shape in which the stack would be started.
        engine_root: The engine environment.
        elsewhere: The addresses of bus and store of a deployment elsewhere; None for the embedded stack.
    """

    folder: StateFolder
    config: StackConfig
    engine_root: Path
    elsewhere: Connection | None = None


def run_checks(subject: Subject) -> list[Finding]:
    """Return the findings of all checks of a subject; a check that raises an error is a failure."""
    return [finding for name, check in _plan(subject) for finding in run_check(name, check)]


def run_check(name: str, check: Check) -> list[Finding]:
    """Return the findings of a check; a failure if it raises an error."""
    try:
        found = check()
    except Exception as error:  # noqa: BLE001 - the other checks must still run
        found = failure(name, f"the check ended with {error!r}", "report it with `slipway doctor --json`")
    return [found] if isinstance(found, Finding) else found


def _plan(subject: Subject) -> Iterator[tuple[str, Check]]:
    addresses: Connection | dict[str, str] | None = subject.elsewhere
    if addresses is None:
        yield from _machine(subject, running=stack.is_running(subject.folder))
        addresses = stack.read_addresses(subject.folder)
    if addresses is not None:
        yield "nats", lambda: servers.ask_bus(Connection.model_validate(addresses))
        yield "s3", lambda: servers.ask_s3(Connection.model_validate(addresses))


def _machine(subject: Subject, *, running: bool) -> Iterator[tuple[str, Check]]:
    yield "programs", partial(_programs, subject.engine_root)
    if not running and not stack.has_living_processes(subject.folder):  # their models fill memory; `up` ends the latter
        yield "memory", partial(_memory, subject.config.engine)
        yield "shared memory", lambda: assess.assess_shared_memory(free_bytes(SHM), SHM)
    yield "sandbox", lambda: assess.assess_sandbox(sandbox.probe())
    yield "state folder", partial(stack.check_folder, subject.folder)
    yield "disk", lambda: assess.assess_disk(free_bytes(subject.folder.path), subject.folder.shown)


def _memory(engine: str) -> Finding:
    total, available = memory_bytes(), available_memory_bytes()
    return assess.assess_memory(total, available, weights_bytes=WEIGHTS_BYTES, engine=engine)


def free_bytes(folder: Path) -> int:
    """Return the free space of the file system of a folder that need not exist yet."""
    path = folder.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _programs(root: Path) -> Finding:
    missing = [name for name in ("nats-server", "weed") if not (Path(sys.executable).parent / name).is_file()]
    try:
        triton.find_engine(root)
    except (OSError, subprocess.CalledProcessError, json.JSONDecodeError):
        missing.append(f"an engine environment in {root}")
    return assess.assess_programs(missing)
