"""Tries the servers: those of a running stack as they are, else each alone in a temporary folder for a moment."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.cli.doctor.copies import Stream, assess_copies, describe_copies
from clients.cli.doctor.findings import Finding, failure, ok, warning
from deploy.local import plan, triton
from deploy.local.plan import Keys, Part, Programs
from deploy.local.ports import choose_ports
from deploy.local.ready import probe_part
from deploy.local.state import ADMIN, PartState, new_description, prepare_keys
from deploy.local.view import last_lines
from shared.errors import SlipwayError
from shared.messaging import topology
from shared.messaging.credentials import connect
from shared.runtime.clock import SystemClock
from shared.runtime.process import child_command
from shared.runtime.settings import Connection
from shared.storage.blobs import Store
from shared.storage.object_lock import NO_LOCK

if TYPE_CHECKING:
    from nats.js.api import StreamInfo

START_S = 30.0
STOP_S = 10.0
ASK_S = 3.0
LOG_LINES = 5
NAMES = ("nats", "nats-monitor", *plan.S3_PORTS, *plan.triton_ports(plan.TRITON))


@dataclass(frozen=True)
class Trial:
    """What servers that run for a moment need: a folder of their own, ports, credentials, inherited variables."""

    folder: Path
    ports: Mapping[str, int]
    keys: Keys
    inherited: Mapping[str, str]


def prepare(folder: Path, inherited: Mapping[str, str]) -> Trial:
    """Choose ports and credentials for servers that run for a moment."""
    prepare_keys(folder, SystemClock())
    return Trial(folder, choose_ports(NAMES, {}), new_description().keys(folder), inherited)


def connection_to(trial: Trial) -> Connection:
    """Return the settings that reach the servers of a trial."""
    bus, store = trial.keys.bus(trial.ports["nats"], identity=ADMIN), trial.keys.store(trial.ports["s3"], ADMIN)
    given = store.model_dump(include={"s3_endpoint", "s3_credentials", "s3_ca", "s3_bucket"})
    return bus.model_copy(update={**given, "state_dir": trial.folder})


def try_nats(trial: Trial, programs: Programs) -> Finding:
    """Start a message bus, store a message in a stream of its own, and stop it."""
    part, config = plan.plan_nats(trial.folder, trial.ports, programs)
    plan.nats_config_file(trial.folder).write_text(config)
    with _running("nats", part, trial) as problem:
        if problem is not None:
            return problem
        asyncio.run(_store_message(connection_to(trial)))
    return ok("nats", "started, and JetStream stored a message")


async def _store_message(connection: Connection) -> None:
    client = await connect(connection, connect_timeout=2)
    try:
        js = client.jetstream(timeout=5)
        await js.add_stream(name="KV_doctor", subjects=["$KV.doctor.>"])  # an administrator writes to no other streams
        await js.publish("$KV.doctor.message", b"stored")
    finally:
        await client.close()


def try_s3(trial: Trial, programs: Programs) -> Finding:
    """Start an object store, prove that a create-only put creates once, and stop it."""
    (trial.folder / "s3").mkdir()
    part = plan.plan_s3(trial.folder, trial.ports, programs, trial.keys)
    with _running("s3", part, trial) as problem:
        return problem or ask_s3(connection_to(trial))


def try_triton(trial: Trial, engine: triton.EngineEnvironment) -> Finding:
    """Start Triton without models, and stop it."""
    state = trial.folder / "triton"
    triton.prepare_run_folder(engine, state)
    listening = triton.Ports(trial.ports["triton"], trial.ports["triton-grpc"], trial.ports["triton-metrics"])
    command = triton.build_command(engine, state, listening, exit_timeout_s=1)
    part = plan.plan_triton(command, triton.build_environment(engine, state, trial.inherited), trial.ports)
    started = time.monotonic()
    with _running("triton", part, trial) as problem:
        took = time.monotonic() - started
        return problem or ok("triton", f"started without models in {took:.1f} s")


@contextlib.contextmanager
def _running(check: str, part: Part, trial: Trial) -> Iterator[Finding | None]:
    """Start a server and yield None when it is ready, else what is wrong; stop it afterwards."""
    log = trial.folder / f"{part.name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            child_command(part.argv),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**trial.inherited, **part.environment},
            cwd=trial.folder,
        )
    try:
        why = _await_ready(part, trial.keys, lambda: process.poll() is not None)
        end = " | ".join(last_lines(log, LOG_LINES))
        yield None if why is None else failure(check, f"did not start ({why})", f"its log ends with: {end}")
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(part: Part, keys: Keys, ended: Callable[[], bool]) -> str | None:
    deadline = time.monotonic() + START_S
    while (why := asyncio.run(probe_part(part, keys))) is not None:
        if ended():
            return "its process ended"
        if time.monotonic() > deadline:
            return f"not ready within {START_S:g} s: {why}"
        time.sleep(0.05)
    return None


def ask_s3(connection: Connection) -> Finding:
    """Prove on a running object store that a create-only put creates once, and ask whether objects can be locked."""
    store = Store(connection)
    try:
        store.check_create_only()
        locks = store.has_lock()
    except SlipwayError as error:
        return failure("s3", f"{connection.s3_endpoint}: {error.code}", error.reason)
    detail = f"{connection.s3_endpoint} answers; a create-only put creates once"
    if locks:
        return ok("s3", f"{detail}; the bucket has object lock")
    return warning("s3", detail, NO_LOCK.format(bucket=store.bucket))


def ask_nats(connection: Connection) -> Finding:
    """Ask a running message bus whether JetStream answers, and has the streams that the services use."""
    import nats

    try:
        present = asyncio.run(_streams(connection))
    except ValueError as error:
        return failure("nats", str(error), "see docs/security.md")
    except (OSError, TimeoutError, nats.errors.Error) as error:
        advice = "start it, or set SLIPWAY_NATS_URL to where it is"
        return failure("nats", f"{connection.nats_url} does not answer ({type(error).__name__})", advice)
    own = {*(str(stream.name) for stream in topology.streams()), *(f"KV_{name}" for name in topology.BUCKETS)}
    if missing := sorted(own - set(present)):
        advice = "run `python -m shared.messaging.provision`"
        return failure("nats", f"{connection.nats_url} lacks the streams and buckets {', '.join(missing)}", advice)
    ours = {name: stream for name, stream in present.items() if name in own}
    copies = describe_copies(ours)
    detail = f"{connection.nats_url} answers, with JetStream and {len(present)} streams{copies}"
    return assess_copies(ours) or ok("nats", detail)


def once() -> dict[str, Any]:
    """Return the options of a connection that is tried once: with no or more tries nats-py tries for minutes."""
    return {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0.1, "connect_timeout": 2}


async def _streams(connection: Connection) -> dict[str, Stream]:
    async def ignore(_error: Exception) -> None:
        """A failed attempt is the answer; nothing needs to be written about it."""

    client = await connect(connection, error_cb=ignore, **once())
    try:
        infos = await client.jetstream(timeout=5).streams_info()
    finally:
        await client.close()
    return {str(info.config.name): _describe(info) for info in infos}


def _describe(info: "StreamInfo") -> Stream:
    cluster = info.cluster
    peers = (cluster.replicas if cluster else None) or []
    return Stream(
        copies=info.config.num_replicas or 1,
        in_cluster=bool(cluster and cluster.name),
        leader=(cluster.leader if cluster else None) or "",
        behind=tuple(str(peer.name) for peer in peers if peer.offline or not peer.current),
    )


def ask_gateway(url: str) -> Finding:
    """Ask a gateway whether it answers; its readiness is at another port, for probes only."""
    import httpx

    try:
        answer = httpx.get(f"{url.rstrip('/')}/healthz", timeout=ASK_S, trust_env=False)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        return failure("gateway", f"SLIPWAY_GATEWAY_URL={url} is no address", "write http://HOST:PORT")
    except httpx.HTTPError as error:
        advice = "start it, or set SLIPWAY_GATEWAY_URL to where it is"
        return failure("gateway", f"{url} does not answer ({type(error).__name__})", advice)
    if answer.status_code != httpx.codes.OK:
        detail = f"{url}/healthz answers {answer.status_code}: {answer.text[:200].strip()}"
        return failure("gateway", detail, "see the gateway's log")
    return ok("gateway", f"{url} answers")


def ask_triton(address: str) -> Finding:
    """Ask a Triton server whether it is live, over gRPC."""
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    if "//" in address or ":" not in address:
        return failure(
            "triton", f"SLIPWAY_TRITON_URL={address} is no gRPC address", "write HOST:PORT, usually port 8001"
        )
    try:
        with InferenceServerClient(address, channel_args=[("grpc.enable_http_proxy", 0)]) as client:
            live = client.is_server_live(client_timeout=ASK_S)
    except InferenceServerException as error:
        advice = "start it, or set SLIPWAY_TRITON_URL to its gRPC address"
        return failure("triton", f"{address} does not answer ({error.status() or error.message()})", advice)
    return ok("triton", f"{address} is live") if live else failure("triton", f"{address} is not live", "see its log")


def ask_parts(parts: tuple[PartState, ...], keys: Keys) -> Finding:
    """Ask every part of a running stack whether it is ready."""

    async def ask_all() -> list[str | None]:
        return list(await asyncio.gather(*(probe_part(part, keys) for part in parts)))

    reasons = zip(parts, asyncio.run(ask_all()), strict=True)
    not_ready = [f"{part.name} ({why})" for part, why in reasons if why is not None]
    if not_ready:
        return failure("parts", f"not ready: {', '.join(not_ready)}", "see `slipway ps`, and the part's log")
    return ok("parts", f"{len(parts)} of {len(parts)} ready")
