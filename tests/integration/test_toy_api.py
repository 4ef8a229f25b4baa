"""The OpenAI API of the toy engine on a real Triton: the cases of every engine, and the failures that texts cause."""

import json
from itertools import pairwise

import pytest

from services.benchmarker.domain import tool_calls
from testbed.gateway import load_toy
from tests.kit import hostile
from tests.kit.openai_api import CHAT, COMPLETIONS, FOREVER, PROMPT, TALK, Api, ApiConformance, reasons, texts

pytestmark = pytest.mark.real
FAULTS = {
    "dead_text": "DEADTEXT",
    "mute_text": "MUTETEXT",
    "template_fails_text": "TEMPLATETEXT",
    "fail_text": "FAILTEXT",
    "break_text": "BREAKTEXT",
}
API = json.dumps({"model": "bot", "fingerprint": "fp_bot.v1"})


def load(triton, version, **toy):
    return load_toy(triton, "toy", version, api=API, **{"token_delay_ms": "5", **FAULTS, **toy}).target.triton_name


@pytest.fixture(scope="module")
def target(triton):
    return load(triton, 1)


@pytest.fixture
async def api(triton, target):
    api = Api(triton.endpoint, target)
    yield api
    await api.close()


def talk(text):
    return {**TALK, "messages": [{"role": "user", "content": text}]}


class TestToyApi(ApiConformance):
    pass


async def test_an_answer_without_a_limit_ends_by_itself(api):
    answer, records = await api.chat(max_tokens=None)
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (8, "stop")
    assert reasons(records) == {"0.0": "stop"}
    answer, _ = await api.chat(max_tokens=None, min_tokens=12)
    assert answer["usage"]["completion_tokens"] == 12
    _, _, body, _ = await api.ask(COMPLETIONS, {"prompt": "hello", "ignore_eos": True})
    answer = json.loads(body)
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (16, "length")


async def test_the_answers_to_one_prompt_differ_and_come_again(api):
    answer, records = await api.chat(n=3)
    assert len({choice["message"]["content"] for choice in answer["choices"]}) == 3
    _, again = await api.chat(n=3)
    assert texts(again) == texts(records)


async def test_token_ids_are_a_prompt_and_an_echo_is_its_text(api):
    _, _, body, _ = await api.ask(COMPLETIONS, {**PROMPT, "prompt": [[1, 2, 3], [4, 5]]})
    assert json.loads(body)["usage"]["prompt_tokens"] == 5
    _, _, body, _ = await api.ask(COMPLETIONS, {**PROMPT, "echo": True})
    assert json.loads(body)["choices"][0]["text"].startswith("One two three")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "status", "recorded"),
    [
        ("TEMPLATETEXT", 400, {"class": "TemplateError", "source": "template"}),
        ("FAILTEXT", 500, {"class": "EngineGenerateError", "source": "engine"}),
    ],
)
async def test_a_text_makes_a_request_fail(api, text, status, recorded, stream):
    answered, error, noted = await api.refused(CHAT, {**talk(text), "stream": stream})
    assert (answered, error["code"], noted) == (status, status, recorded)
    assert error["type"] == ("BadRequestError" if status == 400 else "InternalServerError")
    assert (await api.chat())[0]["usage"]["completion_tokens"] == 6


async def test_a_stream_breaks_after_two_tokens(api):
    events, records = await api.stream(CHAT, talk("BREAKTEXT"))
    assert events[-1]["error"]["code"] == 500
    assert "choices" in events[-2]
    assert records[-1]["error"] == {"class": "EngineGenerateError", "source": "engine"}
    assert records[-1]["output_tokens"] == 2
    status, _, noted = await api.refused(CHAT, talk("BREAKTEXT"))
    assert (status, noted["source"]) == (500, "engine")


async def test_a_muted_answer_has_tokens_and_no_text(api):
    answer, records = await api.chat(messages=talk("MUTETEXT")["messages"])
    assert answer["choices"][0]["message"]["content"] == ""
    assert texts(records) == {}
    assert records[-1]["output_tokens"] == 6


async def test_a_dead_engine_answers_nothing_more(triton):
    api = Api(triton.endpoint, load(triton, 2))
    for text in ("DEADTEXT", "hello"):
        status, _, noted = await api.refused(CHAT, talk(text))
        assert (status, noted) == (500, {"class": "EngineDeadError", "source": "engine"})
    await api.close()


async def test_an_answer_that_is_not_streamed_reports_its_progress(triton):
    api = Api(triton.endpoint, load(triton, 4, token_delay_ms="20"))
    pieces = [piece async for piece in api.open(CHAT, {**FOREVER, "max_tokens": 70})]
    await api.close()
    progress, last = pieces[:-1], pieces[-1]
    assert [(piece.body, piece.status) for piece in progress] == [(b"", None)] * len(progress)
    counts = [piece.record["output_tokens"] for piece in pieces]
    assert counts[0] == 1
    assert 2 <= len(progress) <= 5
    assert all(before < after for before, after in pairwise(counts))
    assert (last.status, counts[-1]) == (200, 70)
    whole = "".join(texts([piece.record])["0.0"] for piece in pieces)
    assert json.loads(last.body)["choices"][0]["message"]["content"] == whole


async def test_a_demanded_call_passes_the_gate_of_tool_calls(api):
    status, _, body, records = await api.ask(tool_calls.PATH, tool_calls.plan_request("bot"))
    assert tool_calls.assess_answer(tool_calls.ApiAnswer(status, body), "hermes").verdict == "pass", body
    assert reasons(records) == {"0.0": "tool_calls"}
    (tool,) = tool_calls.plan_request("bot")["tools"]
    other = {"type": "function", "function": {"name": "other"}}
    named = {"type": "function", "function": {"name": tool_calls.NAME}}
    status, _, body, _ = await api.ask(CHAT, {**TALK, "tools": [other, tool], "tool_choice": named, "stream": True})
    events = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")]
    choices = [choice for event in events for choice in event["choices"]]
    (call,) = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    assert (call["index"], call["function"]["name"]) == (0, tool_calls.NAME)
    assert choices[-1]["finish_reason"] == "tool_calls"
    answer, _ = await api.chat(tools=[tool])
    assert answer["choices"][0]["message"]["content"]
    status, _, _, _ = await api.ask(CHAT, {**TALK, "tools": [other], "tool_choice": named})
    assert status == 400


async def test_hostile_bodies_are_answered_or_refused(api):
    statuses = []
    for path, raw in hostile.corpus():
        status, _, body, records = await api.ask(path, raw.replace(b"MODEL", b"bot"))
        assert status in {200, 400, 404}, (raw[:300], body)
        assert status == 200 or records[-1]["error"]["source"] == "validation"
        statuses.append(status)
    assert statuses.count(200) > 10
    assert statuses.count(400) > 40
