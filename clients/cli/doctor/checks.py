"""The selection of checks: for `slipway up`, for a running embedded stack, or for a deployment elsewhere."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clients.cli.doctor import assess, gather, servers, space, stack
from clients.cli.doctor.findings import Finding, failure
from deploy.local import triton
from deploy.local.plan import StackConfig
from deploy.local.state import StateFolder
from shared.runtime import sandbox
from shared.runtime.settings import Connection

WEIGHTS_BYTES = 270 * 1024**2
"""Of the demo's model in 16 bits; larger models need more memory than is checked."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: As in its finding.
        run: Makes it.
    """

    name: str
    run: Callable[[], Finding]


@dataclass(frozen=True)
class Subject:
    """The machine or stack that is checked.

    Attributes:
        folder: The state folder of the embedded stack.
        config: How the stack would be started.
        engine_root: The engine environment.
        elsewhere: The addresses of bus and store of a deployment elsewhere; None for the embedded stack.
    """

    folder: StateFolder
    config: StackConfig
    engine_root: Path
    elsewhere: Connection | None = None


def run_check(check: Check) -> Finding:
    """Make a check; return its finding."""
    try:
        return check.run()
    except Exception as error:  # noqa: BLE001 - a check that cannot be made must not hide the others
        return failure(check.name, f"the check ended with {error!r}", "report it with `slipway doctor --json`")


def plan_checks(subject: Subject) -> list[Check]:
    """List the checks of a subject."""
    if subject.elsewhere is not None:
        return [*_servers(subject.elsewhere)]
    machine = _machine(subject, running=stack.is_running(subject.folder))
    addresses = stack.read_addresses(subject.folder)
    return [*machine, *(_servers(addresses) if addresses is not None else ())]


def _servers(reached_by: Connection | dict[str, str]) -> Iterator[Check]:
    def ask(server: Callable[[Connection], Finding]) -> Finding:
        return server(Connection.model_validate(reached_by))  # within the check: an error must not hide others

    yield Check("nats", partial(ask, servers.ask_nats))
    yield Check("s3", partial(ask, servers.ask_s3))
    yield Check(space.BUS, partial(ask, space.ask_bus))
    yield Check(space.CONSUMERS, partial(ask, space.ask_consumers))


def _machine(subject: Subject, *, running: bool) -> Iterator[Check]:
    yield Check("programs", partial(_programs, subject.engine_root))
    if not running and not stack.has_living_processes(subject.folder):  # their models fill memory; `up` ends the latter
        engine = subject.config.engine
        yield Check(
            "memory",
            lambda: assess.assess_memory(gather.read_memory(), weights_bytes=WEIGHTS_BYTES, engine=engine),
        )
        yield Check(
            "shared memory", lambda: assess.assess_shared_memory(gather.read_space(gather.SHM, str(gather.SHM)))
        )
    yield Check("sandbox", lambda: assess.assess_sandbox(sandbox.probe()))
    yield Check("state folder", partial(stack.check_folder, subject.folder))
    yield Check("disk", lambda: assess.assess_disk(gather.read_space(subject.folder.path, subject.folder.shown)))


def find_engine(root: Path) -> triton.EngineEnvironment | None:
    """Return the engine environment, or None if it is not there or not whole."""
    try:
        return triton.find_engine(root)
    except (OSError, subprocess.CalledProcessError, json.JSONDecodeError):
        return None


def _programs(root: Path) -> Finding:
    engine, beside = find_engine(root), Path(sys.executable).parent
    missing = [name for name in ("nats-server", "weed") if not (beside / name).is_file()]
    return assess.assess_programs("programs", [*missing, *(() if engine else (f"an engine environment in {root}",))])
