"""Hostile and slow callers against a real gateway and a real Triton (toy engine): they harm themselves only."""

import asyncio
import json
import socket

import httpx
import pytest

from contracts import facts
from contracts.policy import Canary
from contracts.routes import Route
from decisions.evidence.attribution import is_failure
from services.monitor.domain import monitoring as watching
from services.monitor.domain.monitoring import Cause, Rules
from services.monitor.domain.record import MonitorState
from testbed import factories as f
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running
from tests.integration.gateway_process import put_route, telemetry
from tests.kit import hostile

pytestmark = pytest.mark.real
LIMITS = {
    "write_s": 1,
    "body_s": 1,
    "max_connections": 50,
    "max_lag_bytes": 50_000,
    "first_token_s": 10,
    "inter_token_s": 5,
    "max_in_flight": 4,
    "telemetry_queue": 200_000,
}
TRIGGERS = (
    f.trigger(name="errors", metric="error_ratio", threshold=0.02),
    f.trigger(name="empties", metric="empty_ratio", threshold=0.02),
    f.trigger(name="late", metric="ttft_ms", threshold=5_000.0),
)


@pytest.fixture
def gateway(nats_server, js, tmp_path):
    with running(Gateway(tmp_path, connection(nats_server, None, tmp_path), **LIMITS)) as process:
        yield process


@pytest.fixture
async def toy(js, gateway, triton):
    served = load_toy(triton, "toy", 1, token_delay_ms="0")
    await put_route(js, gateway, Route(model="toy", epoch=1, active=served))
    return served


def alerts_about(records):
    """Return the alerts that the monitor raises for these records, in their order."""
    first, last = records[0], records[-1]
    policy = f.policy(triggers=TRIGGERS, canary=Canary(steps=(0.2,), min_requests=100))
    watch = MonitorState(model=first.target.model, environment="production")
    watch = watching.add_policy(watch, first.target.version, "r-1", policy, Cause("policy", first.scheduled_at))
    for number in range(0, len(records), 200):
        watch = watching.add_records(
            watch, records[number : number + 200], Cause(f"b-{number}", last.scheduled_at), Rules()
        )
    return [event.data for event in watch.outbox if event.type == facts.AlertRaised.TYPE]


async def ask(gateway, **changes):
    async with httpx.AsyncClient(headers=gateway.headers, timeout=30) as http:
        body = {"model": "toy", "prompt": "Once", "max_tokens": 2, **changes}
        return await http.post(gateway.base_url + "/v1/completions", json=body)


@pytest.fixture
def dial(gateway):
    """Opens connections with a small window, so that what is not read soon stops the writer."""
    opened = []

    def connect():
        caller = socket.socket()
        opened.append(caller)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.settimeout(20)
        caller.connect(("127.0.0.1", gateway.port))
        return caller

    yield connect
    for caller in opened:
        caller.close()


def head(length, *more):
    lines = (
        "POST /v1/completions HTTP/1.1",
        "Host: gateway",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *more,
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def is_closed(caller):
    """Read until the other side ends the connection; return what it said before."""
    received = b""
    try:
        while data := caller.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


async def test_hostile_bodies_give_no_5xx_and_no_record_against_the_target(js, gateway, toy):
    storm = await asyncio.to_thread(hostile.storm, gateway.base_url, "toy", headers=gateway.headers)
    assert storm.failed == []
    assert storm.statuses.total() >= hostile.COUNT * 0.95
    assert storm.statuses[200] > 0.02 * hostile.COUNT, "some of them are only odd"
    assert (await ask(gateway)).status_code == 200
    count = sum(
        gateway.metric(
            f'slipway_gateway_requests_total{{environment="production",outcome="{outcome}",target="toy.v1.bf16"}}'
        )
        for outcome in ("ok", "rejected", "error", "cancelled")
    )
    records, _ = await telemetry(js, int(count))
    assert [record for record in records if is_failure(record)] == []
    assert alerts_about(records) == []
    print("hostile bodies by status:", sorted(storm.statuses.items()), "records:", len(records))


async def test_the_answer_of_a_caller_that_does_not_read_is_given_up(js, gateway, triton, dial):
    """The kernel's buffers are full. Its connection stays open; its request in flight and its engine are free again."""
    served = load_toy(triton, "toy", 1, token_delay_ms="0")
    await put_route(js, gateway, Route(model="toy", epoch=1, active=served))
    body = json.dumps({"model": "toy", "prompt": "Once", "max_tokens": 2000, "n": 16, "stream": True}).encode()
    callers, presented = [dial() for _ in range(4)], f"Authorization: Bearer {gateway.key}"
    for caller in callers:
        caller.sendall(head(len(body), presented) + body)
    try:
        records, _ = await telemetry(js, 4)
    except TimeoutError:
        pytest.fail(f"{gateway.get('/metrics/').text}\n{(gateway.folder / 'log').read_text()[-3000:]}")
    ends = {(record.finish_reason, record.error, record.caused_by) for record in records}
    assert ends == {("cancelled", None, "caller")}
    assert max(record.e2e_ms for record in records) < 20_000
    assert not any(is_failure(record) for record in records)
    assert gateway.metric("slipway_gateway_slow_readers_total") == 4.0
    answers = await asyncio.gather(*(ask(gateway) for _ in range(LIMITS["max_in_flight"])))
    assert {answer.status_code for answer in answers} == {200}, (
        "their places are free while they hold their connections"
    )


async def test_slow_bodies_get_a_408_and_few_slow_connections_block_no_other_caller(gateway, toy, dial):
    bodies, heads = [dial() for _ in range(10)], [dial() for _ in range(10)]
    presented = f"Authorization: Bearer {gateway.key}"  # 20 connections of 50: no limit of the gateway ends the heads
    for caller in bodies:
        caller.sendall(head(100, presented) + b'{"mod')
    for caller in heads:
        caller.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: ga")
    assert (await ask(gateway)).status_code == 200
    for caller in bodies:
        received = await asyncio.to_thread(is_closed, caller)
        assert received.startswith(b"HTTP/1.1 408 ")
        assert b"request_too_slow" in received
    assert (await ask(gateway)).status_code == 200
