"""Drills and staging at the gateway, on a real Triton (toy engine) and a real bus."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime

import httpx
import openai
import pytest

from contracts.routes import CanaryShare, Route
from contracts.trigger_metrics import REPETITIVE
from services.gateway.domain.drills import REFUSAL
from shared.storage.record_format import dump
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running, wait_until
from tests.integration.gateway_process import HELLO, checks, put_drill, put_route, telemetry
from tests.kit.drills import drill

pytestmark = pytest.mark.real
STAGING = {"x-slipway-environment": "staging"}


@pytest.fixture(scope="module")
def toy(triton):
    """Targets 1 and 2, two milliseconds a token."""
    return {version: load_toy(triton, "toy", version, token_delay_ms="2") for version in (1, 2)}


@pytest.fixture
def gateway(nats_server, js, tmp_path):
    with running(Gateway(tmp_path, connection(nats_server, None, tmp_path))) as process:
        yield process


@pytest.fixture
async def asdk(gateway):
    async with openai.AsyncOpenAI(
        base_url=gateway.base_url + "/v1", api_key=gateway.key, max_retries=0, timeout=60
    ) as client:
        yield client


async def ask(asdk, *, stream=False, tokens=24, **more):
    """Chat, and give (text, usage in output tokens, headers)."""
    more |= {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    raw = await asdk.chat.completions.with_raw_response.create(
        model="toy", messages=HELLO, max_tokens=tokens, temperature=0, **more
    )
    if not stream:
        answer = raw.parse()
        return answer.choices[0].message.content, answer.usage.completion_tokens, raw.headers
    chunks = [chunk async for chunk in raw.parse()]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return text, chunks[-1].usage.completion_tokens, raw.headers


async def test_staging_is_answered_from_its_own_route_only(js, gateway, asdk, toy):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    with pytest.raises(openai.NotFoundError) as caught:
        await ask(asdk, extra_headers=STAGING)
    assert caught.value.code == "model_not_found"
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[2], previous=toy[1]), "staging-routes")

    assert (await ask(asdk))[2]["x-slipway-version"] == "toy.v1.bf16"
    assert (await ask(asdk, extra_headers=STAGING))[2]["x-slipway-version"] == "toy.v2.bf16"
    assert [model.id async for model in asdk.models.list()] == ["toy", "toy@v1"]
    staged = [model.id async for model in asdk.models.list(extra_headers=STAGING)]
    assert staged == ["toy", "toy@v2", "toy@v1"]
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(asdk, extra_headers={"x-slipway-environment": "stagign"})
    assert "must be production or staging" in caught.value.message

    for environment, version in (("production", 1), ("staging", 2)):
        records, _ = await telemetry(js, 1, environment)
        assert [(record.environment, record.target.version) for record in records] == [(environment, version)]
        labels = f'environment="{environment}",outcome="ok",target="toy.v{version}.bf16"'
        assert gateway.metric(f"slipway_gateway_requests_total{{{labels}}}") == 1.0
    # A rollback in staging: the next request is answered by the fallback, production does not notice.
    await put_route(
        js, gateway, Route(model="toy", epoch=2, active=toy[1], quarantined=(toy[2].target,)), "staging-routes"
    )
    while (await ask(asdk, extra_headers=STAGING))[2]["x-slipway-version"] != "toy.v1.bf16":
        await asyncio.sleep(0.01)


async def test_what_is_staged_is_never_saved(js, gateway, toy, nats_server):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[2]), "staging-routes")
    nats_server.kill()
    try:
        gateway.stop()
        gateway.start()
        assert (checks(gateway)["routes"], checks(gateway)["staging"]) == ("1 (saved)", "0")
    finally:
        nats_server.start()
    await asyncio.to_thread(wait_until, lambda: checks(gateway)["staging"] == "1", what="knowing the staged route")


@pytest.mark.parametrize("environment", ["production", "staging"])
async def test_a_delay_is_felt_and_measured_from_the_arrival(js, gateway, asdk, toy, environment):
    for bucket in ("routes", "staging-routes"):
        await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]), bucket)
    active = await put_drill(js, gateway, toy[1], environment=environment, fault={"delay_ms": 700})
    for name in ("production", "staging"):
        for stream in (False, True):
            begun = time.monotonic()
            _, _, headers = await ask(asdk, stream=stream, extra_headers={"x-slipway-environment": name})
            touched = name == environment
            assert not touched or time.monotonic() - begun > 0.7
            assert headers.get("x-slipway-drill") == (active.drill_id if touched else None)
        records, _ = await telemetry(js, 2, name)
        assert [record.drill for record in records] == [active.drill_id if touched else None] * 2
        for record in records:
            delay_s = (record.sent_at - record.scheduled_at).total_seconds()
            assert not touched or min(delay_s, record.ttft_ms / 1000, record.e2e_ms / 1000) > 0.7


async def test_requests_fail_by_a_drill_without_reaching_the_target(js, gateway, asdk, toy):
    # Nothing listens there: a request to the target would get another error.
    unreachable = toy[1].model_copy(update={"endpoints": ("127.0.0.1:9",)})
    await put_route(js, gateway, Route(model="toy", epoch=1, active=unreachable))
    active = await put_drill(js, gateway, toy[1], fault={"error_ratio": 1.0})
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(asdk, stream=stream)
        assert (caught.value.status_code, caught.value.code) == (502, "engine_failed")
        assert f"The drill {active.drill_id} failed this request" in caught.value.message
        assert caught.value.response.headers["x-slipway-drill"] == active.drill_id
    records, _ = await telemetry(js, 2)
    seen = {(record.error, record.drill, record.endpoint, record.output_tokens) for record in records}
    assert seen == {("engine_failed", active.drill_id, "", 0)}


@pytest.mark.parametrize("kind", ["garble", "empty", "refusal"])
async def test_another_answer_is_what_the_caller_and_telemetry_see(js, gateway, asdk, toy, kind):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    real, tokens, _ = await ask(asdk)
    active = await put_drill(js, gateway, toy[1], fault={"garble": True} if kind == "garble" else {"answer": kind})
    texts = set()
    for stream in (False, True):
        text, usage, headers = await ask(asdk, stream=stream)
        assert (usage, headers["x-slipway-drill"]) == (tokens, active.drill_id)
        texts.add(text)
    (text,) = texts
    assert text != real
    (before, *touched), _ = await telemetry(js, 3)
    assert (before.drill, before.features.empty, before.features.refusal) == (None, False, False)
    assert before.features.repetition_ratio < REPETITIVE
    for record in touched:
        features = record.features
        assert (record.drill, record.error, record.output_tokens) == (active.drill_id, None, tokens)
        assert (features.empty, features.refusal) == (kind == "empty", kind == "refusal")
        assert (features.repetition_ratio > REPETITIVE) == (kind == "garble")
        assert features.output_chars == len(text)
    assert text == {"empty": "", "refusal": REFUSAL}.get(kind, text)


async def test_a_drill_on_the_canary_touches_its_share_of_the_canary_only(js, gateway, asdk, toy):
    trial = CanaryShare(served=toy[2], weight_ratio=0.5)
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1], canary=trial))
    active = await put_drill(js, gateway, toy[2], fault={"answer": "refusal"}, share_ratio=0.5)
    answers = await asyncio.gather(*(ask(asdk, tokens=2, user=f"u{number}") for number in range(80)))
    seen = [(headers["x-slipway-version"], headers.get("x-slipway-drill")) for _, _, headers in answers]
    assert set(seen) == {("toy.v1.bf16", None), ("toy.v2.bf16", None), ("toy.v2.bf16", active.drill_id)}
    assert all((text == REFUSAL) == (label is not None) for (text, _, _), (_, label) in zip(answers, seen, strict=True))
    records, _ = await telemetry(js, 80)
    labelled = [record for record in records if record.drill is not None]
    assert len(labelled) == seen.count(("toy.v2.bf16", active.drill_id))
    assert all(record.canary and record.drill == active.drill_id for record in labelled)


async def test_a_drill_ends_at_its_expiry_though_the_bus_is_gone(js, gateway, asdk, toy, nats_server):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    active = await put_drill(js, gateway, toy[1], lasts_s=4.0, fault={"error_ratio": 1.0})
    nats_server.kill()
    try:
        outcomes = []
        while datetime.now(UTC) < active.expires_at or len(outcomes) < 5:
            at = datetime.now(UTC)
            try:
                await ask(asdk, tokens=1)
                outcomes.append((at, "well"))
            except openai.InternalServerError as error:
                outcomes.append((at, error.code))
            await asyncio.sleep(0.1)
        await ask(asdk, tokens=1)
    finally:
        nats_server.start()
    # Both clocks are this machine's: to the request, what arrived before the end fails, and what came after does not.
    assert {what for at, what in outcomes if (active.expires_at - at).total_seconds() > 0.2} == {"engine_failed"}
    assert {what for at, what in outcomes if at >= active.expires_at} <= {"well"}
    assert checks(gateway)["drills"] == "none"


async def test_an_end_that_was_ordered_comes_before_the_expiry(js, gateway, asdk, toy):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    active = await put_drill(js, gateway, toy[1], fault={"error_ratio": 1.0})
    ended = active.model_copy(update={"share_ratio": 0.0})
    await (await js.key_value("drills")).put("production.toy", dump(ended))
    await asyncio.to_thread(wait_until, lambda: checks(gateway)["drills"] == "none", timeout_s=10, what="the end")
    assert "x-slipway-drill" not in (await ask(asdk, tokens=1))[2]


async def test_a_malformed_drill_is_ignored_with_a_log(js, gateway, asdk, toy):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    bucket = await js.key_value("drills")
    good = dump(drill(datetime.now(UTC), target=toy[1].target, fault={"error_ratio": 1.0})).decode()
    await bucket.put("production.toy", b"\xff not a drill")
    await bucket.put("production.other", good.encode())  # of another model than its key says
    await bucket.put("staging.toy", good.replace('"share_ratio":1.0', '"share_ratio":7').encode())
    log = gateway.folder / "log"
    for line in ("unreadable record", "drill ignored"):
        await asyncio.to_thread(wait_until, lambda line=line: line in log.read_text(), what=f"logging {line!r}")
    await asyncio.to_thread(wait_until, lambda: log.read_text().count("unreadable record") >= 2, what="both")
    assert checks(gateway)["drills"] == "none"
    assert "x-slipway-drill" not in (await ask(asdk, tokens=1))[2]
    # And the next good one is heard.
    active = await put_drill(js, gateway, toy[1], drill_id="drill-2", fault={"answer": "empty"})
    assert (await ask(asdk, tokens=1))[2]["x-slipway-drill"] == active.drill_id


async def test_a_caller_that_goes_away_while_it_is_held_leaves_nothing_behind(js, gateway, toy):
    await put_route(js, gateway, Route(model="toy", epoch=1, active=toy[1]))
    active = await put_drill(js, gateway, toy[1], fault={"delay_ms": 600_000}, lasts_s=600.0)
    body = {"model": "toy", "prompt": "Once", "max_tokens": 5}
    in_flight = 'slipway_gateway_in_flight{environment="production"}'
    async with httpx.AsyncClient(headers=gateway.headers) as http:
        asked = [
            asyncio.ensure_future(http.post(gateway.base_url + "/v1/completions", json=body, timeout=60))
            for _ in range(3)
        ]
        await asyncio.to_thread(wait_until, lambda: gateway.metric(in_flight) == 3.0, what="three requests held")
        for one_asked in asked:
            one_asked.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await one_asked
    await asyncio.to_thread(wait_until, lambda: gateway.metric(in_flight) == 0.0, timeout_s=10, what="their end")
    records, _ = await telemetry(js, 3)
    seen = {(record.finish_reason, record.error, record.drill, record.output_tokens) for record in records}
    assert seen == {("cancelled", None, active.drill_id, 0)}
