"""What every engine does, fake or real: inherited by one test class for each."""

import pytest

from contracts.vocabulary import Target
from shared.errors import Permanent, Transient

LOADED = Target(model="toy", version=1, variant="bf16")
ABSENT = Target(model="toy", version=99, variant="bf16")


class EngineConformance:
    """Return the fixtures `engine` and `endpoint`; the target LOADED answers there, ABSENT does not."""

    async def test_streams_pieces_and_ends_with_a_reason(self, engine, endpoint):
        stream = engine.generate(endpoint, LOADED, "one two three", {"max_tokens": 4}, "r-1")
        deltas = [delta async for delta in stream]
        assert [delta.finish_reason for delta in deltas] == [None, None, None, "length"]
        assert sum(delta.output_tokens for delta in deltas) == 4
        assert {delta.input_tokens for delta in deltas} == {3}
        assert all(delta.text for delta in deltas)

    async def test_a_target_that_is_not_loaded_is_transient(self, engine, endpoint):
        with pytest.raises(Transient) as caught:
            await anext(engine.generate(endpoint, ABSENT, "x", {"max_tokens": 4}, "r-2"))
        assert caught.value.code == "endpoint_unreachable"

    async def test_parameters_that_cannot_be_are_permanent(self, engine, endpoint):
        with pytest.raises(Permanent) as caught:
            await anext(engine.generate(endpoint, LOADED, "x", {"max_tokens": "many"}, "r-3"))
        assert caught.value.code == "bad_request"

    async def test_a_text_that_utf8_cannot_hold_is_permanent(self, engine, endpoint):
        with pytest.raises(Permanent) as caught:
            await anext(engine.generate(endpoint, LOADED, "x\ud800", {"max_tokens": 4}, "r-6"))
        assert caught.value.code == "bad_request"

    async def test_a_stream_can_be_left_and_the_next_one_works(self, engine, endpoint):
        stream = engine.generate(endpoint, LOADED, "x", {"max_tokens": 1000}, "r-4")
        assert (await anext(stream)).text
        await stream.aclose()
        after = [delta async for delta in engine.generate(endpoint, LOADED, "x", {"max_tokens": 2}, "r-5")]
        assert len(after) == 2

    async def test_waiting_for_a_connected_endpoint_ends(self, engine, endpoint):
        await engine.await_reconnect(endpoint)
