"""`slipway up`, `ps` and `down`: the embedded stack on this machine."""

import asyncio
import os
import shlex
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from clients.cli.output import Exit, fail, show_json, show_line, show_table
from clients.cli.settings import CliSettings
from deploy.local import processes
from deploy.local.leftovers import end_stack
from deploy.local.plan import SERVICES, SINGLE, Engine, Wanted
from deploy.local.ready import probe
from deploy.local.state import AlreadyUp, Description, PartState, StateFolder, Table
from deploy.local.supervisor import (
    ROOT,
    CannotStart,
    Options,
    Supervisor,
    default_engine_root,
    programs_of,
)
from deploy.local.view import View, last_lines
from shared.runtime.clock import SystemClock

DOWN_TIMEOUT_S = 90.0

StateOption = Annotated[
    Path | None, typer.Option("--state", help="Folder of the stack; SLIPWAY_STATE, else .state here.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

EngineOption = Annotated[str, typer.Option(help="slipway (vLLM), or toy: answers without a model, for fault tests.")]
ReplicasOption = Annotated[
    list[str] | None, typer.Option(help="Processes of a service, as in quantiser=3; repeatable.")
]


def folder_of(state: Path | None) -> StateFolder:
    """Return the state folder that a command is about."""
    return StateFolder(state if state is not None else CliSettings().state)


def up(
    *,
    state: StateOption = None,
    engine: EngineOption = "slipway",
    replicas: ReplicasOption = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when ready, leave the stack running.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not show what the parts log.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds within which every part must be ready.")] = 180.0,
    engine_env: Annotated[Path | None, typer.Option(help="Environment that holds Triton and vLLM.")] = None,
) -> None:
    """Start the whole stack on this machine and keep it running until Ctrl-C; start it again to go on."""
    folder = folder_of(state)
    wanted = Wanted(parse_engine(engine), parse_replicas(replicas or []))
    root = engine_env or CliSettings().engine_env or default_engine_root()
    if detach:
        again = ["--engine", engine, "--timeout", str(timeout), "--engine-env", str(root.absolute())]
        again += [text for item in replicas or [] for text in ("--replicas", item)]
        _up_detached(folder, again, timeout)
        return
    view = View(quiet=quiet)
    try:
        options = Options(wanted, programs_of(Path(sys.executable)), root, inherited_variables(os.environ), timeout)
        asyncio.run(Supervisor(folder, options, view, SystemClock()).run())
    except AlreadyUp:
        fail(f"a stack is already up in {folder.path}; see `slipway ps`, or stop it with `slipway down`")
    except (CannotStart, FileNotFoundError) as error:
        fail(str(error))


def parse_engine(text: str) -> Engine:
    """Check the name of an engine."""
    if text not in get_args(Engine):
        fail(f"{text!r} is no engine; say slipway or toy", Exit.USAGE)
    return cast("Engine", text)


def parse_replicas(items: list[str]) -> dict[str, int]:
    """Read `service=count` items."""
    wanted = {}
    for item in items:
        service, _, count = item.partition("=")
        if service not in SERVICES:
            fail(f"{service!r} is no service; say one of {', '.join(SERVICES)}", Exit.USAGE)
        if not count.isdigit() or not 1 <= int(count) <= 16:
            fail(f"{item!r} does not say how many; write {service}=2, with 1 to 16", Exit.USAGE)
        if service in SINGLE and int(count) != 1:
            fail(f"{service} has one address and runs once in the embedded stack", Exit.USAGE)
        wanted[service] = int(count)
    return wanted


def inherited_variables(environment: Any) -> dict[str, str]:
    """Return what parts inherit: everything but what would point them at another stack."""
    ours = ("SLIPWAY_", "SERVER_MANAGER_TRITON_GRPC", "SERVER_MANAGER_REPOSITORY")
    kept = ("SLIPWAY_FAILPOINT", "SLIPWAY_LOG_LEVEL", "SLIPWAY_TRACE_FILE")
    return {name: value for name, value in environment.items() if name in kept or not name.startswith(ours)}


def _up_detached(folder: StateFolder, arguments: list[str], timeout_s: float) -> None:
    """Start the same command in the background and wait until it says that it is ready."""
    folder.create()
    if folder.is_held():
        fail(f"a stack is already up in {folder.path}; see `slipway ps`, or stop it with `slipway down`")
    log = folder.log_of("supervisor")
    command = [sys.executable, "-m", "clients.cli.main", "up", "--state", str(folder.path), "--quiet", *arguments]
    with log.open("wb") as out:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    deadline = time.monotonic() + timeout_s + 60.0
    while time.monotonic() < deadline:
        if child.poll() is not None:
            fail("the stack did not come up: " + "\n".join(last_lines(log, 30)))
        table = folder.read_table()
        if table is not None and table.supervisor == child.pid and table.phase == "ready":
            show_line("\n".join(last_lines(log, 30)))
            return
        time.sleep(0.1)
    child.terminate()
    child.wait()
    fail(f"the stack was not ready in time; see {folder.logs}")


def ps(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the parts of the stack: process, port, whether each answers now, restarts, uptime, how it last ended."""
    folder = folder_of(state)
    description, table = folder.read_description(), folder.read_table()
    if description is None or table is None:
        fail(f"there is no stack in {folder.path}; start one with `slipway up`", Exit.UNREACHABLE)
    held = folder.is_held()
    rows = asyncio.run(_look(table, description))
    if as_json:
        show_json({"up": held, "phase": table.phase if held else "down", "state": str(folder.path), "parts": rows})
    else:
        columns = ("name", "pid", "port", "state", "restarts", "uptime_s", "why", "last_end")
        show_table(columns, [[row[column] for column in columns] for row in rows])
    if not held:
        fail(f"the stack in {folder.path} is down; start it with `slipway up`", Exit.UNREACHABLE)


async def _look(table: Table, description: Description) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(_look_at(part, description) for part in table.parts)))


async def _look_at(part: PartState, description: Description) -> dict[str, Any]:
    """Return how a part is now, by asking it."""
    running = part.recorded is not None and processes.is_running(part.recorded)
    why = await probe(part.probe, part.port, description.keys) if running else None
    state = part.state if not running and part.state in ("waiting", "restarting", "stopped") else "gone"
    if running:
        state = "ready" if why is None else "not ready"
    uptime = None
    if running and part.started_at:
        uptime = round((SystemClock().now() - datetime.fromisoformat(part.started_at)).total_seconds(), 1)
    return {
        "name": part.name,
        "pid": part.pid if running else None,
        "port": part.port,
        "state": state,
        "restarts": part.restarts,
        "uptime_s": uptime,
        "why": why or "",
        "last_end": part.ended,
    }


def down(state: StateOption = None) -> None:
    """Stop the stack in order; afterwards nothing of it runs."""
    folder = folder_of(state)
    description, table = folder.read_description(), folder.read_table()
    if description is None:
        fail(f"there is no stack in {folder.path}", Exit.UNREACHABLE)
    was_up = folder.is_held()
    if was_up and table is not None:
        _ask_to_stop(folder, table)
    left = end_stack(folder, description, grace_s=5.0)
    if left:
        fail(f"processes {', '.join(map(str, left))} could not be ended; end them by hand")
    show_line(f"the stack in {folder.path} is down" if was_up else f"no stack was up in {folder.path}")


def _ask_to_stop(folder: StateFolder, table: Table) -> None:
    supervisor = processes.Recorded(table.supervisor, table.supervisor_ticks)
    found = processes.read_process(supervisor.pid)
    if found is None or not processes.is_running(supervisor):
        return
    processes.kill([found], 15)
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while processes.is_running(supervisor) and time.monotonic() < deadline:
        time.sleep(0.1)
    if processes.is_running(supervisor):
        show_line(f"the supervisor did not stop within {DOWN_TIMEOUT_S:g} s and is killed; see {folder.logs}")
        processes.kill([found])


def env(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Print how other programs reach the stack, as shell assignments: `eval "$(slipway env)"`. Holds credentials."""
    folder = folder_of(state)
    description = folder.read_description()
    if description is None or not description.variables:
        fail(f"there is no stack in {folder.path}; start one with `slipway up`", Exit.UNREACHABLE)
    if as_json:
        show_json(dict(description.variables))
        return
    for name, value in description.variables.items():
        show_line(f"export {name}={shlex.quote(value)}")
