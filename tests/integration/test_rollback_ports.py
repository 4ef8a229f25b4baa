"""The rollback-controller's ports on real servers: the suite that the fakes pass too."""

import asyncio

import pytest

from services.monitor.adapters.alert_log import AlertLog
from services.rollback_controller.adapters.gateway import GatewayTraffic
from services.rollback_controller.adapters.kv import KvDrills, KvRoutes
from services.rollback_controller.adapters.log import LoggedAlerts
from services.rollback_controller.adapters.probes import TritonProbe
from shared.errors import Transient
from shared.messaging.publishing import publish_event
from shared.serving.channels import Channels
from testbed import factories as f
from testbed.gateway import load_toy
from tests.kit.conformance_rollback import (
    SENDER,
    AlertsConformance,
    DrillsConformance,
    OpenAlertsConformance,
    ProbeConformance,
    RoutesConformance,
    TrafficConformance,
    until,
)

pytestmark = pytest.mark.real
MODEL = "toy"


@pytest.fixture
async def clean(js):
    """Buckets that no earlier test wrote to."""
    for name in ("routes", "staging-routes", "drills"):
        bucket = await js.key_value(name)
        for key in (f.MODEL, f"production.{f.MODEL}", f"staging.{f.MODEL}"):
            await bucket.purge(key)
    return js


class TestKvRoutes(RoutesConformance):
    @pytest.fixture
    def routes(self, clean):
        return KvRoutes(lambda: clean)


class TestKvDrills(DrillsConformance):
    @pytest.fixture
    def drills(self, clean):
        return KvDrills(lambda: clean)


class TestLoggedAlerts(AlertsConformance):
    @pytest.fixture
    def alerts(self, js):
        self.js = js
        return LoggedAlerts(lambda: js)

    async def store(self, event):
        await publish_event(self.js, event)
        return (await self.js.stream_info("SLIPWAY_EVENTS")).state.last_seq


class TestAlertLog(OpenAlertsConformance):
    @pytest.fixture
    def past(self, js):
        self.js = js
        return AlertLog(lambda: js, SENDER)

    async def store(self, event):
        await publish_event(self.js, event)


class TestTritonProbe(ProbeConformance):
    @pytest.fixture
    async def probe(self):
        channels = Channels()
        yield TritonProbe(channels, deadline_s=1.0)
        await channels.close()

    @pytest.fixture
    def ready(self, triton):
        return load_toy(triton, MODEL, 1)

    @pytest.fixture
    def unloaded(self, triton):
        return f.served(9, "bf16", MODEL, endpoints=load_toy(triton, MODEL, 1).endpoints)

    @pytest.fixture
    async def hanging(self):
        """A server that takes connections and never answers."""
        server, endpoint = await _listening(_silence)
        yield f.served(1, "bf16", MODEL, endpoints=(endpoint,))
        server.close()


class Gateway:
    """A server that answers each request as told."""

    mode = "well"

    def __init__(self) -> None:
        self.heads: list[bytes] = []

    async def answer(self, reader, writer):
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            if self.mode == "silent":
                await asyncio.Event().wait()
            status = b"200 OK" if self.mode == "well" else b"503 Service Unavailable"
            writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()


class TestGatewayTraffic(TrafficConformance):
    @pytest.fixture
    def gateway(self):
        return Gateway()

    @pytest.fixture
    async def traffic(self, gateway, tmp_path):
        server, endpoint = await _listening(gateway.answer)
        key = tmp_path / "key"
        key.write_text("sk-slipway-of-rehearsals\n")
        yield GatewayTraffic(f"http://{endpoint}", key, rps=50.0, tokens=4, timeout_s=5.0)
        server.close()

    async def test_requests_present_the_key(self, traffic, gateway):
        async with traffic.flow(f.MODEL) as flow:
            await until(lambda: flow.seconds)
        assert gateway.heads
        assert all(b"authorization: Bearer sk-slipway-of-rehearsals\r\n" in head for head in gateway.heads)

    @pytest.mark.parametrize("name", [None, "none"])
    async def test_without_a_key_there_is_no_traffic(self, tmp_path, name):
        key = None if name is None else tmp_path / name
        traffic = GatewayTraffic("http://127.0.0.1:1", key, rps=50.0, tokens=4, timeout_s=5.0)
        with pytest.raises(Transient, match="key"):
            async with traffic.flow(f.MODEL):
                pass


async def _listening(answer):
    """Return a server on a free port, and where it listens."""
    tasks = set()

    async def serve(reader, writer):
        task = asyncio.current_task()
        tasks.add(task)
        try:
            await answer(reader, writer)
        except asyncio.CancelledError:
            writer.close()
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    close = server.close

    def close_all():
        close()
        for task in tasks:
            task.cancel()

    server.close = close_all
    return server, f"{host}:{port}"


async def _silence(_reader, _writer):
    await asyncio.Event().wait()
