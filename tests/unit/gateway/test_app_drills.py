"""Drills as a caller and as telemetry see them, on fakes."""

import asyncio
import json

import pytest

from contracts.routes import CanaryShare, Route
from contracts.trigger_metrics import REPETITIVE
from services.gateway.domain.drills import REFUSAL
from shared.errors import Permanent, Transient
from testbed.factories import MODEL, route, served, target
from tests.kit.drills import drill
from tests.unit.gateway.fakes import FakeEngine
from tests.unit.gateway.world import RAW_BEARER, STAGING, World, only_active


async def drilled(*routes, environment="production", fault=None, world=None, **changes):
    """Return a world in which a drill is on."""
    world = world or World(*(routes or (only_active(),)))
    started = drill(fault=fault, environment=environment, **changes)
    await world.drills.apply(f"{environment}.{started.target.model}", started, 1)
    return world


def chunks(answer):
    """Read a stream to its end: the text, and the objects."""
    events = [event.removeprefix("data: ") for event in answer.text.split("\n\n") if event]
    assert events[-1] == "[DONE]"
    bodies = [json.loads(event) for event in events[:-1]]
    return "".join(body["choices"][0]["delta"].get("content", "") for body in bodies if body["choices"]), bodies


@pytest.mark.parametrize("stream", [False, True])
async def test_a_delay_counts_from_the_arrival(stream):
    world = await drilled(fault={"delay_ms": 800})
    answer = await world.chat(stream=stream)
    assert (answer.status_code, answer.headers["x-slipway-drill"]) == (200, "drill-1")
    (record,) = world.records
    assert record.drill == "drill-1"
    assert 800 < record.ttft_ms < record.e2e_ms < 900
    # Held before it is sent; what is scheduled stays scheduled, and the engine's own pace is not touched.
    assert (record.sent_at - record.scheduled_at).total_seconds() == pytest.approx(0.8, abs=0.05)
    assert record.itl_ms.mean < 10
    assert world.metric("slipway_gateway_drilled_total{") == [
        'slipway_gateway_drilled_total{environment="production",target="support-bot.v7.int8"} 1.0'
    ]
    assert (await world.admin.get("/readyz")).json()["checks"]["drills"] == "drill-1 on production support-bot.v7.int8"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_a_drill_fails_does_not_reach_the_target(stream):
    world = await drilled(fault={"error_ratio": 1.0})
    answer = await world.chat(stream=stream)
    problem = answer.json()["error"]
    assert (answer.status_code, problem["code"], problem["type"]) == (502, "engine_failed", "upstream_error")
    assert "The drill drill-1 failed this request on purpose" in problem["message"]
    assert answer.headers["x-slipway-drill"] == "drill-1"
    assert world.engine.calls == []
    (record,) = world.records
    assert (record.error, record.drill, record.ttft_ms, record.features) == ("engine_failed", "drill-1", None, None)
    assert all(line.endswith(" 0.0") for line in world.metric("slipway_gateway_retries_total{"))


@pytest.mark.parametrize("headers", [{}, {"x-request-id": "one-that-was-never-touched"}])
async def test_only_the_share_is_touched_and_labelled_whatever_ids_the_callers_choose(headers):
    world = await drilled(fault={"garble": True}, share_ratio=0.5)
    answers = [await world.chat(headers, max_tokens=8) for _ in range(60)]
    touched = ["x-slipway-drill" in answer.headers for answer in answers]
    assert 12 < sum(touched) < 48
    assert [record.drill is not None for record in world.records] == touched
    assert [record.features.repetition_ratio > REPETITIVE for record in world.records] == touched


def texts_of(answer, *, stream):
    if not stream:
        body = answer.json()
        return body["choices"][0]["message"]["content"], body["usage"], body["choices"][0]["finish_reason"]
    text, bodies = chunks(answer)
    reasons = [body["choices"][0]["finish_reason"] for body in bodies if body["choices"]]
    return text, bodies[-1]["usage"], reasons[-1]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["garble", "empty", "refusal"])
async def test_another_answer_has_the_usage_of_the_real_one(kind, stream):
    world = await drilled(fault={"garble": True} if kind == "garble" else {"answer": kind})
    options = {"stream_options": {"include_usage": True}} if stream else {}
    answer = await world.chat(max_tokens=6, stream=stream, **options)
    text, usage, reason = texts_of(answer, stream=stream)
    assert (usage, reason) == ({"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8}, "length")
    assert (answer.status_code, answer.headers["x-slipway-drill"]) == (200, "drill-1")
    (record,) = world.records
    assert (record.error, record.output_tokens, record.features.output_chars) == (None, 6, len(text))
    if kind == "empty":
        assert (text, record.features.empty, record.ttft_ms) == ("", True, None)
    elif kind == "refusal":
        assert (text, record.features.refusal) == (REFUSAL, True)
    else:
        assert len(set(text.split())) == 1
        assert record.features.repetition_ratio > REPETITIVE


async def test_a_drill_on_the_canary_leaves_the_active_target_alone():
    on_trial = route(canary=CanaryShare(served=served(8), weight_ratio=0.5))
    world = await drilled(on_trial, fault={"error_ratio": 1.0}, target=target(8))
    seen = {
        (answer.headers["x-slipway-version"], answer.status_code, "x-slipway-drill" in answer.headers)
        for answer in [await world.chat(user=f"u{number}") for number in range(40)]
    }
    assert seen == {("support-bot.v7.int8", 200, False), ("support-bot.v8.int8", 502, True)}
    assert all(record.canary == (record.drill is not None) for record in world.records)
    # By its number as well.
    assert (await world.chat(model=f"{MODEL}@v8")).status_code == 502
    assert (await world.chat(model=f"{MODEL}@v7")).status_code == 200


@pytest.mark.parametrize("environment", ["production", "staging"])
async def test_a_drill_touches_its_own_environment_only(environment):
    world = World(only_active(), staging=[Route(model=MODEL, active=served(7))])
    await drilled(environment=environment, fault={"error_ratio": 1.0}, world=world)
    statuses = {"production": (await world.chat()).status_code, "staging": (await world.chat(STAGING)).status_code}
    assert statuses == {"production": 200, "staging": 200} | {environment: 502}


@pytest.mark.parametrize(
    ("error", "status"),
    [(Permanent("bad_request", "too long for the context"), 400), (Transient("engine_dead", "dead"), 502)],
)
async def test_a_touched_request_that_fails_by_itself_is_labelled(error, status):
    world = await drilled(fault={"delay_ms": 1}, world=World(only_active(), engine=FakeEngine(poison={"there": error})))
    answer = await world.chat()
    assert (answer.status_code, answer.headers["x-slipway-drill"]) == (status, "drill-1")
    assert world.records[0].drill == "drill-1"


async def test_a_retry_does_not_suffer_twice():
    engine = FakeEngine(failures={"127.0.0.1:8001": [Transient("endpoint_unreachable", "gone")]})
    world = await drilled(fault={"delay_ms": 800, "answer": "refusal"}, world=World(only_active(), engine=engine))
    answer = await world.chat()
    assert answer.json()["choices"][0]["message"]["content"] == REFUSAL
    assert world.records[0].e2e_ms < 900


class HeldPause:
    """Holds every pause until it is released; counts the waiting ones."""

    def __init__(self):
        self.waiting = 0
        self.entered = asyncio.Event()

    async def __call__(self, _delay_s, /):
        self.waiting += 1
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1


async def test_a_caller_that_goes_away_while_it_is_held_ends_the_request():
    held = HeldPause()
    world = await drilled(fault={"delay_ms": 600_000}, world=World(only_active(), pause=held))
    gone = asyncio.Event()
    body = json.dumps({"model": MODEL, "prompt": "Once"}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": RAW_BEARER, "query_string": b""}
    app = world.http._transport.app
    request = asyncio.ensure_future(app(scope, receive, send))
    async with asyncio.timeout(5):
        await held.entered.wait()
        gone.set()
        await request
    assert (held.waiting, sent, world.engine.calls) == (0, [], [])
    (record,) = world.records
    assert (record.finish_reason, record.error, record.drill) == ("cancelled", None, "drill-1")
    assert world.metric('slipway_gateway_in_flight{environment="production"}')[0].endswith(" 0.0")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cut_answer_ends_after_its_first_part_at_a_limit_that_is_not_the_callers(stream):
    world = await drilled(fault={"answer": "cut"})
    options = {"stream_options": {"include_usage": True}} if stream else {}
    answer = await world.chat(max_tokens=6, stream=stream, **options)
    text, usage, reason = texts_of(answer, stream=stream)
    assert (text, usage["completion_tokens"], reason) == ("w0 ", 6, "length")
    (record,) = world.records
    assert (record.finish_reason, record.features.output_chars) == ("length", 3)


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_after_the_first_are_delayed(stream):
    world = await drilled(fault={"token_delay_ms": 300})
    await world.chat(max_tokens=5, stream=stream)
    (record,) = world.records
    assert record.ttft_ms < 100
    assert record.itl_ms.mean == pytest.approx(301, abs=5)
    assert record.e2e_ms == pytest.approx(1200, abs=50)


async def test_a_delayed_queue_is_reported_as_the_engines():
    world = await drilled(fault={"queue_delay_ms": 700, "logprob_shift": -2.0, "nan_logits": True})
    await world.chat()
    (record,) = world.records
    assert (record.queue_ms, record.logprob_mean, record.nan_logits) == (700.0, -2.0, True)
    assert record.ttft_ms > 700
