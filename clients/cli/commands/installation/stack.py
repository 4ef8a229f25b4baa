"""`slipway up`, `ps`, `down` and `env`: the embedded stack on this machine."""

import asyncio
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from clients.cli.errors import warn
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import Exit, fail, show_json, show_line, show_table
from clients.cli.settings import CliSettings
from contracts.runtimes import DEFAULT_RUNTIME
from contracts.services import OPTIONAL
from contracts.storage.sources import HUB
from decisions.serving.runtimes import NAME_RULE, is_runtime_name
from deploy.local import bus, processes
from deploy.local.leftovers import end_stack
from deploy.local.plan import (
    MOST_TRITONS,
    SERVICES,
    SINGLE,
    TRITON,
    Engine,
    Keys,
    StackConfig,
    replica_names,
    triton_part,
)
from deploy.local.ready import probe_part
from deploy.local.state import AlreadyUp, Description, PartState, StateFolder, Table
from deploy.local.supervisor import (
    ROOT,
    CannotStart,
    Options,
    Supervisor,
    default_engine_root,
    programs_of,
)
from deploy.local.variables import find_refused
from deploy.local.view import View, last_lines
from shared.runtime.clock import SystemClock
from shared.runtime.settings import Connection, SourceSettings, variable_of

DOWN_TIMEOUT_S = 90.0
EXTRA_S = 60.0
"""Seconds added to the limit of a detached start, within which its supervisor reports the part that is not ready."""


CONFIGURED_BY = {
    "mirror": ("MIRROR_MLFLOW_URL", "MIRROR_HF_REPOSITORIES", "MIRROR_WANDB_PROJECT"),
    "notifier": ("NOTIFIER_RECEIVERS",),
}
"""Variables of each optional service: the stack includes the service if a variable has a value."""

NatsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=max(bus.SIZES),
        help="NATS servers of the message bus: 1, or 3 as a cluster, with a copy of everything on each. The number is "
        "that of the first start.",
    ),
]


def folder_of(state: Path | None) -> StateFolder:
    """Return the state folder that a command works with."""
    return StateFolder(state if state is not None else CliSettings().state)


def up(
    *,
    state: StateOption = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Serving engine: slipway (vLLM), or toy, which answers without a model, for tests. It is kept for "
            "later starts; the first one takes slipway."
        ),
    ] = None,
    replicas: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SERVICE=N", help="Number of processes of a service, for example quantiser=3; repeatable."
        ),
    ] = None,
    tritons: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_TRITONS,
            help="Number of Tritons of the default runtime. With two, a version and the previous one have one each. "
            "It is kept for later starts.",
        ),
    ] = None,
    nats: NatsOption = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            metavar="NAME=FOLDER",
            help="A second Triton with the engine environment in a folder; repeatable. It is kept for later starts; "
            "NAME= removes it.",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when the stack is ready, and leave it running.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not print the logs of the parts.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds within which all parts must be ready.")] = 180.0,
    engine_env: Annotated[
        Path | None, typer.Option(help="Python environment with Triton and vLLM (default: .venv-engine).")
    ] = None,
    no_preflight: Annotated[
        bool, typer.Option("--no-preflight", help="Start without the checks of `slipway doctor`.")
    ] = False,
) -> None:
    """Start the stack on this machine; Ctrl-C or `slipway down` stops it. A later start resumes from its state."""
    folder = folder_of(state)
    description = folder.read_description()
    runtimes = parse_runtimes(runtime or [], description)
    config = StackConfig(
        parse_engine(engine, description),
        parse_replicas(replicas or []),
        runtimes=tuple(runtimes),
        optional=tuple(name for name, read in CONFIGURED_BY.items() if any(map(os.environ.get, read))),
        default_tritons=parse_tritons(tritons, description, runtimes),
        nats=parse_nats(nats, description, stored=bus.has_stored(folder.path)),
    )
    if description is not None and config.engine != description.engine and not detach:  # its child says it
        warn(
            f"--engine {config.engine}: the stack ran on {description.engine} until now; what was released there is "
            f"served by {config.engine} from now on, and its measurements are those of {description.engine}"
        )
    root = engine_env or CliSettings().engine_env or default_engine_root()
    if folder.is_held():
        fail(f"a stack is already up in {folder.shown}; see `slipway ps`, or stop it with `slipway down`")
    if (refused := find_refused(config.services, inherited_variables(os.environ))) is not None:
        fail(refused, Exit.USAGE)
    if not no_preflight:
        from clients.cli.commands.installation.doctor import (
            preflight,  # the store's client and more, which the others do without
        )

        preflight(folder, config, root)
    if detach:
        again = ["--timeout", str(timeout), "--engine-env", str(root.absolute()), "--no-preflight"]
        again += [] if engine is None else ["--engine", engine]
        again += [text for item in replicas or [] for text in ("--replicas", item)]
        again += [] if tritons is None else ["--tritons", str(tritons)]
        again += [] if nats is None else ["--nats", str(nats)]
        again += [text for item in runtime or [] for text in ("--runtime", item)]
        _up_detached(folder, again, timeout)
        return
    view = View(quiet=quiet)
    try:
        programs, inherited = programs_of(Path(sys.executable)), inherited_variables(os.environ)
        options = Options(config, programs, root, inherited, timeout, runtimes)
        asyncio.run(Supervisor(folder, options, view, SystemClock()).run())
    except AlreadyUp:
        fail(f"a stack is already up in {folder.shown}; see `slipway ps`, or stop it with `slipway down`")
    except (CannotStart, FileNotFoundError) as error:
        fail(str(error))


def parse_engine(text: str | None, description: Description | None) -> Engine:
    """Return the requested engine, by default the stack's."""
    before = description.engine if description is not None else "slipway"
    text = text or before
    if text not in get_args(Engine):
        fail(f"the engine {text!r} is not valid: use slipway or toy", Exit.USAGE)
    return cast("Engine", text)


def parse_replicas(items: list[str]) -> dict[str, int]:
    """Return the number of processes per service that `service=count` items name."""
    counts = {}
    for item in items:
        service, _, count = item.partition("=")
        if service not in (*SERVICES, *OPTIONAL):
            known = ", ".join((*SERVICES, *OPTIONAL))
            fail(f"--replicas {item}: the service {service!r} is unknown; use {known}", Exit.USAGE)
        if not count.isdigit() or not 1 <= int(count) <= 16:
            fail(f"--replicas {item}: the number {count!r} is not valid; use 1 to 16", Exit.USAGE)
        if service in SINGLE and int(count) != 1:
            fail(f"--replicas {item}: {service} has one process; leave the option out", Exit.USAGE)
        counts[service] = int(count)
    return counts


def parse_runtimes(items: list[str], description: Description | None) -> dict[str, Path]:
    """Return the engine environment of each runtime: the stack's, changed by the `NAME=FOLDER` items."""
    runtimes = {name: Path(root) for name, root in description.runtimes.items()} if description is not None else {}
    for item in items:
        name, separator, folder = item.partition("=")
        if not separator or not is_runtime_name(name) or name == DEFAULT_RUNTIME:
            fail(f"--runtime {item}: write NAME=FOLDER; NAME is not {DEFAULT_RUNTIME}: {NAME_RULE}", Exit.USAGE)
        if not folder:
            runtimes.pop(name, None)
        elif not (Path(folder) / "bin" / "python").exists():
            fail(f"--runtime {item}: {folder} has no bin/python; name an engine environment", Exit.USAGE)
        else:
            runtimes[name] = Path(folder).absolute()
    return runtimes


def parse_tritons(number: int | None, description: Description | None, runtimes: Collection[str]) -> int:
    """Return the requested number of Tritons of the default runtime, by default the stack's.

    Targets of a removed Triton are loaded on the others before their routes change.
    """
    before = description.tritons if description is not None else 1
    number = number or before
    parts = replica_names(TRITON, number)
    taken = [name for name in runtimes if name in parts or triton_part(name) in parts]
    if taken:
        fail(
            f"--tritons {number}: {', '.join(parts[1:])} serve the default runtime, and the runtime {taken[0]} would "
            "have such a name; give it another one",
            Exit.USAGE,
        )
    return number


def parse_nats(number: int | None, description: Description | None, *, stored: bool) -> int:
    """Return the requested number of NATS servers, by default the stack's.

    The number cannot change once a server has `stored` data: a cluster cannot use the data of a single server.
    """
    before = len(bus.servers_in(description.ports)) if description is not None else 0
    number = number or before or bus.SIZES[0]
    if number not in bus.SIZES:
        fail(f"--nats {number}: two servers stand still when one of them is away; use 1 or 3", Exit.USAGE)
    if stored and before and number != before:
        fail(
            f"--nats {number}: the stack was made with {before}, and another number cannot use what it stored; leave "
            "the option out, or take a backup and restore it into a new stack: "
            f"`slipway restore FOLDER --nats {number} --state FOLDER`",
            Exit.USAGE,
        )
    return number


def inherited_variables(environment: Any) -> dict[str, str]:
    """Return the variables that parts inherit: all except addresses and credentials of another stack.

    The model hub and drills in production are allowed unless a variable forbids them.
    """
    manager = tuple(
        f"SERVER_MANAGER_{name}" for name in ("TRITON_GRPC", "AGENT_GRPC", "REPOSITORY", "RUNTIME", "ENDPOINTS")
    )
    ours = ("SLIPWAY_", "OPENAI_", "TRITON_AGENT_", *manager)
    sources = {variable_of(SourceSettings, name) for name in SourceSettings.model_fields}
    kept = {"SLIPWAY_FAILPOINT", "SLIPWAY_LOG_LEVEL", "SLIPWAY_TRACE_FILE", *sources}
    passed = {name: value for name, value in environment.items() if name in kept or not name.startswith(ours)}
    server_keys = variable_of(Connection, "server_keys")
    if environment.get(server_keys):
        passed[server_keys] = str(Path(environment[server_keys]).absolute())  # wherever the parts run
    return {variable_of(SourceSettings, "hf_endpoint"): HUB, "ROLLBACK_CONTROLLER_PRODUCTION_DRILLS": "*", **passed}


def _up_detached(folder: StateFolder, arguments: list[str], timeout_s: float) -> None:
    """Start `slipway up` in the background and wait until the stack is ready."""
    folder.create()
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
    deadline = time.monotonic() + timeout_s + EXTRA_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            fail("the stack did not start: " + "\n".join(last_lines(log, 30)))
        table = folder.read_table()
        if table is not None and table.supervisor == child.pid and table.phase == "ready":
            show_line("\n".join(last_lines(log, 100)))
            return
        time.sleep(0.1)
    child.terminate()
    child.wait()
    fail(f"the stack was not ready within {timeout_s + EXTRA_S:g} s; see {folder.shown}/logs")


def ps(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the parts of the stack: process, port, readiness, restarts, uptime, and how each last ended."""
    folder = folder_of(state)
    description, table = folder.read_description(), folder.read_table()
    if description is None or table is None:
        fail(f"there is no stack in {folder.shown}; start one with `slipway up`", Exit.UNREACHABLE)
    held = folder.is_held()
    rows = asyncio.run(_probe_parts(table, description.keys(folder.path)))
    if as_json:
        show_json({"up": held, "phase": table.phase if held else "down", "state": str(folder.path), "parts": rows})
    else:
        columns = ("name", "pid", "port", "state", "restarts", "uptime_s", "reason", "last_end")
        show_table(columns, [[row[column] for column in columns] for row in rows])
    if not held:
        fail(f"the stack in {folder.shown} is down; start it with `slipway up`", Exit.UNREACHABLE)


async def _probe_parts(table: Table, keys: Keys) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(_row(part, keys) for part in table.parts)))


async def _row(part: PartState, keys: Keys) -> dict[str, Any]:
    """Return the row of a part, with its state by a probe."""
    running = part.recorded is not None and processes.is_running(part.recorded)
    why = await probe_part(part, keys) if running else None
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
        "reason": why or "",
        "last_end": part.ended,
    }


def down(state: StateOption = None) -> None:
    """Stop the stack in order. Afterwards none of its processes runs."""
    folder = folder_of(state)
    description, table = folder.read_description(), folder.read_table()
    if description is None:
        fail(f"there is no stack in {folder.shown}", Exit.UNREACHABLE)
    was_up = folder.is_held()
    if was_up and table is not None:
        _stop_supervisor(folder, table)
    left = end_stack(folder, description, grace_s=5.0)
    if left:
        fail(f"processes of the stack cannot be ended: {', '.join(map(str, left))}; end them manually")
    show_line(f"the stack in {folder.shown} is down" if was_up else f"no stack was up in {folder.shown}")


def _stop_supervisor(folder: StateFolder, table: Table) -> None:
    supervisor = processes.Recorded(table.supervisor, table.supervisor_ticks)
    process = processes.read_process(supervisor.pid)
    if process is None or not processes.is_running(supervisor):
        return
    processes.kill([process], 15)
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while processes.is_running(supervisor) and time.monotonic() < deadline:
        time.sleep(0.1)
    if processes.is_running(supervisor):
        show_line(f"the supervisor did not stop within {DOWN_TIMEOUT_S:g} s and is killed; see {folder.shown}/logs")
        processes.kill([process])


def _openai_variables(description: Description) -> dict[str, str]:
    """Return the variables of OpenAI's clients: the address of the gateway and a key."""
    variables = description.variables
    try:
        key = Path(variables["SLIPWAY_GATEWAY_KEY"]).read_text().strip()
    except OSError as error:
        fail(f"the key for the gateway cannot be read ({error}); start the stack with `slipway up`")
    return {"OPENAI_BASE_URL": f"{variables['SLIPWAY_GATEWAY_URL']}/v1", "OPENAI_API_KEY": key}


def env(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Print the stack's addresses and credentials as shell assignments: `eval "$(slipway env)"`."""
    folder = folder_of(state)
    description = folder.read_description()
    if description is None or not description.variables:
        fail(f"there is no stack in {folder.shown}; start one with `slipway up`", Exit.UNREACHABLE)
    variables = {**description.variables, **_openai_variables(description)}
    if as_json:
        show_json(variables)
        return
    for name, value in variables.items():
        show_line(f"export {name}={shlex.quote(value)}")
