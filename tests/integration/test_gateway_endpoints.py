"""A target on two real Tritons (toy engine): one is killed under load, and comes back."""

import asyncio
import itertools
import signal
import time
from collections import Counter

import httpx
import pytest

from contracts.routes import Route
from testbed.gateway import Gateway, load_toy, order
from testbed.servers import connection, running, wait_until
from testbed.triton import TritonServer
from tests.integration.gateway_process import put_route, telemetry

pytestmark = pytest.mark.real
NAME = "toy.v1.bf16"
CALLERS = 16
EJECTED_S = 1.0
"""Within it, the last request of a caller is sent to an endpoint that was killed."""


@pytest.fixture(scope="module")
def tritons(tmp_path_factory):
    with (
        running(TritonServer(tmp_path_factory.mktemp("first"))) as first,
        running(TritonServer(tmp_path_factory.mktemp("second"))) as second,
    ):
        yield first, second


@pytest.fixture(scope="module")
def target(tritons):
    """Version 1 on both, sixty milliseconds a token."""
    served = [load_toy(triton, "toy", 1, token_delay_ms="60", dead_text="DEADTEXT") for triton in tritons]
    return served[0].model_copy(update={"endpoints": tuple(triton.endpoint for triton in tritons)})


@pytest.fixture
async def gateway(nats_server, js, target, tmp_path):
    with running(Gateway(tmp_path, connection(nats_server, None, tmp_path))) as process:
        await put_route(js, process, Route(model="toy", epoch=1, active=target))
        yield process


class Load:
    """Callers that stream short answers, one after the other, and what became of each request, by its id."""

    def __init__(self, gateway) -> None:
        self._numbers = itertools.count()
        self._stopping = False
        self._begun: Counter[str] = Counter()
        self.phase = ""
        self.ends: dict[str, str] = {}
        self._http = httpx.AsyncClient(
            base_url=gateway.base_url, headers=gateway.headers, timeout=20, limits=httpx.Limits(max_connections=None)
        )

    async def __aenter__(self):
        self._callers = [asyncio.create_task(self._ask_again(number)) for number in range(CALLERS)]
        return self

    async def __aexit__(self, *_error):
        self._stopping = True
        await asyncio.gather(*self._callers)
        await self._http.aclose()

    async def _ask_again(self, caller):
        while not self._stopping:
            await self._ask(1 + caller % 3)

    async def _ask(self, tokens):
        """Stream an answer: it is whole, broke after its first token, or failed before it with a status."""
        name = f"{self.phase}-{next(self._numbers)}"
        self._begun[self.phase] += 1
        body = {"model": "toy", "prompt": "x", "max_tokens": tokens, "stream": True}
        async with self._http.stream("POST", "/v1/completions", json=body, headers={"x-request-id": name}) as answer:
            text = (await answer.aread()).decode()
        whole = "whole" if "[DONE]" in text else "broke"
        self.ends[name] = whole if answer.status_code == 200 else f"failed: {answer.status_code} {text}"

    async def goes_on(self, count=3 * CALLERS):
        """Wait until so many more requests of this phase have ended."""
        phase, before = self.phase, self.of(self.phase).total()
        async with asyncio.timeout(30):
            while self.of(phase).total() < before + count:
                await asyncio.sleep(0.02)

    async def is_over(self, phase):
        """Wait until every request of an earlier phase has ended."""
        async with asyncio.timeout(30):
            while self.of(phase).total() < self._begun[phase]:
                await asyncio.sleep(0.02)

    def of(self, phase):
        """Return how the requests of a phase ended."""
        return Counter(end for name, end in self.ends.items() if name.startswith(phase))


def retried(gateway):
    return gateway.metric('slipway_gateway_retries_total{environment="production",reason="endpoint_unreachable"}')


def changed(gateway, triton, change):
    return gateway.metric(f'slipway_gateway_ejections_total{{change="{change}",endpoint="{triton.endpoint}"}}')


async def watch_retries(gateway, since_s, for_s):
    """Return the time of the last attempt at an endpoint that is gone, in seconds since its end."""
    last, last_s = 0.0, 0.0
    while (now_s := time.monotonic() - since_s) < for_s:
        value = await asyncio.to_thread(retried, gateway)
        if value != last:
            last, last_s = value, now_s
        await asyncio.sleep(0.05)
    return last_s


async def test_a_triton_that_is_killed_under_load_fails_only_its_streams_that_began_and_comes_back(
    js, gateway, tritons
):
    first, _ = tritons
    load = Load(gateway)
    load.phase = "both"
    async with load:
        await load.goes_on()
        load.phase = "killed"
        killed_s = time.monotonic()
        first.kill()
        last_s = await watch_retries(gateway, killed_s, 2.0)
        load.phase = "one"
        await load.goes_on()
    assert not [end for end in load.ends.values() if end.startswith("failed")], "none without a token failed"
    assert load.of("both")["broke"] + load.of("killed")["broke"] <= CALLERS
    assert set(load.of("one")) == {"whole"}
    moved = retried(gateway)
    print(f"{moved:g} requests moved; the last one was sent to the killed Triton before {last_s:.2f} s")
    assert 1 <= moved <= CALLERS + 4, "a third of the callers ask for one token, and so have none until the end"
    assert last_s < EJECTED_S + 0.5, "generous: this machine is shared"
    assert changed(gateway, first, "ejected") == 1

    first.start()
    order(first, NAME, "load")
    again = Load(gateway)
    again.phase = "again"
    async with again:
        await asyncio.to_thread(wait_until, lambda: changed(gateway, first, "returned") == 1, what="its return")
        again.phase = "spread"
        await again.goes_on()
    assert {*again.of("again"), *again.of("spread")} == {"whole"}
    records, _ = await telemetry(js, len(load.ends) + len(again.ends))
    used = Counter((record.request_id.split("-")[0], record.endpoint) for record in records)
    assert used["one", first.endpoint] == 0
    for phase in ("both", "spread"):
        shares = [used[phase, triton.endpoint] for triton in tritons]
        assert min(shares) > 0.25 * sum(shares), shares
    assert len(records) == len({record.request_id for record in records}), "one record for each request"


async def test_an_engine_that_dies_on_one_triton_ejects_it_and_its_request_goes_to_no_other(gateway, tritons):
    async with httpx.AsyncClient(base_url=gateway.base_url, headers=gateway.headers, timeout=20) as http:

        async def ask(prompt):
            return await http.post("/v1/completions", json={"model": "toy", "prompt": prompt, "max_tokens": 2})

        died = await ask("DEADTEXT")
        assert (died.status_code, died.json()["error"]["code"]) == (502, "engine_dead")
        assert died.headers["retry-after"]
        assert [(await ask("x")).status_code for _ in range(10)] == [200] * 10, "the other engine lives"
        (dead,) = [triton for triton in tritons if changed(gateway, triton, "ejected")]
        order(dead, NAME, "unload")
        order(dead, NAME, "load")
        async with asyncio.timeout(15):
            while not changed(gateway, dead, "returned"):
                assert (await ask("x")).status_code == 200
                await asyncio.sleep(0.1)


async def test_a_triton_that_stands_still_gets_no_requests_while_it_does_and_what_had_no_token_is_answered(
    js, nats_server, target, tritons, tmp_path
):
    """Its backend goes on: Triton 2.51 was seen to crash in its Python backend after both had been stopped."""
    first, _ = tritons
    settings = {"inter_token_s": 3, "stall_s": 1}
    with running(Gateway(tmp_path, connection(nats_server, None, tmp_path), **settings)) as gateway:
        await put_route(js, gateway, Route(model="toy", epoch=1, active=target))
        load = Load(gateway)
        load.phase = "both"
        async with load:
            await load.goes_on()
            load.phase = "stopped"
            first.process.send_signal(signal.SIGSTOP)
            stopped_s = time.monotonic()
            try:
                await asyncio.to_thread(wait_until, lambda: changed(gateway, first, "ejected") == 1, what="ejection")
                print(f"ejected {time.monotonic() - stopped_s:.2f} s after it was stopped")
                load.phase = "one"
                await load.goes_on()
                load.phase = "continued"
                await load.is_over("one")
            finally:
                first.process.send_signal(signal.SIGCONT)
            await asyncio.to_thread(wait_until, lambda: changed(gateway, first, "returned") == 1, what="return")
            load.phase = "again"
            await load.goes_on()
        assert first.process.poll() is None, "it lives"
        assert not [end for end in load.ends.values() if end.startswith("failed")], "none without a token failed"
        assert retried(gateway) >= 1
        assert load.of("both")["broke"] + load.of("stopped")["broke"] <= CALLERS
        assert {*load.of("one"), *load.of("again")} == {"whole"}
        records, _ = await telemetry(js, len(load.ends))
        used = Counter((record.request_id.split("-")[0], record.endpoint) for record in records)
        assert used["one", first.endpoint] == 0
        assert used["again", first.endpoint] > 0
