"""What every engine does, fake or real: inherited by one test class for each."""

import json

import pytest

from contracts.vocabulary import Target
from shared.errors import Transient
from shared.serving.openai_stream import ApiRequest

LOADED = Target(model="toy", version=1, variant="bf16")
ABSENT = Target(model="toy", version=99, variant="bf16")


def request(number, **changes):
    body = {"model": "toy", "prompt": "one two three", "max_tokens": 4, **changes}
    return ApiRequest("POST", "/v1/completions", json.dumps(body).encode(), 30.0, f"r-{number}", "toy@v1")


def last(records, name):
    return [record[name] for record in records if name in record][-1]


class EngineConformance:
    """Needs the fixtures `engine` and `endpoint`; the target LOADED answers there, ABSENT does not.

    And `refusing`, an endpoint that refuses connections, and `silent`, one that takes them and answers nothing.
    """

    @pytest.mark.parametrize("stream", [False, True])
    async def test_an_answer_comes_with_its_records(self, engine, endpoint, stream):
        pieces = [piece async for piece in engine.send(endpoint, LOADED, request(1, stream=stream))]
        records = [piece.record for piece in pieces]
        assert next(piece.status for piece in pieces if piece.body) == 200
        assert [piece.status for piece in pieces].count(200) == 1
        assert (last(records, "output_tokens"), last(records, "prompt_tokens")) == (4, 3)
        assert last(records, "finish_reasons") == {"0.0": "length"}
        text = "".join(text for record in records for _, text in record.get("texts", ()))
        body = b"".join(piece.body for piece in pieces)
        if stream:
            events = [event.removeprefix(b"data: ") for event in body.split(b"\n\n") if event]
            assert events.pop() == b"[DONE]"
            answers = [json.loads(event) for event in events]
        else:
            answers = [json.loads(body)]
        assert "".join(answer["choices"][0]["text"] for answer in answers if answer["choices"]) == text
        assert len(text.split()) == 4
        assert {answer["model"] for answer in answers} == {"toy@v1"}

    async def test_an_answer_that_is_not_streamed_reports_its_first_token_before_its_bytes(self, engine, endpoint):
        first = await anext(stream := engine.send(endpoint, LOADED, request(2)))
        assert (first.status, first.body, first.record["output_tokens"]) == (None, b"", 1)
        await stream.aclose()

    async def test_a_target_that_is_not_loaded_is_transient(self, engine, endpoint):
        with pytest.raises(Transient) as caught:
            await anext(engine.send(endpoint, ABSENT, request(3)))
        assert caught.value.code == "endpoint_unreachable"

    async def test_a_stream_can_be_left_and_the_next_one_works(self, engine, endpoint):
        stream = engine.send(endpoint, LOADED, request(4, max_tokens=1000, stream=True))
        assert (await anext(stream)).body
        await stream.aclose()
        after = [piece async for piece in engine.send(endpoint, LOADED, request(5, max_tokens=2))]
        assert after[-1].record["output_tokens"] == 2

    async def test_waiting_for_a_connected_endpoint_ends(self, engine, endpoint):
        await engine.await_reconnect(endpoint)

    async def test_an_answer_that_is_under_way_goes_on_though_no_route_names_its_endpoint_any_more(
        self, engine, endpoint
    ):
        stream = engine.send(endpoint, LOADED, request(6, max_tokens=20, stream=True))
        assert (await anext(stream)).body
        await engine.keep_only(())
        assert [piece async for piece in stream][-1].record["output_tokens"] == 20
        after = [piece async for piece in engine.send(endpoint, LOADED, request(7, max_tokens=2))]
        assert after[-1].record["output_tokens"] == 2

    async def test_a_server_that_is_there_is_live_and_one_that_is_not_is_not(self, engine, endpoint, refusing):
        assert await engine.is_live(endpoint, 5.0) is True
        assert await engine.is_live(refusing, 5.0) is False

    async def test_a_server_that_takes_connections_and_answers_nothing_is_silent(self, engine, silent):
        assert await engine.is_live(silent, 0.2) is None
