"""The HTTP application on fakes: statuses, headers, retries, telemetry."""

import asyncio
import json

import pytest

from contracts.routes import CanaryShare, Route
from shared.errors import Permanent, Transient
from testbed.factories import MODEL, route, served
from tests.unit.gateway.fakes import FakeEngine
from tests.unit.gateway.world import World, only_active

DEAD = Transient("engine_dead", "the engine is dead")


async def test_a_chat_answer_says_who_gave_it():
    world = World(only_active())
    answer = await world.chat()
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "w0 w1 w2 "
    assert answer.json()["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert answer.headers["x-slipway-version"] == "support-bot.v7.int8"
    assert answer.headers["x-slipway-release"] == "support-bot@v7"
    assert answer.headers["x-request-id"] == "id0"
    assert answer.json()["system_fingerprint"].startswith("fp_support-bot.v7.int8.")


async def test_a_defect_is_a_500_that_names_the_request():
    endpoint = only_active().active.endpoints[0]
    world = World(only_active(), engine=FakeEngine(failures={endpoint: [RuntimeError()]}))
    vars(world.http._transport)["raise_app_exceptions"] = False
    answer = await world.chat(headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine")


async def test_a_callers_request_id_is_kept_if_it_is_harmless():
    world = World(only_active())
    assert (await world.chat({"x-request-id": "trace-1"})).headers["x-request-id"] == "trace-1"
    assert (await world.chat({"x-request-id": "a b;c"})).headers["x-request-id"].startswith("id")


async def test_a_stream_ends_with_done():
    answer = await World(only_active()).chat(stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == "w0 w1 w2 "
    assert chunks[-1]["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"model": "nobody"}, 404, "model_not_found"),
        ({"model": "support-bot@v99"}, 404, "model_not_found"),
        ({"model": "../x"}, 404, "model_not_found"),
        ({"model": "empty"}, 503, "no_serving_target"),
        ({"n": 3000}, 400, "above_maximum_value"),
        ({"chat_template": "x"}, 400, "unsupported_parameter"),
        ({"no_such": 1}, 400, "unknown_parameter"),
        ({"messages": [{"role": "user", "content": "x" * 20_000}]}, 413, "request_too_large"),
    ],
)
async def test_refusals_reach_no_engine(changes, status, code):
    world = World(only_active(), Route(model="empty"))
    answer = await world.chat(**changes)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (status == 503)
    assert (world.engine.calls, world.records) == ([], [])
    assert world.metric("slipway_gateway_rejected_total") == [
        f'slipway_gateway_rejected_total{{environment="production",status="{status}"}} 1.0'
    ]


async def test_the_engine_gets_the_callers_own_bytes_and_the_name_that_it_gave():
    world = World(only_active())
    raw = b'{ "model":"support-bot@v7",\n"temperature":1.00, "messages":[{"role":"user","content":"\\u0068i"}]}'
    assert (await world.http.post("/v1/chat/completions", content=raw)).json()["model"] == "support-bot@v7"
    (request,) = world.engine.requests
    assert (request.body, request.path, request.model) == (raw, "/v1/chat/completions", "support-bot@v7")
    assert (request.request_id, request.deadline_s) == ("id0", 600.0)


async def test_a_canary_gets_its_share_and_no_caller_chooses_the_side():
    world = World(route(canary=CanaryShare(served=served(8), weight_ratio=0.5)))
    seen = [(await world.chat(user="u")).headers["x-slipway-version"] for _ in range(40)]
    assert 8 < seen.count("support-bot.v8.int8") < 32
    assert all(record.canary == (record.target.version == 8) for record in world.records)


@pytest.mark.parametrize(
    ("error", "attempts", "status"),
    [
        (DEAD, 2, 502),
        (Transient("endpoint_unreachable", "gone"), 2, 502),
        (Transient("no_first_token", "silent for 60 s"), 1, 504),
    ],
)
async def test_what_fails_for_good_is_said_and_recorded(error, attempts, status):
    engine = FakeEngine(failures={"a:1": [error] * 9})
    world = World(only_active(endpoints=("a:1",)), engine=engine)
    answer = await world.chat()
    assert (answer.status_code, len(engine.calls)) == (status, attempts)
    assert answer.headers["x-slipway-version"] == "support-bot.v7.int8"
    (record,) = world.records
    assert record.error == error.code
    assert record.ttft_ms is None


REFUSED = Permanent("bad_request", "the prompt is longer than the context")


async def test_what_the_engine_refuses_in_the_middle_of_an_answer_is_its_own_failure():
    world = World(only_active(), engine=FakeEngine(break_after=(1, REFUSED)))
    answer = await world.chat(stream=True)
    assert '"engine_failed"' in answer.text
    assert world.records[0].error == "engine_failed"


async def test_a_stream_that_breaks_says_so_and_does_not_pretend_to_be_done():
    world = World(only_active(), engine=FakeEngine(break_after=(2, DEAD)))
    answer = await world.chat(stream=True)
    events = [event for event in answer.text.split("\n\n") if event]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "engine_dead"
    assert "[DONE]" not in answer.text
    assert (world.records[0].error, world.records[0].output_tokens, world.records[0].features) == (
        "engine_dead",
        2,
        None,
    )


async def test_an_answer_that_breaks_is_a_502_when_it_was_not_streamed():
    world = World(only_active(), engine=FakeEngine(break_after=(2, DEAD)))
    assert (await world.chat()).status_code == 502


async def test_the_record_times_from_the_arrival():
    world = World(only_active())
    await world.chat(user="u")
    (record,) = world.records
    assert record.scheduled_at < record.sent_at
    assert 0 < record.ttft_ms < record.e2e_ms
    assert record.itl_ms.mean == pytest.approx(1.0, abs=0.6)
    assert (record.input_tokens, record.output_tokens, record.finish_reason) == (2, 3, "length")
    assert record.features.prompt_chars == len("hello there")
    assert "hello" not in record.model_dump_json()


async def test_too_many_at_once_are_turned_away():
    gate = asyncio.Event()
    world = World(only_active(), engine=FakeEngine(gate=gate), max_in_flight=1)
    first = asyncio.ensure_future(world.chat())
    while not world.engine.calls:
        await asyncio.sleep(0)
    rejected = await world.chat()
    gate.set()
    assert (rejected.status_code, rejected.json()["error"]["type"]) == (429, "rate_limit_error")
    assert (await first).status_code == 200


async def test_models():
    world = World(route())
    listed = (await world.http.get("/v1/models")).json()["data"]
    assert [card["id"] for card in listed] == [MODEL, f"{MODEL}@v8", f"{MODEL}@v7", f"{MODEL}@v6"]
    assert (await world.http.get(f"/v1/models/{MODEL}@v7")).json()["object"] == "model"
    assert (await world.http.get("/v1/models/nobody")).json()["error"]["code"] == "model_not_found"


async def test_ready_with_the_bus_or_with_routes():
    empty, known = World(), World(route())
    assert (await empty.admin.get("/readyz")).status_code == 200
    empty.connected = known.connected = False
    assert (await empty.admin.get("/readyz")).status_code == 503
    answer = await known.admin.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]["bus"]) == (200, "not connected")
