"""`serve` in a process of its own: readiness tells the truth, and stopping hands work over at once."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

from contracts.facts import VariantFailed, VariantRequested
from contracts.services import EVENTS, durable_name
from contracts.version import VERSION
from shared.messaging.bus import publish_event
from shared.messaging.provision import provision
from shared.runtime.process import child_command
from testbed.ports import free_port
from testbed.servers import bus_variables, wait_until
from tests.integration.bus_process import facts, requested

DURABLE = durable_name("quantiser", VariantRequested)

SERVICE = """
import asyncio, os, sys
from pathlib import Path
from contracts.facts import VariantFailed, VariantRequested
from shared.errors import Permanent
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.runtime.service import serve
from shared.runtime.settings import Connection

connection = Connection()
bus = Bus(connection, "quantiser", SystemClock())
folder = Path(sys.argv[1])
me = sys.argv[2]

@bus.on(VariantRequested)
async def handle(event):
    (folder / f"{me}-{event.id}").touch()
    if event.id.startswith("slow") and me == "first":
        await asyncio.sleep(600)
    return VariantFailed(variant="int8", step="quantise", code="engine_failed", reason=f"by {me}")

async def store():
    if (folder / "store-is-down").exists():
        raise ConnectionError("no store")

async def breaking():
    while not (folder / "break").exists():
        await asyncio.sleep(0.05)
    raise ZeroDivisionError("background work broke")

async def reading():
    loses = (folder / "loses").exists()
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            if not loses:
                raise
            loses = False  # as `asyncio.wait_for` does, where a message came in the same moment

def prepare():
    if (folder / "refused").exists():
        raise Permanent("store_unavailable", "The store ignores conditions.")

asyncio.run(serve(bus, connection, ready={"store": store}, background=[breaking, reading], prepare=[prepare]))
"""


class Service:
    """A service as its own process, with its probes."""

    def __init__(self, nats_server, folder, name="first", **environment):
        self.port = free_port()
        self.folder = folder
        self.log = folder / f"{name}.log"
        env = {
            **os.environ,
            **bus_variables(nats_server.settings(), "quantiser"),
            "SLIPWAY_HTTP_PORT": str(self.port),
            "SLIPWAY_STATE_DIR": str(folder / f"state-{name}"),
            **environment,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                child_command([sys.executable, "-c", SERVICE, str(folder), name]),
                env=env,
                stderr=log,
                stdout=log,
            )

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def readiness(self):
        status, body = self.get("/readyz")
        return status, json.loads(body)["checks"] if body else {}

    async def until(self, status, timeout_s=30.0):
        await asyncio.to_thread(
            wait_until, lambda: self.readiness()[0] == status, timeout_s=timeout_s, what=f"readyz {status}"
        )

    async def handled(self, event_id, timeout_s=30.0):
        names = {f"first-{event_id}", f"second-{event_id}"}
        await asyncio.to_thread(
            wait_until,
            lambda: names & {path.name for path in self.folder.iterdir()},
            timeout_s=timeout_s,
            what=f"{event_id} being handled",
        )

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running(*arguments, **more):
    service = Service(*arguments, **more)
    try:
        yield service
    finally:
        service.end()


async def test_readiness_follows_what_the_service_needs_and_it_stops_at_once(js, nats_server, tmp_path):
    """Its store, its consumer and the bus, each away and back."""
    with running(nats_server, tmp_path) as service:
        await service.until(200)
        assert service.get("/healthz") == (200, f'{{"service":"quantiser","version":"{VERSION}","status":"alive"}}')
        assert service.readiness() == (200, {"bus": "ok", "store": "ok"})
        await publish_event(js, requested("e1"))
        await facts(js, VariantFailed)
        await asyncio.to_thread(
            wait_until, lambda: 'outcome="handled"} 1.0' in service.get("/metrics/")[1], what="the metric"
        )
        assert 'fact="slipway.variant.requested.v1"' in service.get("/metrics/")[1]

        (tmp_path / "store-is-down").touch()
        assert service.readiness() == (503, {"bus": "ok", "store": "ConnectionError: no store"})
        (tmp_path / "store-is-down").unlink()
        assert service.readiness()[0] == 200

        await js.delete_consumer(EVENTS, DURABLE)
        await service.until(503)
        assert "consumer not found" in service.readiness()[1]["bus"]
        assert service.get("/healthz")[0] == 200
        await provision(js, dedupe_window_s=2.0)
        await service.until(200)
        await publish_event(js, requested("after"))
        await service.handled("after")

        nats_server.kill()
        try:
            await service.until(503)
            assert service.get("/healthz")[0] == 200
        finally:
            nats_server.start()  # from this thread: the server dies with the one that forked it
        await service.until(200)
        await publish_event(js, requested("after the bus"))
        await service.handled("after the bus")

        begun = service.log.stat().st_size
        service.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(service.process.wait, 15) == 0
        assert b"Traceback" not in service.log.read_bytes()[begun:]


async def test_a_service_that_waits_for_the_bus_lives_is_not_ready_and_can_be_stopped(js, nats_server, tmp_path):
    nats_server.kill()
    try:
        with running(nats_server, tmp_path) as service:
            await asyncio.to_thread(wait_until, lambda: service.get("/healthz")[0] == 200, what="its life")
            status, checks = service.readiness()
            assert (status, checks["store"]) == (503, "ok")
            service.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(service.process.wait, 15) == 0
    finally:
        nats_server.start()  # from this thread: the server dies with the one that forked it


async def test_service_started_before_the_bus_waits_for_it(js, nats_server, tmp_path):
    nats_server.kill()
    try:
        with socket.create_server(("127.0.0.1", nats_server.port)) as no_bus:
            no_bus.settimeout(20)
            service = Service(nats_server, tmp_path)
            attempt, _ = await asyncio.to_thread(no_bus.accept)
            attempt.close()
    finally:
        nats_server.start()  # from this thread: the server dies with the one that forked it
    try:
        await service.until(200)
    finally:
        service.end()


async def test_service_started_before_its_consumer_waits_for_it(js, nats_server, tmp_path):
    """So does one that starts after a restart of the bus, which loses the stream of telemetry and its consumers."""
    await js.delete_consumer(EVENTS, DURABLE)
    with running(nats_server, tmp_path) as service:
        await asyncio.to_thread(
            wait_until, lambda: "waiting for a consumer" in service.log.read_text(), timeout_s=90, what="waiting"
        )
        assert "consumer not found" in service.readiness()[1]["bus"]
        assert service.get("/healthz")[0] == 200
        assert "not permit" not in service.log.read_text(), "nothing is wrong with its permissions"
        await provision(js, dedupe_window_s=2.0)
        await service.until(200)
        await publish_event(js, requested("after"))
        await service.handled("after")


async def test_a_service_whose_preparation_is_refused_says_why_and_ends(js, nats_server, tmp_path):
    (tmp_path / "refused").touch()
    with running(nats_server, tmp_path) as service:
        assert await asyncio.to_thread(service.process.wait, 60) == 1
        assert "The store ignores conditions." in service.log.read_text()
        assert "Traceback" not in service.log.read_text()


async def test_sigterm_in_a_handler_gives_the_message_back_at_once(js, nats_server, tmp_path):
    """Without the nak another replica would get it only after the whole ack_wait, counted from the last heartbeat."""
    with running(nats_server, tmp_path) as first:
        await first.until(200)
        await publish_event(js, requested("slow-1"))
        await first.handled("slow-1")
        with running(nats_server, tmp_path, "second") as second:
            await second.until(200)
            first.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(first.process.wait, 40) == 0
            await asyncio.to_thread(
                wait_until, (tmp_path / "second-slow-1").exists, timeout_s=8, what="the other replica handling it"
            )
            (event,) = await facts(js, VariantFailed)
            assert event.data.reason == "by second"


async def test_kill_9_in_a_handler_hands_the_message_over_after_the_ack_wait(js, nats_server, tmp_path):
    with running(nats_server, tmp_path) as first:
        await first.until(200)
        await publish_event(js, requested("slow-1"))
        await first.handled("slow-1")
        with running(nats_server, tmp_path, "second") as second:
            await second.until(200)
            first.process.kill()
            await asyncio.to_thread(
                wait_until, (tmp_path / "second-slow-1").exists, timeout_s=30, what="the other replica handling it"
            )
            assert len(await facts(js, VariantFailed)) == 1


async def test_broken_background_work_ends_the_service(js, nats_server, tmp_path):
    with running(nats_server, tmp_path) as service:
        await service.until(200)
        (tmp_path / "break").touch()
        assert await asyncio.to_thread(service.process.wait, 20) != 0
        assert b"background work broke" in service.log.read_bytes()


async def test_it_ends_also_where_background_work_loses_its_cancellation(nats_server, tmp_path):
    (tmp_path / "loses").touch()
    with running(nats_server, tmp_path) as service:
        await service.until(200)
        service.process.terminate()
        assert await asyncio.to_thread(service.process.wait, 30) == 0
