"""The whole API on the real engine: openai-python, the gateway's process, Triton, our backend, vLLM."""

import asyncio
import contextlib
import json
import math
from typing import Literal

import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel

from contracts.envelope import Event, nats_subject
from contracts.facts import InferenceBatch
from contracts.routes import Route
from contracts.services import TELEMETRY
from examples.smollm2.structured import is_answered_by_schema
from examples.smollm2.tool_question import is_answered_by_tool
from shared.messaging.provision import provision
from shared.storage.kv import Bucket
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running, wait_until
from tests.kit import hostile
from tests.kit.one_engine import MODEL, NAME, SLOTS

pytestmark = [pytest.mark.real, pytest.mark.vllm, pytest.mark.timeout(600)]
TALK = {"model": MODEL, "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 6, "temperature": 0}
FOREVER = {**TALK, "max_tokens": 200, "extra_body": {"ignore_eos": True}}


class Count(BaseModel):
    """Count something."""

    count: Literal[1, 2, 3]


TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look it up.",
        "strict": True,  # else vLLM leaves the arguments to the model
        "parameters": Count.model_json_schema(),
    },
}


@pytest.fixture(scope="module")
def bus(nats_server):
    """A provisioned bus."""

    async def prepare():
        client = await nats_server.connect()
        await provision(client.jetstream(timeout=10), dedupe_window_s=2.0)
        await client.close()

    asyncio.run(prepare())
    return nats_server


@pytest.fixture(scope="module")
def targets(triton, served):
    """SmolLM2 in vLLM as version 2, whose template fails for some conversations; the toy engine as version 1."""
    return {1: load_toy(triton, MODEL, 1), 2: served}


@pytest.fixture(scope="module")
def gateway(nats_server, bus, targets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    started = Gateway(folder, connection(nats_server, None, folder))
    with running(started) as process:
        put_route(bus, process, Route(model=MODEL, epoch=1, active=targets[2]))
        yield process


@pytest.fixture(scope="module")
def client(gateway):
    with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=gateway.key, max_retries=0, timeout=60) as sdk:
        yield sdk


@pytest.fixture(scope="module")
def http(gateway):
    with httpx.Client(base_url=gateway.base_url, headers=gateway.headers, timeout=60) as caller:
        yield caller


def put_route(bus, gateway, route):
    """Write a route, and wait until the gateway has it."""

    async def put():
        connected = await bus.connect()
        bucket = Bucket(connected.jetstream(timeout=10), "routes", Route)
        entry = await bucket.get(MODEL)
        await (bucket.create(MODEL, route) if entry is None else bucket.update(MODEL, route, entry.revision))
        await connected.close()

    asyncio.run(put())
    served = [route.active, *([route.previous] if route.previous else [])]
    names = {MODEL, *(f"{MODEL}@v{target.target.version}" for target in served)}

    def listed():
        answer = gateway.get("/v1/models")
        return answer and {model["id"] for model in answer.json()["data"]} == names

    wait_until(listed, what="the route in the gateway")


def record_of(bus, request_id):
    """Wait for the telemetry record of a request and return it."""

    async def read():
        connected = await bus.connect()
        subject = nats_subject(InferenceBatch.TYPE, "*", "gateway", "production")
        subscription = await connected.jetstream(timeout=10).pull_subscribe(subject, stream=TELEMETRY)
        try:
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(TimeoutError):
                        for message in await subscription.fetch(50, timeout=1):
                            records = Event[InferenceBatch].model_validate_json(message.data).data.records
                            for record in records:
                                if record.request_id == request_id:
                                    return record
        finally:
            await connected.close()

    return asyncio.run(read())


def headers(request_id):
    return {"extra_headers": {"x-request-id": request_id}}


def text_of(chunks):
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_a_chat_whole_and_as_a_stream(client, bus, targets):
    raw = client.chat.completions.with_raw_response.create(**TALK, **headers("whole"))
    answer = raw.parse()
    (choice,) = answer.choices
    assert choice.message.content
    assert (answer.model, answer.system_fingerprint) == (MODEL, f"fp_{NAME}.{targets[2].manifest.digest[7:15]}")
    assert (answer.usage.completion_tokens, choice.finish_reason) == (6, "length")
    assert raw.headers["x-slipway-version"] == NAME
    assert (raw.headers["x-slipway-release"], raw.headers["x-request-id"]) == ("bot@v2", "whole")

    usage = {"stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**TALK, **usage, stream=True, **headers("stream")))
    assert text_of(chunks) == choice.message.content
    assert chunks[-1].usage == answer.usage
    assert {chunk.model for chunk in chunks} == {MODEL}

    for request_id in ("whole", "stream"):
        record = record_of(bus, request_id)
        assert (str(record.target), record.endpoint) == (NAME, targets[2].endpoints[0])
        assert (record.input_tokens, record.output_tokens) == (answer.usage.prompt_tokens, 6)
        assert (record.finish_reason, record.error, record.caused_by) == ("length", None, None)
        assert 0 <= record.queue_ms < record.ttft_ms < record.e2e_ms
        assert record.forced_metrics == ("cut_off_ratio", "empty_ratio")
        assert record.logprob_mean is None
        assert record.features is not None


def test_log_probabilities_reach_caller_and_telemetry(client, bus):
    asked = {**TALK, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked, **headers("logprobs"))
    reported = whole.choices[0].logprobs.content
    assert [len(token.top_logprobs) for token in reported] == [2] * 6
    mean = sum(token.logprob for token in reported) / 6
    assert math.isclose(record_of(bus, "logprobs").logprob_mean, mean, abs_tol=1e-3)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    streamed = [token.token for chunk in chunks for c in chunk.choices if c.logprobs for token in c.logprobs.content]
    assert streamed == [token.token for token in reported]


def test_several_answers_and_several_prompts(client, bus):
    answer = client.chat.completions.create(**{**TALK, "temperature": 1.0}, n=2, **headers("several"))
    assert [choice.index for choice in answer.choices] == [0, 1]
    record = record_of(bus, "several")
    assert record.output_tokens == answer.usage.completion_tokens == 12
    assert "output_tokens" in record.forced_metrics

    sure = ["1, 2, 3, 4, 5, 6,", "Monday, Tuesday, Wednesday,"]  # another batch rounds otherwise and may break a tie
    asked = {"model": MODEL, "prompt": sure, "max_tokens": 4, "temperature": 0}
    whole = client.completions.create(**asked)
    texts = {choice.index: choice.text for choice in whole.choices}
    assert set(texts) == {0, 1}
    streamed = {0: "", 1: ""}
    for chunk in client.completions.create(**asked, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts


def test_a_json_schema(client, bus):
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "How many?"}],
        response_format=Count,
        max_tokens=40,
        **headers("schema"),
    )
    assert answer.choices[0].message.parsed.count in {1, 2, 3}
    assert record_of(bus, "schema").forced_metrics == ("cut_off_ratio",)
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "ok": {"type": "boolean"}},
        "required": ["name", "ok"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    chunks = client.chat.completions.create(
        **{**TALK, "max_tokens": 60}, response_format=form, stream=True, **headers("schema-stream")
    )
    jsonschema.validate(json.loads(text_of(chunks)), schema)


def test_the_demos_question_by_a_schema(gateway, capsys):
    assert is_answered_by_schema(gateway.base_url, gateway.key, MODEL)
    assert NAME in capsys.readouterr().out


def test_the_demos_question_with_a_tool_tells_a_call_from_an_answer_without_one(gateway, capsys):
    assert not is_answered_by_tool(gateway.base_url, gateway.key, MODEL), "its chat template shows it no tools"
    assert "The model did not call the tool." in capsys.readouterr().err


def test_tools(client, bus):
    asked = {**TALK, "max_tokens": 60, "tools": [TOOL]}
    for choice in ("required", {"type": "function", "function": {"name": "look_up"}}):
        answer = client.chat.completions.create(**asked, tool_choice=choice)
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "look_up"
        Count.model_validate_json(call.function.arguments)
    assert client.chat.completions.create(**asked, tool_choice="auto").choices[0].message.role == "assistant"

    with client.chat.completions.stream(**asked, tool_choice="required", **headers("tools")) as stream:
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert call.function.name == "look_up"
    Count.model_validate_json(call.function.arguments)
    assert record_of(bus, "tools").error is None

    parsed = client.chat.completions.parse(
        **{**asked, "tools": [openai.pydantic_function_tool(Count, name="look_up")]}, tool_choice="required"
    )
    assert parsed.choices[0].message.tool_calls[0].function.parsed_arguments.count in {1, 2, 3}

    turns = [
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "tool_calls": [call.to_dict(exclude_none=True)]},
        {"role": "tool", "tool_call_id": call.id, "content": "2"},
    ]
    assert client.chat.completions.create(**{**asked, "messages": turns, "max_tokens": 4}).usage.completion_tokens <= 4


def test_responses(client, bus):
    asked = {"model": MODEL, "input": "Say hi.", "max_output_tokens": 6, "temperature": 0}
    whole = client.responses.create(**asked, **headers("response"))
    assert whole.output_text
    assert (whole.model, whole.usage.output_tokens) == (MODEL, 6)
    record = record_of(bus, "response")
    assert (record.input_tokens, record.output_tokens) == (whole.usage.input_tokens, 6)
    assert record.forced_metrics == ("cut_off_ratio", "empty_ratio")
    events = list(client.responses.create(**asked, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type in {"response.completed", "response.incomplete"}
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    parsed = client.responses.parse(**{**asked, "max_output_tokens": 40}, text_format=Count)
    assert parsed.output_parsed.count in {1, 2, 3}


def test_tokens_and_what_the_model_cannot_do(client, http):
    tokens = http.post("/tokenize", json={"model": MODEL, "prompt": "Hello there"}).json()
    assert tokens["count"] == len(tokens["tokens"]) > 1
    back = http.post("/detokenize", json={"model": MODEL, "tokens": tokens["tokens"]})
    assert back.json() == {"prompt": "Hello there"}
    talk = http.post("/tokenize", json={"model": MODEL, "messages": TALK["messages"]}).json()
    assert talk["count"] == client.chat.completions.create(**TALK).usage.prompt_tokens
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model=MODEL, input="Hello")
    assert caught.value.code == "unsupported_by_model"


def test_a_pinned_version_and_the_list_of_models(client):
    assert [model.id for model in client.models.list()] == [MODEL, "bot@v2"]
    answer = client.chat.completions.create(**{**TALK, "model": "bot@v2"})
    assert answer.model == "bot@v2"
    chunks = list(client.chat.completions.create(**{**TALK, "model": "bot@v2"}, stream=True))
    assert {chunk.model for chunk in chunks} == {"bot@v2"}


@pytest.mark.parametrize(
    ("fields", "error", "about"),
    [
        ({"max_tokens": 99_999}, openai.BadRequestError, "max_tokens"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, openai.BadRequestError, None),
        ({"messages": "none"}, openai.BadRequestError, None),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"n": 33}, openai.BadRequestError, "n"),
        ({"extra_body": {"priority": 1}}, openai.BadRequestError, "priority"),
        ({"extra_body": {"nonsense": 1}}, openai.BadRequestError, "nonsense"),
        ({"model": "other"}, openai.NotFoundError, "model"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "no"}}},
            openai.BadRequestError,
            None,
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nope"}}}},
            openai.BadRequestError,
            None,
        ),
    ],
)
def test_a_callers_mistake_is_the_exception_for_it(client, fields, error, about):
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{**TALK, **fields})
    assert caught.value.body["message"]
    if about is not None:
        assert caught.value.param == about


def test_a_caller_that_leaves_ends_its_answers_in_the_engine(client, bus):
    for number in range(SLOTS):
        stream = client.chat.completions.create(**FOREVER, stream=True, **headers(f"left-{number}"))
        next(iter(stream))
        stream.close()
    client.chat.completions.create(**TALK, **headers("after"))
    assert record_of(bus, "after").queue_ms < 1000, "the engine has a free slot"
    for number in range(SLOTS):
        record = record_of(bus, f"left-{number}")
        assert (record.finish_reason, record.error, record.caused_by) == ("cancelled", None, "caller")
        assert record.output_tokens < 200


def test_a_template_that_fails_for_one_text_is_judged_by_the_fallback(client, bus, gateway, targets):
    failing, refused = ([{"role": "user", "content": f"Please {word}."}] for word in ("divide", "refuse"))
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(**{**TALK, "messages": failing}, **headers("alone"))
    assert caught.value.code == "template_failed"
    record = record_of(bus, "alone")
    assert (record.error, record.caused_by) == ("template_failed", "target"), "a template must not fail"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{**TALK, "messages": refused}, **headers("refused-alone"))
    assert caught.value.code == "template_refused"
    assert record_of(bus, "refused-alone").error is None
    put_route(bus, gateway, Route(model=MODEL, epoch=2, active=targets[2], previous=targets[1]))
    for name, messages in (("compared", failing), ("refused", refused)):
        raw = client.chat.completions.with_raw_response.create(**{**TALK, "messages": messages}, **headers(name))
        assert raw.headers["x-slipway-rescued"] == str(targets[2].target), "the version behind renders it, and answers"
        record = record_of(bus, name)
        assert (record.error, record.caused_by, record.rescued_by) == ("template_failed", "target", targets[1].target)
    put_route(bus, gateway, Route(model=MODEL, epoch=3, active=targets[2]))


def test_hostile_bodies_give_no_5xx_and_leave_the_engine_alone(client, triton, gateway):
    core = triton.engine_process(NAME).pid
    storm = hostile.storm(gateway.base_url, MODEL, count=20, step=8, headers=gateway.headers)
    print("hostile bodies by status:", sorted(storm.statuses.items()))
    assert storm.failed == []
    assert storm.statuses[200] > 0
    assert client.chat.completions.create(**TALK).usage.completion_tokens == 6
    assert triton.engine_process(NAME).pid == core
