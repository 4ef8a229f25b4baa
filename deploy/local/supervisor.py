"""Start the whole stack, keep it running, and stop it in order (`slipway up`)."""

import asyncio
import contextlib
import os
import secrets
import signal
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deploy.local import bus, full_disk, plan, processes, triton
from deploy.local.leftovers import end_stack, marks_of
from deploy.local.plan import LONGEST_START_S, Part, Programs, StackConfig
from deploy.local.ports import LOOPBACK, keep_ports
from deploy.local.runner import Runner
from deploy.local.state import (
    ADMIN,
    PERSON,
    Description,
    PartState,
    StateFolder,
    Table,
    foreign_data,
    new_description,
    prepare_keys,
    shorten,
)
from deploy.local.view import View, last_lines
from deploy.local.weed import remove_sockets
from shared.runtime.clock import Clock

ROOT = Path(__file__).resolve().parents[2]
MOST_FAILED_STARTS = 5
PROVISION_EVERY_S = 0.5
PROVISION_TRIES = 5
JOIN_S = 15.0
"""Time limit, in one try, for ready servers of a cluster to join each other."""
COLLECT_EVERY_S = 1.0
TRITON_EXIT_S = 5
"""Triton often waits this long for idle models; requests were drained before, and leftovers are ended."""


class CannotStart(Exception):  # noqa: N818 - the sentence is the point
    """The stack did not start; the message names the part and shows the end of its log."""


@dataclass(frozen=True)
class Options:
    """Options of a stack's start; `runtimes` has the engine environment of each further runtime."""

    config: StackConfig
    programs: Programs
    engine_root: Path
    inherited: Mapping[str, str]
    ready_timeout_s: float = 180.0
    runtimes: Mapping[str, Path] = field(default_factory=dict)


class Supervisor:
    """The stack of one state folder."""

    def __init__(self, folder: StateFolder, options: Options, view: View, clock: Clock) -> None:
        self._folder = folder
        self._options = options
        self._view = view
        self._clock = clock
        self._runners: list[Runner] = []
        self._started_at: dict[int, str] = {}
        self._phase = "starting"
        self._tasks: list[asyncio.Task[None]] = []
        self._interrupted = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Start the stack, keep it running until a signal, stop it.

        Raises:
            AlreadyUp: the folder has a running supervisor.
            CannotStart: the folder holds data of another format, or a part did not become ready.
        """
        self._folder.create()
        self._folder.take_lock()
        processes.adopt_orphans()
        description = self._describe()
        self._end_earlier_run(description)
        parts = self._plan_parts(description)
        self._view.begin_at_end(self._folder.log_of(part.name) for part in parts)
        self._runners = [self._runner(part, description) for part in parts]
        self._listen_to_signals()
        following = asyncio.create_task(self._view.follow())
        collecting = asyncio.create_task(self._collect_orphans())
        writing = asyncio.create_task(self._keep_writable(description))
        try:
            if await self._until_interrupted(self._bring_up(description)):
                await self._until_interrupted(self._keep_provisioned(description))
        finally:
            writing.cancel()
            await self._bring_down(description)
            following.cancel()
            collecting.cancel()
            self._view.print_new()

    def _describe(self) -> Description:
        earlier = self._folder.read_description() or new_description()
        refusal = foreign_data(earlier, self._folder.path)
        if refusal is not None:
            raise CannotStart(refusal)
        config = self._options.config
        before = earlier.ports if bus.has_stored(self._folder.path) else bus.resized(earlier.ports, config.nats)
        ports = keep_ports(plan.port_names(config), before)
        path = self._folder.path
        prepared = prepare_keys(path, self._clock)
        person = PERSON if prepared.credential(PERSON).is_file() else ADMIN
        variables = plan.connection_variables(path, ports, earlier.keys(path), ADMIN) | {
            "SLIPWAY_GATEWAY_URL": f"http://{LOOPBACK}:{ports['gateway']}",
            "SLIPWAY_CONSOLE_URL": plan.console_url(ports),
            "SLIPWAY_CONSOLE_CREDENTIALS": str(prepared.credential(person)),
            "SLIPWAY_GATEWAY_KEY": str(plan.api_keys(path).key_file(ADMIN)),
            **plan.nats_variables(ports, earlier.keys(path), ADMIN),
        }
        roots = {name: str(root) for name, root in self._options.runtimes.items()}
        description = replace(
            earlier,
            ports=ports,
            variables=variables,
            engine=config.engine,
            runtimes=roots,
            tritons=config.default_tritons,
        )
        self._folder.write_description(description)
        return description

    def _end_earlier_run(self, description: Description) -> None:
        """End processes left by a killed supervisor; the lock proves that none runs."""
        left = end_stack(self._folder, description)
        if left:
            raise CannotStart(
                f"processes of an earlier run cannot be ended: {', '.join(map(str, left))}; end them manually"
            )

    def _plan_parts(self, description: Description) -> list[Part]:
        path, ports, programs = self._folder.path, description.ports, self._options.programs
        servers = self._plan_servers(description)
        services = plan.plan_services(path, self._options.config, ports, programs, description.keys(path))
        tritons = [part for name in self._options.config.tritons for part in self._plan_triton(description, name)]
        return [*servers, *tritons, *services]

    def _plan_servers(self, description: Description) -> list[Part]:
        """Prepare and plan the servers of the bus, and the store."""
        path, ports, programs = self._folder.path, description.ports, self._options.programs
        parts = []
        for name in bus.servers_in(ports):
            part, config = plan.plan_nats(path, ports, programs, name)
            plan.nats_config_file(path, name).write_text(config)
            parts.append(part)
        (path / "s3").mkdir(exist_ok=True)
        return [*parts, plan.plan_s3(path, ports, programs, description.keys(path))]

    def _plan_triton(self, description: Description, part: str) -> tuple[Part, Part]:
        """Prepare a Triton; plan it and its agent, with a new random key for both only."""
        engines = {plan.triton_part(name): root for name, root in self._options.runtimes.items()}
        engine = triton.find_engine(engines.get(part, self._options.engine_root))
        state, ports = self._folder.path / part, description.ports
        triton.prepare_run_folder(engine, state)
        http, grpc, metrics = plan.triton_ports(part)
        listening = triton.Ports(ports[http], ports[grpc], ports[metrics])
        environment = triton.build_environment(engine, state, self._options.inherited)
        key = secrets.token_urlsafe(32)
        command = triton.build_command(engine, state, listening, admin_key=key, exit_timeout_s=TRITON_EXIT_S)
        keys = description.keys(self._folder.path)
        return (
            plan.plan_triton(command, environment, ports, part),
            plan.plan_agent(self._folder.path, ports, self._options.programs, keys, part, admin_key=key),
        )

    def _runner(self, part: Part, description: Description) -> Runner:
        return Runner(
            part,
            marks=marks_of(self._folder, description),
            keys=description.keys(self._folder.path),
            log=self._folder.log_of(part.name),
            inherited=self._options.inherited,
            print_line=self._view.print_line,
            on_change=self._record,
            living_sessions=self._living_sessions,
            dependencies_ready=self._dependencies_are_ready if part.probe == "service" else lambda: True,
        )

    def _dependencies_are_ready(self) -> bool:
        """Return whether bus, store and all Tritons are ready, on which every service depends."""
        return all(runner.state == "ready" for runner in self._runners if runner.part.probe != "service")

    def _living_sessions(self) -> list[int]:
        return [runner.pid for runner in self._runners if runner.pid is not None]

    async def _collect_orphans(self) -> None:
        """Reap adopted processes that have ended."""
        while True:
            processes.collect_orphans(self._living_sessions())
            await asyncio.sleep(COLLECT_EVERY_S)

    def _record(self) -> None:
        """Write the table of parts."""
        own = processes.read_process(os.getpid())
        rows = tuple(self._row(runner) for runner in self._runners)
        self._folder.write_table(Table(self._phase, os.getpid(), own.started_ticks if own else 0, rows))

    def _row(self, runner: Runner) -> PartState:
        pid = runner.pid
        if pid is not None and pid not in self._started_at:
            self._started_at[pid] = self._clock.now().isoformat()
        return PartState(
            name=runner.part.name,
            pid=runner.leader.pid if runner.leader else None,
            started_ticks=runner.leader.started_ticks if runner.leader else 0,
            port=runner.part.port,
            state=runner.state,
            restarts=runner.restarts,
            started_at=self._started_at.get(pid) if pid is not None else None,
            probe=runner.part.probe,
            why=runner.why,
            ended=runner.ended,
            admin_port=runner.part.admin_port,
        )

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._interrupted.is_set():
            self._hurry.set()
        self._interrupted.set()

    async def _until_interrupted(self, work: Coroutine[Any, Any, None]) -> bool:
        """Await `work` unless a signal arrives first; return whether it was completed."""
        doing = asyncio.create_task(work)
        signal_came = asyncio.create_task(self._interrupted.wait())
        await asyncio.wait([doing, signal_came], return_when=asyncio.FIRST_COMPLETED)
        signal_came.cancel()
        if doing.done():
            doing.result()
            return True
        doing.cancel()
        await asyncio.gather(doing, return_exceptions=True)
        return False

    async def _bring_up(self, description: Description) -> None:
        began = time.monotonic()
        await self._start_and_wait([r for r in self._runners if r.part.recovers])
        self._start([r for r in self._runners if r.part.probe == "triton"])
        await self._provision(description)
        await self._start_and_wait([r for r in self._runners if not r.part.recovers])
        self._view.print_line("slipway", f"ready after {time.monotonic() - began:.1f} s: {len(self._runners)} parts")
        variables = description.variables
        for line in (
            f"OpenAI API  {variables['SLIPWAY_GATEWAY_URL']}/v1",
            f"message bus {variables['SLIPWAY_NATS_URL'].replace(',', ', ')}",
            f"console     {variables['SLIPWAY_CONSOLE_URL']}  (`slipway open` prints a link that signs you in)",
            f"logs        {shorten(self._folder.logs)}",
            f"stop it with `slipway down --state {self._folder.shown}`, or with Ctrl-C if it runs in this terminal",
        ):
            self._view.print_line("slipway", line)
        self._phase = "ready"  # last: `slipway up --detach` then shows what was printed
        self._record()

    def _start(self, runners: list[Runner]) -> None:
        running = {task.get_name() for task in self._tasks}
        self._tasks += [
            asyncio.create_task(runner.run(), name=runner.part.name)
            for runner in runners
            if runner.part.name not in running
        ]

    async def _start_and_wait(self, runners: list[Runner]) -> None:
        self._start(runners)
        recovering = any(runner.part.recovers for runner in runners)
        limit_s = max(self._options.ready_timeout_s, LONGEST_START_S) if recovering else self._options.ready_timeout_s
        deadline = time.monotonic() + limit_s
        for task in self._tasks:
            if task.done():
                task.result()
        while waiting := [runner for runner in runners if not runner.ready.is_set()]:
            for runner in waiting:
                if runner.failures >= MOST_FAILED_STARTS:
                    raise self._cannot_start(
                        runner, f"ended {runner.failures} times without becoming ready ({runner.ended})"
                    )
            if time.monotonic() > deadline:
                why = f"was not ready within {limit_s:g} s ({waiting[0].why or 'no answer'})"
                raise self._cannot_start(waiting[0], why)
            await asyncio.sleep(0.05)

    def _cannot_start(self, runner: Runner, why: str) -> CannotStart:
        log = self._folder.log_of(runner.part.name)
        end = "\n".join(f"    {line}" for line in last_lines(log))
        return CannotStart(f"{runner.part.name} {why}; its log {shorten(log)} ends with:\n{end}")

    async def _provision(self, description: Description) -> None:
        """Create streams, consumers and buckets."""
        import nats

        from shared.messaging.credentials import connect
        from shared.messaging.provision import provision_when_joined, settings_of

        async def ignore(_error: Exception) -> None:
            """Drop the error of one address: another server, or the next attempt, may do."""

        connection = description.keys(self._folder.path).bus(*bus.addresses(description.ports))
        for attempt in range(1, PROVISION_TRIES + 1):
            try:
                client = await connect(connection, connect_timeout=5, error_cb=ignore)
                try:
                    js = client.jetstream(timeout=30)
                    await provision_when_joined(js, **settings_of(connection), within_s=JOIN_S)
                finally:
                    await client.close()
            except (nats.errors.Error, OSError) as error:
                if attempt == PROVISION_TRIES:
                    raise CannotStart(f"streams cannot be provisioned: {error!r}") from error
                await asyncio.sleep(0.2 * attempt)
            else:
                return

    async def _keep_provisioned(self, description: Description) -> None:
        """Provision again after restarts of bus servers, once a majority is ready.

        The telemetry stream is kept in memory, and lost with a majority of the servers.
        """
        servers = self._bus_runners()
        provisioned_at = 0
        while True:
            restarts = sum(runner.restarts for runner in servers)
            ready = sum(runner.state == "ready" for runner in servers)
            if restarts != provisioned_at and 2 * ready > len(servers):
                try:
                    await self._provision(description)
                    provisioned_at = restarts
                except CannotStart as error:  # it is gone again, or its servers have no leader: once more
                    self._view.print_line("slipway", str(error))
            await asyncio.sleep(PROVISION_EVERY_S)

    async def _keep_writable(self, description: Description) -> None:
        """Start the bus again when its disk was full and has space; it gives up streams that it could not write.

        Of three servers the next one is started again once the one before is back, so that two can go on.
        """
        restarts = [(runner, full_disk.Restarts()) for runner in self._bus_runners()]
        turn = full_disk.Turn()
        while True:
            states = {runner.part.name: (runner.state, runner.restarts) for runner, _ in restarts}
            for runner, of_server in restarts if turn.is_free(states, time.monotonic()) else ():
                if runner.state == "ready" and await self._is_started_again(runner, description, of_server):
                    turn = full_disk.Turn(runner.part.name, states[runner.part.name][1], time.monotonic())
                    break
            await asyncio.sleep(full_disk.LOOK_EVERY_S)

    async def _is_started_again(self, server: Runner, description: Description, restarts: full_disk.Restarts) -> bool:
        """Start a server of the bus again if it must be; return whether it was."""
        url = f"http://{LOOPBACK}:{description.ports[bus.monitor_port(server.part.name)]}"
        store = self._folder.path / server.part.name
        with contextlib.suppress(OSError):  # of the disk
            why = await asyncio.to_thread(full_disk.look, url, store, restarts)
            if why is not None:
                server.restart(why)
                return True
        return False

    def _bus_runners(self) -> list[Runner]:
        return [runner for runner in self._runners if runner.part.probe == "nats"]

    async def _bring_down(self, description: Description) -> None:
        self._phase = "stopping"
        self._view.print_line("slipway", "stopping")
        hurrying = asyncio.create_task(self._kill_when_hurried())
        for rank in sorted({runner.part.stop_rank for runner in self._runners}):
            await asyncio.gather(*(runner.stop() for runner in self._runners if runner.part.stop_rank == rank))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        hurrying.cancel()
        left = await asyncio.to_thread(end_stack, self._folder, description)
        for runner in self._runners:
            if runner.part.probe == "s3":
                remove_sockets(runner.part.argv)
        self._phase = "stopped"
        self._record()
        self._view.print_line(
            "slipway", f"stopped, but processes {left} still run" if left else "stopped; no process is left"
        )

    async def _kill_when_hurried(self) -> None:
        await self._hurry.wait()
        for runner in self._runners:
            runner.kill()


def programs_of(python: Path) -> Programs:
    """Return the paths of the programs installed beside the interpreter.

    Raises:
        CannotStart: one of them is not installed.
    """
    folder = python.parent
    for name in ("nats-server", "weed"):
        if not (folder / name).is_file():
            raise CannotStart(f"{name} is not installed beside {python}; run `make setup`")
    return Programs(folder / "nats-server", folder / "weed", python, ROOT)


def default_engine_root() -> Path:
    """Return the default folder of the serving engine's environment: in the checkout, else in the current folder."""
    return (ROOT if (ROOT / "Makefile").is_file() else Path.cwd()) / ".venv-engine"
