"""Answers are the engine's own bytes; its records make the telemetry."""

import asyncio
import json

import pytest

from decisions.evidence.triggers import observe
from services.gateway.domain.records import read_failure, read_record
from shared.errors import Permanent, Transient
from shared.serving.openai_stream import ApiPiece
from testbed import factories as f
from testbed.factories import MODEL
from tests.unit.gateway.fakes import JSON_HEADERS, FakeEngine, report
from tests.unit.gateway.world import World, only_active

REFUSED = Permanent("bad_request", "max_tokens is too large")


class Scripted(FakeEngine):
    """Sends the same pieces to each request."""

    def __init__(self, *pieces) -> None:
        super().__init__()
        self.pieces = pieces

    async def send(self, endpoint, target, request):
        self.calls.append((endpoint, str(target), ""))
        self.requests.append(request)
        for piece in self.pieces:
            yield piece
            await asyncio.sleep(0)


def scripted(*pieces):
    return World(f.route(canary=None, active=f.served(7), previous=None, history=()), engine=Scripted(*pieces))


def head(body, record=None, status=200, content_type="application/json"):
    return ApiPiece(body, record or {}, status, (("content-type", content_type), ("x-engine", "secret")))


ANSWER = b'{ "choices" : [],\n"id": 1.00 }'
TOKENS = {"prompt_tokens": 5, "output_tokens": 1, "texts": [["0.0", "Hi"]], "finish_reasons": {"0.0": "stop"}}


async def test_a_whole_answer_has_the_engines_bytes_and_our_headers():
    world = scripted(head(ANSWER[:10], TOKENS), ApiPiece(ANSWER[10:], {}), ApiPiece(b"", {}))
    answer = await world.chat()
    assert answer.content == ANSWER
    assert answer.headers["content-length"] == str(len(ANSWER))
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-slipway-version"] == "support-bot.v7.int8"
    assert "x-engine" not in answer.headers


async def test_a_stream_has_the_engines_bytes():
    event = b'data: { "choices": [] }\n\n'
    world = scripted(head(event, TOKENS, content_type="text/event-stream"), ApiPiece(event + b"data: [DO", {}))
    answer = await world.chat(stream=True)
    assert answer.content == event * 2 + b"data: [DO"
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_the_record_has_what_the_engine_measured():
    measured = {"queue_ms": 3.5, "logprob_mean": -0.25, "nan_logits": True}
    world = World(only_active(), engine=FakeEngine(record=measured))
    await world.chat()
    (record,) = world.records
    assert (record.queue_ms, record.logprob_mean, record.nan_logits) == (3.5, -0.25, True)
    assert record.forced_metrics == ("cut_off_ratio", "empty_ratio")
    await world.chat(stop=["."], max_tokens=None)
    assert world.records[-1].forced_metrics == ("empty_ratio", "invalid_json_ratio", "output_tokens")


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_request_that_the_engine_rejects_gets_its_own_words_and_status(status):
    body = b'{"error": {"message": "no", "type": "BadRequestError", "param": "seed", "code": 400}}'
    rejected = {"error": {"class": "VLLMValidationError", "source": "validation"}}

    class Rejecting(Scripted):
        async def send(self, endpoint, target, request):
            if b"hello there" not in request.body:
                yield head(ANSWER, TOKENS)
                return
            async for piece in super().send(endpoint, target, request):
                yield piece

    engine = Rejecting(head(body[:20], rejected, status), ApiPiece(body[20:], rejected))
    world = World(f.route(canary=None, active=f.served(7), previous=None, history=()), engine=engine)
    answer = await world.chat()
    assert (answer.status_code, answer.content) == (status, body)
    assert answer.headers["x-slipway-version"] == "support-bot.v7.int8"
    assert [(record.error, record.caused_by) for record in world.records] == [(None, "caller")]


async def test_what_only_the_new_version_rejects_is_the_versions_failure():
    world = World(only_active(), engine=FakeEngine(poison={"there": REFUSED}, faulty={str(f.target(7))}))
    answer = await world.chat()
    assert (answer.status_code, answer.headers["x-slipway-rescued"]) == (200, str(f.target(7)))
    assert [(record.error, record.caused_by) for record in world.records] == [("engine_failed", "target")]


async def test_the_engines_error_event_is_replaced_by_ours():
    broken = {"error": {"class": "KeyError", "source": "parser"}, "output_tokens": 1}
    secret = b'data: {"error": {"message": "at /models/secret"}}\n\ndata: [DONE]\n\n'
    started = head(b'data: {"choices":[]}\n\n', {"output_tokens": 1, "texts": [["0.0", "x"]]})
    answer = await scripted(started, ApiPiece(secret, broken)).chat(stream=True)
    events = [event for event in answer.text.split("\n\n") if event]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "engine_failed"
    assert "[DONE]" not in answer.text


async def test_an_answer_that_takes_too_long_is_a_504_and_no_evidence():
    record = {"error": {"class": "DeadlineExceeded", "source": "deadline"}}
    world = scripted(head(b'{"error": {"message": "not complete within 600 s"}}', record, 504))
    answer = await world.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert "600 s" in answer.json()["error"]["message"]
    assert [(r.error, r.caused_by) for r in world.records] == [("deadline_exceeded", "infrastructure")]
    assert len(world.engine.calls) == 1, "the second attempt would take as long"


@pytest.mark.parametrize(("path", "asked"), [("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})])
async def test_what_no_model_computes_is_forwarded_without_a_record(path, asked):
    world = scripted(head(ANSWER), ApiPiece(b"", {}))
    body = {"model": MODEL, **asked}
    answer = await world.http.post(path, json=body)
    assert (answer.status_code, answer.content) == (200, ANSWER)
    assert world.records == []
    assert world.metric("slipway_gateway_requests_total") != []


EMBED = {"model": MODEL, "input": "x"}


async def test_embeddings_have_a_record_whose_first_token_is_the_whole_answer():
    world = scripted(head(ANSWER, {"prompt_tokens": 4}), ApiPiece(b"", {}))
    answer = await world.http.post("/v1/embeddings", json=EMBED)
    assert (answer.status_code, answer.content) == (200, ANSWER)
    (record,) = world.records
    assert (record.error, record.caused_by, record.finish_reason, record.output_tokens) == (None, None, None, 0)
    assert 0 < record.ttft_ms == record.e2e_ms
    assert record.features is None
    assert record.forced_metrics == ()
    lower = {"output_tokens": {"bound": "lower"}}
    seen = {
        metric: observe(f.trigger(metric=metric, threshold=threshold, **lower.get(metric, {})), record)
        for metric, threshold in THRESHOLDS.items()
    }
    assert seen == {**dict.fromkeys(THRESHOLDS), "ttft_ms": True, "e2e_ms": True, "error_ratio": False}


THRESHOLDS = {
    **dict.fromkeys(("ttft_ms", "e2e_ms", "itl_ms", "queue_ms"), 1.0),
    **dict.fromkeys(("error_ratio", "empty_ratio", "refusal_ratio", "repetition_ratio", "cut_off_ratio"), 0.1),
    "output_tokens": 5.0,
    "logprob_mean": -1.0,
    "nan_logits": 0.1,
}


@pytest.mark.parametrize(
    ("poison", "faulty", "end"),
    [
        ({"odd": Transient("engine_failed", "KeyError")}, {str(f.target(7))}, ("engine_failed", "target")),
        ({"odd": Transient("engine_failed", "KeyError")}, None, ("engine_failed", "caller")),
        ({"odd": Permanent("bad_request", "too long")}, None, (None, "caller")),
        ({"odd": Permanent("bad_request", "too long")}, {str(f.target(7))}, ("engine_failed", "target")),
    ],
)
async def test_a_broken_embedding_counts_as_any_other_answer(poison, faulty, end):
    class Embeds(FakeEngine):
        async def send(self, endpoint, target, request):
            assert request.path == "/v1/embeddings", "no probe asks an embedding model for text"
            self.calls.append((endpoint, str(target), ""))
            error = self._find_error(endpoint, target, json.loads(request.body)["input"])
            yield head(ANSWER) if error is None else report(error)

    world = World(only_active(), engine=Embeds(poison=poison, faulty=faulty))
    await world.http.post("/v1/embeddings", json={**EMBED, "input": "an odd text"})
    assert [(record.error, record.caused_by) for record in world.records] == [end]


@pytest.mark.parametrize("given", [[1, 2], [[1, 2], [3]]])
async def test_a_refused_embedding_of_token_ids_is_never_evidence(given):
    engine = FakeEngine(poison={"1": Permanent("bad_request", "no such token")}, faulty={str(f.target(7))})
    world = World(only_active(), engine=engine)
    await world.http.post("/v1/embeddings", json={**EMBED, "input": given})
    assert [(record.error, record.caused_by) for record in world.records] == [(None, "caller")]
    assert len(world.engine.calls) == 1


async def test_a_path_that_a_model_does_not_support_is_its_engines_404():
    record = {"error": {"class": "unsupported_by_model", "source": "validation"}}
    body = b'{"error": {"message": "This model does not support /v1/embeddings.", "code": "unsupported_by_model"}}'
    world = scripted(head(body, record, 404))
    answer = await world.http.post("/v1/embeddings", json={"model": MODEL, "input": "x"})
    assert (answer.status_code, answer.content) == (404, body)
    assert len(world.engine.calls) == 1, "no probe asks an embedding model for text"


async def test_responses_are_answers_like_others():
    world = scripted(head(b'{"object": "response"}', TOKENS))
    answer = await world.http.post("/v1/responses", json={"model": MODEL, "input": "hello"})
    assert answer.json() == {"object": "response"}
    (record,) = world.records
    assert (record.output_tokens, record.features.prompt_chars, record.features.output_chars) == (1, 5, 2)


TOOLS = [{"type": "function", "function": {"name": "refund", "parameters": {"required": ["order"]}}}]


def calling(arguments, **more):
    call = {"id": "c-1", "type": "function", "function": {"name": "refund", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], **more}).encode()


@pytest.mark.parametrize(
    ("body", "asked", "valid"),
    [
        (calling('{"order": 73}'), {"tools": TOOLS}, True),
        (calling('{"order": 73'), {"tools": TOOLS}, False),
        (calling("{}"), {"tools": TOOLS}, False),
        (calling('{"order": 73}'), {}, None),
        (calling('{"order": 73}', padding="x" * 2**20), {"tools": TOOLS}, None),  # too many bytes to be kept
    ],
)
async def test_an_answer_is_judged_by_the_tools_of_its_request(body, asked, valid):
    world = scripted(head(body[:50], TOKENS), ApiPiece(body[50:], {}))
    answer = await world.chat(**asked)
    assert answer.content == body
    assert world.records[0].features.valid_json is valid


async def test_an_answer_of_several_is_described_by_its_first():
    record = {"output_tokens": 4, "texts": [["0.0", "one "], ["0.1", "two "], ["0.0", "more"]]}
    ends = {"finish_reasons": {"0.1": "length", "0.0": "stop"}, "output_tokens": 4}
    world = scripted(ApiPiece(b"", record), head(ANSWER, ends))
    await world.chat(n=2)
    (record,) = world.records
    assert (record.features.output_chars, record.finish_reason) == (8, "stop")
    assert "output_tokens" in record.forced_metrics


async def test_a_failure_of_a_service_that_is_not_generated_text_is_no_evidence():
    record = {"error": {"class": "KeyError", "source": "tokenizer"}}
    world = scripted(head(b"{}", record, 500))
    answer = await world.http.post("/tokenize", json={"model": MODEL, "prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_failed")
    assert world.records == []


async def test_wrong_methods_and_paths_beside_the_api():
    world = World(only_active())
    refused = await world.http.get("/v1/responses")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert refused.headers["x-request-id"]
    for path in ("/v1/load_lora_adapter", "/v1/messages", "/invocations", "/sleep", "/v1/responses/x"):
        missing = await world.http.post(path, json={"model": MODEL})
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_url"), path
        assert "/v1/chat/completions" in missing.json()["error"]["message"]
    refused = await world.http.post("/v1/models", headers={"x-request-id": "mine"})
    assert refused.headers.get_list("x-request-id") == ["mine"]
    assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
    assert world.engine.calls == []


async def test_a_stream_that_ends_without_an_answer_is_a_dead_engine():
    world = scripted()
    assert (await world.chat()).json()["error"]["code"] == "engine_dead"


def test_the_fake_reports_as_the_backend_does():
    from tests.unit.gateway.fakes import report

    piece = report(Transient("template_failed", "1 / 0"))
    assert (piece.status, piece.headers) == (400, JSON_HEADERS)
    assert read_failure(piece.status, read_record(piece.record), piece.body).kind == "template_failed"


async def test_the_first_token_of_a_whole_answer_is_the_engines_first_token():
    world = World(only_active())
    gate = world.engine.gate = asyncio.Event()
    asked = asyncio.ensure_future(world.chat())
    while not world.engine.calls:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    await world.clock.pause(9.0)
    gate.set()
    await asked
    (record,) = world.records
    assert record.ttft_ms < 100
    assert record.e2e_ms > 9000


UNSUPPORTED = {"error": {"class": "unsupported_by_model", "source": "validation"}}


async def test_a_conversation_with_an_embedding_model_is_a_404_and_no_evidence():
    world = scripted(head(b'{"error": {"code": "unsupported_by_model"}}', UNSUPPORTED, 404))
    assert (await world.chat()).status_code == 404
    assert [(record.error, record.caused_by) for record in world.records] == [(None, "caller")]


async def test_a_conversation_without_a_chat_template_is_the_callers_mistake():
    world = World(only_active(chat_template=None))
    answer = await world.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_chat_template")
    assert (world.engine.calls, world.records) == ([], [])
    assert (await world.complete()).status_code == 200


@pytest.mark.parametrize("name", ["logit_bias", "stop_token_ids"])
async def test_a_rejection_of_token_ids_is_never_evidence(name):
    world = World(only_active(), engine=FakeEngine(poison={"there": REFUSED}, faulty={str(f.target(7))}))
    value = {"900000": 1} if name == "logit_bias" else [900000]
    assert (await world.chat(**{name: value})).status_code == 400
    assert [(record.error, record.caused_by) for record in world.records] == [(None, "caller")]


async def test_bytes_before_the_first_token_wait_and_are_dropped_with_a_failed_attempt():
    created = head(b'event: response.created\ndata: {"a":1}\n\n', content_type="text/event-stream")
    broke = ApiPiece(b"", {"error": {"class": "KeyError", "source": "engine"}})
    good = head(b'event: response.created\ndata: {"b":2}\n\n', TOKENS, content_type="text/event-stream")

    class Second(Scripted):
        async def send(self, endpoint, _target, _request):
            pieces = [created, broke] if not self.calls else [created, good]
            self.calls.append(endpoint)
            for piece in pieces:
                yield piece

    world = World(only_active(), engine=Second())
    answer = await world.http.post("/v1/responses", json={"model": MODEL, "input": "x", "stream": True})
    assert answer.status_code == 200
    assert answer.text.count("response.created") == 2
    assert '"a":1' in answer.text
    assert len(world.engine.calls) == 2


@pytest.mark.parametrize(
    "pieces",
    [
        [head(ANSWER[:5])],
        [head(ANSWER[:5], {"output_tokens": 1})],
        [head(b"")],
        [ApiPiece(b"early", {}), head(ANSWER, TOKENS)],
        [head(ANSWER, TOKENS, 302)],
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_no_whole_answer_is_a_failure_of_the_target(pieces, stream):
    world = scripted(*pieces)
    answer = await world.chat(stream=stream)
    assert answer.status_code == 502 or '"error"' in answer.text
    (record,) = world.records
    assert record.error in {"engine_dead", "engine_failed"}


async def test_what_the_engine_says_of_its_own_failure_stays_in_the_log():
    broken = Transient("engine_failed", "KeyError at /models/secret")
    world = World(only_active(), engine=FakeEngine(poison={"there": broken}))
    assert "secret" not in (await world.chat()).text
    started = {"output_tokens": 1, "texts": [["0.0", "x"]]}
    event = b'data: {"error": {"message": "at /models/secret"}}\n\n'
    bad = {"error": {"class": "KeyError", "source": "parser"}, "output_tokens": 1}
    answer = await scripted(head(b'data: {"choices":[]}\n\n', started), ApiPiece(event, bad)).chat(stream=True)
    assert "engine_failed" in answer.text
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("noted", "recorded"),
    [
        ((None, None), None),
        ((False, None), False),
        ((None, False), False),
        ((True, False), True),
        ((False, True), True),
    ],
)
async def test_nan_logits_are_unknown_until_the_engine_says(noted, recorded):
    records = [{} if value is None else {"nan_logits": value} for value in noted]
    ended = {"output_tokens": 2, "finish_reasons": {"0.0": "stop"}, **records[1]}
    world = scripted(ApiPiece(b"", {"output_tokens": 1, **records[0]}), head(ANSWER, ended))
    assert (await world.chat()).status_code == 200
    assert world.records[0].nan_logits is recorded


async def test_a_record_is_written_whatever_the_engine_measured():
    world = World(only_active(), engine=FakeEngine(record={"logprob_mean": float("nan"), "queue_ms": "a"}))
    assert (await world.chat()).status_code == 200
    (record,) = world.records
    assert (record.logprob_mean, record.nan_logits, record.queue_ms) == (None, True, None)


async def test_the_first_attempt_is_closed_before_the_second():
    log = []

    class Logged(Scripted):
        async def send(self, _endpoint, _target, _request):
            number = len(log)
            log.append("open")
            try:
                if number == 0:
                    yield ApiPiece(b"", {"error": {"class": "KeyError", "source": "engine"}})
                yield head(ANSWER, TOKENS)
            finally:
                log.append("closed")

    await World(only_active(), engine=Logged()).chat()
    assert log == ["open", "closed", "open", "closed"]


@pytest.mark.parametrize("name", ["schema_too_costly", "schemas_busy"])
async def test_a_schema_that_cost_too_much_this_time_is_never_evidence(name):
    record = {"error": {"class": name, "source": "validation"}}

    class Busy(Scripted):
        async def send(self, endpoint, target, request):
            if str(target) != str(f.target(7)):
                yield head(ANSWER, TOKENS)
                return
            async for piece in super().send(endpoint, target, request):
                yield piece

    world = World(only_active(), engine=Busy(head(b'{"error": {"code": 1}}', record, 400)))
    assert (await world.chat()).status_code == 400
    assert [(r.error, r.caused_by) for r in world.records] == [(None, "caller")]
