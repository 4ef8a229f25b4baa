"""Which checks are made: of what `slipway up` would need, of a running embedded stack, or of a deployment elsewhere."""

import json
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from clients.cli.connection import find_stack
from clients.cli.doctor import assess, endpoints, gather, numeric, servers, space, stack, watching
from clients.cli.doctor.findings import Finding, failure, skipped
from deploy.local import plan, triton
from deploy.local.plan import StackConfig
from deploy.local.state import StateFolder
from deploy.local.supervisor import ROOT, programs_of
from shared.runtime import sandbox
from shared.runtime.settings import Connection

WEIGHTS_BYTES = 270 * 1024**2
"""Of the demo's model in 16 bits; larger models need more memory than is checked."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: As in its finding.
        doing: What it does, shown while it runs.
        run: Makes it.
    """

    name: str
    doing: str
    run: Callable[[], Finding]


@dataclass(frozen=True)
class Elsewhere:
    """A deployment that is reached by addresses: bus and store, and gateway and Triton if their addresses are known."""

    connection: Connection
    gateway_url: str | None = None
    triton_url: str | None = None


@dataclass(frozen=True)
class Subject:
    """What is checked.

    Attributes:
        folder: The state folder of the embedded stack.
        config: How the stack would be started.
        engine_root: The engine environment.
        environment: Variables that the stack would inherit.
        scratch: A temporary folder for servers that run for a moment.
        elsewhere: The addresses of a deployment elsewhere; None for the embedded stack.
    """

    folder: StateFolder
    config: StackConfig
    engine_root: Path
    environment: Mapping[str, str]
    scratch: Path
    elsewhere: Elsewhere | None = None


def run_check(check: Check) -> tuple[Finding, float]:
    """Make a check; return its finding and how long it took, in seconds."""
    started = time.monotonic()
    try:
        finding = check.run()
    except Exception as error:  # noqa: BLE001 - a check that cannot be made must not hide the others
        finding = failure(check.name, f"the check ended with {error!r}", "report it with `slipway doctor --json`")
    return finding, time.monotonic() - started


def plan_checks(subject: Subject, *, quick: bool) -> list[Check]:
    """List the checks of a subject, the quick ones first. Only a check reads anything, so that each can fail alone."""
    if subject.elsewhere is not None:
        return [*_elsewhere(subject.elsewhere)]
    running = stack.is_running(subject.folder)
    checks = [*_machine(subject, running=running)]
    if running:
        checks += _running_stack(subject.folder)
    elif not quick:
        checks += _servers_alone(subject)
    if not quick:
        checks += _numbers(subject, running=running)
    return checks


def _elsewhere(addresses: Elsewhere) -> Iterator[Check]:
    connection, gateway, engine = addresses.connection, addresses.gateway_url, addresses.triton_url
    yield Check("python", "reading the version of Python", _python)
    yield Check("nats", f"asking {connection.nats_url}", partial(servers.ask_nats, connection))
    yield Check("s3", f"asking {connection.s3_endpoint}", partial(servers.ask_s3, connection))
    yield Check(space.BUS, "asking the bus for its limits", partial(space.ask_bus, connection))
    yield Check(space.CONSUMERS, "counting consumers", partial(space.ask_consumers, connection))
    yield Check(space.STORE, "reading what serves", partial(space.ask_store, connection))
    watched = partial(watching.check_watching, partial(find_stack, None))
    yield Check(watching.CHECK, "reading open alerts", watched)
    if gateway is not None:
        yield Check("gateway", f"asking {gateway}", partial(servers.ask_gateway, gateway))
    if engine is not None:
        yield Check("triton", f"asking {engine}", partial(servers.ask_triton, engine))


def _machine(subject: Subject, *, running: bool) -> Iterator[Check]:
    yield Check("platform", "reading the platform", lambda: assess.assess_platform(gather.read_platform()))
    yield Check("python", "reading the version of Python", _python)
    yield Check("packages", "comparing packages with their pins", _packages)
    yield Check("engine python", "asking the engine's interpreter", partial(_engine_python, subject.engine_root))
    yield Check("engine packages", "comparing packages with their pins", partial(_engine_packages, subject.engine_root))
    yield Check("programs", "looking for server programs", partial(_programs, subject.engine_root))
    yield Check("cpu", "reading the CPU's features", lambda: assess.assess_cpu(gather.read_cpu(subject.environment)))
    yield Check("cores", "counting cores", lambda: assess.assess_cores(gather.read_cpu({}).cores))
    if not running:  # its own models fill memory, and its own parts listen on its ports
        yield Check("memory", "reading memory", partial(_memory, subject.folder, subject.config))
        yield Check("ports", "trying ports", partial(_ports, subject.folder, subject.config))
    yield Check("sandbox", "starting a child in the sandbox", lambda: assess.assess_sandbox(sandbox.probe()))
    yield Check("state folder", "reading the state folder", partial(stack.check_folder, subject.folder))
    yield Check("disk", "reading free space", partial(_disk, subject.folder))
    if not running:  # the server of one that runs is asked
        yield Check(space.BUS, "reading free space", partial(space.plan_bus, subject.folder))
    yield Check("shared memory", "reading free space", partial(_shared_memory, subject.folder))


def _python() -> Finding:
    version = (sys.version_info.major, sys.version_info.minor)
    advice = f"{assess.advise_python(assess.MAIN_PYTHONS)}, and use its .venv"
    return assess.assess_python("python", version, assess.MAIN_PYTHONS, advice=advice)


def _locks(*names: str) -> list[Path]:
    """Return files in requirements/; the inputs of torch's locks have its version without that of a build."""
    return [ROOT / "requirements" / name for name in names]


def _packages() -> Finding:
    version, site = (sys.version_info.major, sys.version_info.minor), Path(sysconfig.get_paths()["purelib"])
    return assess.assess_packages("packages", gather.read_packages(_locks("main.txt", "torch-cuda.in"), site, version))


def find_engine(root: Path) -> triton.EngineEnvironment | None:
    """Return the engine environment, or None if it is not there or not whole."""
    try:
        return triton.find_engine(root)
    except (OSError, subprocess.CalledProcessError, json.JSONDecodeError):
        return None


def _version_of(engine: triton.EngineEnvironment) -> assess.Version:
    major, _, minor = engine.python_version.partition(".")
    return int(major), int(minor)


def _engine_python(root: Path) -> Finding:
    engine = find_engine(root)
    if engine is None:
        return failure("engine python", f"no engine environment in {root}", "run `make setup`")
    advice = f"remove {root} and {assess.advise_python(assess.ENGINE_PYTHONS)}"
    return assess.assess_python("engine python", _version_of(engine), assess.ENGINE_PYTHONS, advice=advice)


def _engine_packages(root: Path) -> Finding:
    engine = find_engine(root)
    if engine is None:
        return skipped("engine packages", "no engine environment")
    pins = _locks("engine.txt", "torch-cuda.in", "torchvision-cuda.in")
    return assess.assess_packages(
        "engine packages", gather.read_packages(pins, engine.site_packages, _version_of(engine))
    )


def _programs(root: Path) -> Finding:
    engine, beside = find_engine(root), Path(sys.executable).parent
    missing = [name for name in ("nats-server", "weed") if not (beside / name).is_file()]
    return assess.assess_programs("programs", [*missing, *(() if engine else ("tritonserver",))])


def _memory(folder: StateFolder, config: StackConfig) -> Finding:
    finding = assess.assess_memory(gather.read_memory(), weights_bytes=WEIGHTS_BYTES, engine=config.engine)
    return stack.ease_if_ours(finding, folder)


def _ports(folder: StateFolder, config: StackConfig) -> Finding:
    description = stack.read_description(folder)
    if description is None or stack.has_living_processes(folder):  # its own processes listen on the ports that it had
        kept: Mapping[str, int] = {}
    else:
        kept = description.ports
    finding = assess.assess_ports(gather.read_ports(plan.port_names(config), kept))
    return stack.ease_if_ours(finding, folder)


def _disk(folder: StateFolder) -> Finding:
    # Not eased: a running stack dies of a full disk, and one that is started again finds its own data there.
    return assess.assess_disk(gather.read_space(folder.path, folder.shown))


def _shared_memory(folder: StateFolder) -> Finding:
    return stack.ease_if_ours(assess.assess_shared_memory(gather.read_space(gather.SHM, str(gather.SHM))), folder)


def _running_stack(folder: StateFolder) -> Iterator[Check]:
    yield Check("parts", "asking every part", partial(stack.check_parts, folder))
    yield Check("nats", "asking the message bus", partial(stack.ask_when_ready, folder, "nats", servers.ask_nats))
    yield Check("s3", "trying a create-only put", partial(stack.ask_when_ready, folder, "s3", servers.ask_s3))
    ask = partial(stack.ask_when_ready, folder)
    yield Check(space.BUS, "asking the bus for its limits", partial(ask, space.BUS, lambda c: space.ask_bus(c, folder)))
    yield Check(space.CONSUMERS, "counting consumers", partial(ask, space.CONSUMERS, space.ask_consumers))
    yield Check(space.STORE, "reading what serves", partial(ask, space.STORE, lambda c: space.ask_store(c, folder)))
    fleet = partial(ask, "endpoints", lambda _: endpoints.check_endpoints(folder))
    yield Check("endpoints", "reading the endpoints of the fleet", fleet)
    watched = partial(ask, watching.CHECK, lambda _: watching.check_watching(partial(find_stack, folder.path)))
    yield Check(watching.CHECK, "reading open alerts", watched)


def _servers_alone(subject: Subject) -> Iterator[Check]:
    @cache
    def trial() -> servers.Trial:
        return servers.prepare(subject.scratch, subject.environment)

    python = Path(sys.executable)

    def with_engine() -> Finding:
        engine = find_engine(subject.engine_root)
        return servers.try_triton(trial(), engine) if engine else skipped("triton", "no engine environment")

    yield Check("nats", "starting a message bus", lambda: servers.try_nats(trial(), programs_of(python)))
    yield Check("s3", "starting an object store", lambda: servers.try_s3(trial(), programs_of(python)))
    yield Check("triton", "starting Triton without models", with_engine)


def _numbers(subject: Subject, *, running: bool) -> Iterator[Check]:
    folder = subject.scratch / "numbers"

    def torch() -> Finding:
        folder.mkdir(exist_ok=True)
        return numeric.check_torch(folder)

    def engine() -> Finding:
        environment = find_engine(subject.engine_root)
        if running:
            return skipped("engine numbers", "the running stack needs the memory; ask it: `slipway ask MODEL TEXT`")
        if environment is None or not (folder / "expected.json").is_file():
            return skipped(
                "engine numbers", "no engine environment" if environment is None else "no model to compare with"
            )
        return numeric.check_engine(folder, environment, subject.environment)

    yield Check("numbers", "computing a small model in torch (seconds)", torch)
    yield Check("engine numbers", "loading two small models into vLLM (about half a minute)", engine)
