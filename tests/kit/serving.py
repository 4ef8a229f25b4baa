"""server-manager as a process of its own, models in the store for it, and the facts that it reads and says."""

import asyncio
import json
import os
import signal
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx

from contracts.envelope import Event
from contracts.facts import StageReleased, StageRequested, TrafficRequested
from contracts.manifests import FolderManifest
from contracts.policy import LoadProfile
from contracts.routes import Route
from contracts.services import EVENTS
from contracts.vocabulary import Deployable, Target
from services.server_manager.domain.records import Servers
from shared.messaging.bus import publish_event
from shared.storage.blobs import Store, manifest_key
from shared.storage.kv import Bucket
from testbed.attesters import attester_variables
from testbed.factories import source_for
from testbed.forked import start
from testbed.released import sign_target
from testbed.servers import Server, bus_variables, store_variables

ROOT = Path(__file__).resolve().parents[2]
TOY_FILES = {
    "config.json": json.dumps({"max_position_embeddings": 4096}),
    "tokenizer_config.json": json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}}),
    "chat_template.jinja": "{% for m in messages %}{{ m.content }}{% endfor %}",
}


class ServerManager(Server):
    """`python -m services.server_manager.main` with its environment."""

    name = "server-manager"
    program = (sys.executable, "-m", "services.server_manager.main")

    def __init__(self, folder: Path, connection, triton, **settings) -> None:
        super().__init__(folder)
        self.connection = connection
        self.variables = {
            **bus_variables(connection, self.name),
            **store_variables(connection, self.name),
            "SLIPWAY_HTTP_PORT": str(connection.http_port),
            "SLIPWAY_STATE_DIR": str(self.folder),
            **attester_variables(connection.state_dir, "services.server_manager.main"),
            "SERVER_MANAGER_TRITON_GRPC": triton.endpoint,
            "SERVER_MANAGER_AGENT_GRPC": triton.agent(managers_of(connection)).endpoint,
            "SERVER_MANAGER_REPOSITORY": str(triton.repository),
            "SERVER_MANAGER_TICK_S": "0.2",
            "SERVER_MANAGER_PROBE_INTERVAL_S": "0.5",
            "SERVER_MANAGER_LINGER_S": "1",
        } | {f"SERVER_MANAGER_{key.upper()}": str(value) for key, value in settings.items()}

    def command(self) -> list[str]:
        return list(self.program)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), **self.variables}

    def stop_before(self, method: str, marker: Path) -> None:
        """Let it stop itself (SIGSTOP) once before it sends a request of this name, as soon as the file exists."""
        self.program = (sys.executable, "-m", "tests.kit.stopping_manager", method, str(marker))

    def die_at(self, failpoint: str, timeout_s: float = 30.0) -> str:
        """Start, wait until the failpoint has killed it, and return where that was (`failpoints.failpoint`)."""
        self.variables["SLIPWAY_FAILPOINT"] = failpoint
        self.process = start(self.command(), self.folder / "log", environment=self.environment())
        assert self.process.wait(timeout_s) == -signal.SIGKILL
        return (self.folder / "work" / self.name / f"failpoint-{failpoint}.fired").read_text()

    def ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.connection.http_port}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False


def managers_of(connection) -> Path:
    """Return the list of server-managers in the folder of keys that these settings are from."""
    return connection.nats_credentials.parent.parent / "trust" / "managers.json"


class Fleet:
    """What a test says to server-manager and sees of it."""

    def __init__(self, js, store: Store, keys: Path) -> None:
        self.js = js
        self.keys = keys
        self.store = store
        self.routes = Bucket(js, "routes", Route)
        self.servers = Bucket(js, "servers", Servers)

    # -- models in the store --------------------------------------------------------------------------------------

    def put_model(self, folder: Path, target: Target, *, signed: bool = True) -> Deployable:
        manifest = self.store.put_folder(folder)
        key = manifest_key("variant", f"sha256:{uuid.uuid4().hex}{uuid.uuid4().hex}")
        ref, _ = self.store.put_manifest(key, FolderManifest(files=manifest.files))
        deployable = Deployable(target=target, manifest=ref, weights_bytes=manifest.size_bytes)
        if signed:
            with ThreadPoolExecutor(1) as thread:  # the caller may have a loop of its own
                thread.submit(sign_target, self.store, self.keys, deployable).result()
        return deployable

    def put_toy(
        self, folder: Path, model: str, version: int, variant: str = "bf16", *, signed: bool = True
    ) -> Deployable:
        folder = folder / f"{model}-{version}"
        folder.mkdir(parents=True)
        for name, text in TOY_FILES.items():
            (folder / name).write_text(text)
        (folder / "version.txt").write_text(f"{model} {version}")
        return self.put_model(folder, Target(model=model, version=version, variant=variant), signed=signed)

    # -- orders ------------------------------------------------------------------------------------------------------

    async def publish(self, fact, model: str, *, event_id: str | None = None, release: str = "r-1") -> str:
        event = Event[type(fact)](
            id=event_id or str(uuid.uuid4()),
            source=source_for(type(fact)),
            type=fact.TYPE,
            subject=model,
            time=datetime.now(UTC),
            correlationid=release,
            data=fact,
        )
        await publish_event(self.js, event)
        return event.id

    async def stage(self, candidate: Deployable, baseline: Deployable, release: str = "r-1") -> str:
        request = StageRequested(
            release_id=release, candidate=candidate, baseline=baseline, purpose="benchmark", load=LoadProfile()
        )
        return await self.publish(request, candidate.target.model, release=release)

    async def release(self, candidate: Deployable, release: str = "r-1") -> str:
        fact = StageReleased(release_id=release, candidate=candidate.target)
        return await self.publish(fact, candidate.target.model, release=release)

    async def promote(self, target, epoch, *, weight=1.0, fallback=None, event_id=None, release="r-1", copies=1) -> str:
        order = TrafficRequested(
            release_id=release, target=target, weight_ratio=weight, epoch=epoch, fallback=fallback, copies=copies
        )
        return await self.publish(order, target.target.model, event_id=event_id, release=release)

    # -- what came of it ---------------------------------------------------------------------------------------------

    async def facts(self, fact, count: int = 1, timeout_s: float = 60.0):
        """Wait until at least `count` facts of a type are stored, and give them all."""
        async with asyncio.timeout(timeout_s):
            while True:
                state = (await self.js.stream_info(EVENTS, subjects_filter=f"{fact.TYPE}.>")).state
                if sum((state.subjects or {}).values()) >= count:
                    break
                await asyncio.sleep(0.05)
        subscription = await self.js.pull_subscribe(f"{fact.TYPE}.>", stream=EVENTS)
        messages = await subscription.fetch(100, timeout=1)
        consumer = await subscription.consumer_info()
        await subscription.unsubscribe()
        await self.js.delete_consumer(EVENTS, consumer.name)  # it would stay for minutes, and their number is limited
        return [Event[fact].model_validate_json(message.data) for message in messages]

    async def count(self, fact) -> int:
        state = (await self.js.stream_info(EVENTS, subjects_filter=f"{fact.TYPE}.>")).state
        return sum((state.subjects or {}).values())

    async def record(self) -> Servers:
        entry = await self.servers.get("main")
        return Servers() if entry is None else entry.value

    async def phases(self) -> dict[str, str]:
        return {str(loaded.target): loaded.phase for loaded in (await self.record()).loaded}

    async def until(self, condition, *, timeout_s: float = 60.0, what: str = "the condition"):
        """Wait until an async condition returns something true."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if result := await condition():
                        return result
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{what} did not come true in {timeout_s} s: {await self.record()}") from None
