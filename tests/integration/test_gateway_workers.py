"""A gateway with two workers behind one port: gunicorn, real Triton (toy engine), real bus."""

import asyncio
import contextlib
import itertools
import os
import signal

import httpx
import psutil
import pytest

from contracts.routes import Route
from services.gateway.server.worker_state import START_S
from shared.storage.kv import Bucket
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running, wait_until
from tests.integration.gateway_process import put_route, telemetry

pytestmark = pytest.mark.real
PATH = "/v1/chat/completions"
HELLO = {"model": "toy", "messages": [{"role": "user", "content": "zebra giraffe"}]}


class Workers(Gateway):
    """The processes of a gateway that has two workers."""

    def pids(self) -> set[int]:
        """Return the ids of the workers; each may have a child that describes texts."""
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def accepts_of(self, pid: int) -> set[int]:
        """Return the callers' ports of the connections that a worker has."""
        connections = psutil.Process(pid).net_connections("tcp")
        return {entry.raddr.port for entry in connections if entry.raddr and entry.laddr.port == self.port}

    def until_complete(self) -> None:
        """Wait until both workers are ready."""

        def is_complete() -> bool:
            answer = self.get("/readyz")
            return answer is not None and answer.json()["checks"]["workers"] == "2 of 2 ready"

        wait_until(is_complete, timeout_s=30, what="both workers being ready")

    def until_counted(self, count: int) -> None:
        """Wait until so many requests are counted in all: each is, just after its answer."""
        labels = 'environment="production",outcome="ok",target="toy.v2.bf16"'
        name = f"slipway_gateway_requests_total{{{labels}}}"
        wait_until(lambda: self.metric(name) >= count, what=f"{count} requests being counted")
        assert self.metric(name) == count


@pytest.fixture(scope="module")
def toy(triton):
    return {version: load_toy(triton, "toy", version, token_delay_ms="10") for version in (1, 2)}


@pytest.fixture
async def gateway(nats_server, js, tmp_path, toy):
    await Bucket(js, "routes", Route).create("toy", Route(model="toy", epoch=1, active=toy[2], previous=toy[1]))
    with running(Workers(tmp_path, connection(nats_server, None, tmp_path), workers=2, drain_s=10)) as process:
        await known(process)
        yield process


async def known(gateway) -> None:
    async with asyncio.timeout(60):
        while gateway.get("/v1/models/toy") is None:
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def one_client_each(gateway):
    """Yield, by worker, a client whose only connection that worker has accepted."""
    async with contextlib.AsyncExitStack() as stack:
        clients = {}
        async with asyncio.timeout(20):
            while set(clients) != gateway.pids():
                limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
                client = httpx.AsyncClient(
                    base_url=gateway.base_url, headers=gateway.headers, limits=limits, timeout=20, trust_env=False
                )
                await stack.enter_async_context(client)
                async with client.stream("GET", "/healthz") as answer:
                    await answer.aread()
                    port = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
                for pid in gateway.pids():
                    if port in gateway.accepts_of(pid):
                        clients.setdefault(pid, client)
        yield clients


async def ask(client, **changes) -> httpx.Response:
    answer = await client.post(PATH, json=HELLO | {"max_tokens": 3} | changes)
    assert answer.status_code == 200, answer.text
    return answer


async def ask_anew(gateway, count: int) -> list[str]:
    """Return the versions that answer so many callers, each with a connection of its own."""

    async def once() -> str:
        async with httpx.AsyncClient(
            base_url=gateway.base_url, headers=gateway.headers, timeout=20, trust_env=False
        ) as client:
            return (await ask(client)).headers["x-slipway-version"]

    return list(await asyncio.gather(*(once() for _ in range(count))))


async def read_stream(client, started: asyncio.Event, tokens: int) -> str:
    async with client.stream("POST", PATH, json=HELLO | {"max_tokens": tokens, "stream": True}) as answer:
        started.set()
        return (await answer.aread()).decode()


async def start_streams(clients, tokens: int) -> list[asyncio.Task[str]]:
    """Start a stream at each worker and wait until all of them have begun."""
    started = [asyncio.Event() for _ in clients]
    tasks = [asyncio.ensure_future(read_stream(*pair, tokens)) for pair in zip(clients, started, strict=True)]
    async with asyncio.timeout(10):
        await asyncio.gather(*(event.wait() for event in started))
    return tasks


async def test_both_workers_answer_add_up_their_figures_follow_a_rollback_and_end_with_their_supervisor(
    js, gateway, toy
):
    async with one_client_each(gateway) as clients:
        for client in clients.values():
            await asyncio.gather(*(ask(client) for _ in range(10)))
        gateway.until_counted(20)
        shown = [gateway.get("/metrics/").text for _ in clients]
    requests = [line for text in shown for line in text.splitlines() if line.startswith("slipway_gateway_requests_tot")]
    assert [line.rpartition(" ")[2] for line in requests] == ["20.0", "20.0"]
    assert gateway.metric('slipway_gateway_in_flight{environment="production"}') == 0
    assert gateway.metric("slipway_gateway_bus_connected") == 1
    assert gateway.get("/readyz").json()["checks"]["workers"] == "2 of 2 ready"
    records, _ = await telemetry(js, 20)
    assert len({record.request_id for record in records}) == len(records) == 20, "each worker's batches have own ids"

    async with one_client_each(gateway) as clients:
        await put_route(js, gateway, Route(model="toy", epoch=2, active=toy[1], previous=toy[2]))
        async with asyncio.timeout(60):
            for client in clients.values():
                while (await ask(client)).headers["x-slipway-version"] != "toy.v1.bf16":
                    await asyncio.sleep(0.02)
        for client in clients.values():
            assert (await ask(client)).headers["x-slipway-version"] == "toy.v1.bf16"

    workers = [psutil.Process(pid) for pid in gateway.pids()]
    gateway.kill()
    await asyncio.to_thread(wait_until, lambda: not any(w.is_running() for w in workers), what="the workers ending")


async def test_killed_workers_are_replaced_while_others_serve_no_count_is_lost_and_one_that_starts_ends(gateway):
    await ask_anew(gateway, 20)
    gateway.until_counted(20)
    before, victim = gateway.pids(), min(gateway.pids())
    os.kill(victim, signal.SIGKILL)
    assert await ask_anew(gateway, 20) == ["toy.v2.bf16"] * 20
    await asyncio.to_thread(wait_until, lambda: len(gateway.pids() - {victim}) == 2, what="another worker")
    assert before - {victim} <= gateway.pids()
    await asyncio.to_thread(gateway.until_complete)
    async with one_client_each(gateway) as clients:
        assert set(clients) == gateway.pids()
        for client in clients.values():
            await ask(client)
    gateway.until_counted(42)

    workers = gateway.pids()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: len(gateway.pids() - workers) == 2, what="other workers")
    await asyncio.to_thread(gateway.until_complete)
    await ask_anew(gateway, 20)
    files = [path.stem for path in gateway.folder.rglob("*-metrics/*.db")]
    assert {name.rpartition("_")[2] for name in files} == {"0", "1"}, "files have the numbers of the two workers"
    assert len(files) == len(set(files))
    gateway.until_counted(62)

    victim = min(gateway.pids())
    os.kill(victim, signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: len(gateway.pids() - {victim}) == 2, what="another worker")
    gateway.process.terminate()  # while a worker starts
    assert await asyncio.to_thread(gateway.process.wait, 8) == 0


async def test_a_worker_that_ends_again_and_again_is_visible_and_the_other_keeps_the_gateway_ready(gateway):
    steady = max(gateway.pids())
    await asyncio.sleep(START_S)  # in this time it is ready only with both
    seen: set[tuple[int, str]] = set()
    starts, turns = 0.0, itertools.count()
    async with httpx.AsyncClient(base_url=gateway.admin_url, timeout=5, trust_env=False) as http, asyncio.timeout(90):
        while starts <= 3:
            for victim in gateway.pids() - {steady} if next(turns) % 10 == 0 else ():
                os.kill(victim, signal.SIGKILL)  # every half a second: a start is counted once a worker runs
            with contextlib.suppress(httpx.TransportError):  # it was answered by the one that was killed
                answer = await http.get("/readyz", headers={"connection": "close"})
                seen.add((answer.status_code, answer.json()["checks"]["workers"]))
                starts = gateway.metric("slipway_gateway_worker_starts_total")
            await asyncio.sleep(0.05)
    assert {status for status, _ in seen} == {200}
    assert "1 of 2 ready" in {workers for _, workers in seen}
    await asyncio.to_thread(gateway.until_complete)


async def test_not_ready_at_the_start_before_all_workers_are(nats_server, tmp_path):
    with running(Workers(tmp_path, connection(nats_server, None, tmp_path), workers=2)) as gateway:
        supervisor = psutil.Process(gateway.process.pid)
        supervisor.suspend()  # so that it does not replace the worker yet
        os.kill(min(gateway.pids()), signal.SIGKILL)
        supervisor.resume()
        wait_until(lambda: gateway.get("/readyz") is None, timeout_s=5, what="the gateway not being ready")
        gateway.until_complete()


async def test_ctrl_c_finishes_the_streams_of_both_workers(gateway):
    async with one_client_each(gateway) as clients:
        streams = await start_streams(clients.values(), tokens=150)
        everyone = [psutil.Process(pid) for pid in gateway.pids()]
        everyone += [child for worker in everyone for child in worker.children()]
        for pid in [gateway.process.pid, *gateway.pids()]:
            os.kill(pid, signal.SIGINT)  # it reaches the whole group
        texts = await asyncio.gather(*streams)
    assert [text.endswith("data: [DONE]\n\n") for text in texts] == [True, True]
    assert [text.count('"content":"') for text in texts] == [151, 151]
    assert await asyncio.to_thread(gateway.process.wait, 20) == 0
    assert [process for process in everyone if process.is_running()] == []


async def test_no_connection_waits_for_a_gateway_that_stops(gateway):
    async with one_client_each(gateway) as clients:
        streams = await start_streams(clients.values(), tokens=300)
        gateway.process.terminate()
        while True:
            try:
                async with httpx.AsyncClient(
                    base_url=gateway.base_url, headers=gateway.headers, trust_env=False
                ) as http:
                    await http.get("/healthz", timeout=1)
            except httpx.ConnectError:
                break
            except (httpx.ReadError, httpx.RemoteProtocolError):
                continue
            finally:
                assert not any(stream.done() for stream in streams)
            await asyncio.sleep(0.02)
        assert all(text.rstrip().endswith("data: [DONE]") for text in await asyncio.gather(*streams))
