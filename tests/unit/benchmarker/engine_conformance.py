"""What the benchmarker relies on in an engine: run on the fake and on the real Triton."""

import asyncio
import contextlib
import json

import pytest

from contracts.routes import ServedTarget
from services.benchmarker.ports import Engine
from shared.errors import SlipwayError

TOKEN_NLL = 1.25


class EngineConformance:
    """Subclasses say how to run a coroutine, and give an engine, a target that answers and one that does not exist."""

    def run(self, main):
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def engine(self):
        raise NotImplementedError
        yield

    def answering(self) -> ServedTarget:
        raise NotImplementedError

    def absent(self) -> ServedTarget:
        raise NotImplementedError

    def test_streams_the_tokens_asked_for_in_pieces_that_add_up(self):
        async def main():
            async with self.engine() as engine:
                return [piece async for piece in self._stream(engine, self.answering(), tokens=7)]

        pieces = self.run(main())
        assert sum(piece.output_tokens for piece in pieces) == 7
        assert sum(bool(piece.text) for piece in pieces) >= 2
        assert pieces[-1].finish_reason == "length"
        assert max(piece.input_tokens for piece in pieces) > 0

    def test_a_request_with_a_cache_salt_of_its_own_is_answered(self):
        async def main():
            async with self.engine() as engine:
                stream = engine.stream(
                    self.answering(), "Hello.", output_tokens=3, timeout_s=20.0, number=0, cache_salt="only this"
                )
                return [piece async for piece in stream]

        assert sum(piece.output_tokens for piece in self.run(main())) == 3

    def test_a_target_that_is_not_there_is_unreachable(self):
        async def main():
            async with self.engine() as engine:
                with pytest.raises(SlipwayError) as caught:
                    async for _ in self._stream(engine, self.absent(), tokens=3):
                        pass
                return caught.value.code

        assert self.run(main()) == "endpoint_unreachable"

    def test_many_answers_stream_at_once(self):
        async def collect(engine, number):
            return sum([piece.output_tokens async for piece in self._stream(engine, self.answering(), number=number)])

        async def main():
            async with self.engine() as engine:
                return await asyncio.gather(*(collect(engine, number) for number in range(8)))

        assert self.run(main()) == [5] * 8

    def test_an_answer_may_be_left_early_and_the_next_one_comes(self):
        async def main():
            async with self.engine() as engine:
                async with contextlib.aclosing(self._stream(engine, self.answering(), tokens=50)) as stream:
                    first = await anext(stream)
                return first, [piece async for piece in self._stream(engine, self.answering(), tokens=3)]

        first, following = self.run(main())
        assert first.text
        assert sum(piece.output_tokens for piece in following) == 3

    def test_connections_to_former_targets_may_be_let_go_of(self):
        async def main():
            async with self.engine() as engine:
                await engine.retire([])
                return [piece async for piece in self._stream(engine, self.answering(), tokens=2)]

        assert self.run(main())

    def test_generated_tokens_carry_their_log_probabilities_when_asked_for(self):
        async def main():
            async with self.engine() as engine:
                with_them = [piece async for piece in self._stream(engine, self.answering(), tokens=3, logprobs=True)]
                return with_them, [piece async for piece in self._stream(engine, self.answering(), tokens=3)]

        with_them, without = self.run(main())
        assert [len(piece.logprobs) for piece in with_them if piece.output_tokens] == [1, 1, 1]
        assert all(logprob < 0 for piece in with_them for logprob in piece.logprobs)
        assert not any(piece.logprobs for piece in without)

    def test_the_api_answers_a_request_as_a_whole(self):
        async def main():
            body = {"model": "bot", "max_tokens": 2, "messages": [{"role": "user", "content": "Say something."}]}
            async with self.engine() as engine:
                answer = await engine.ask_api(self.answering(), "/v1/chat/completions", body, timeout_s=20.0)
                with pytest.raises(SlipwayError) as caught:
                    await engine.ask_api(self.absent(), "/v1/chat/completions", body, timeout_s=20.0)
                return answer, caught.value.code

        answer, code = self.run(main())
        assert answer.status == 200, answer.body
        assert "message" in json.loads(answer.body)["choices"][0]
        assert code == "endpoint_unreachable"

    def _stream(
        self, engine: Engine, served: ServedTarget, *, tokens: int = 5, number: int = 0, logprobs: bool = False
    ):
        return engine.stream(
            served, "Say something.", output_tokens=tokens, timeout_s=20.0, number=number, logprobs=logprobs
        )


class ScoringConformance(EngineConformance):
    """As well of an engine that scores prompts: each token costs `TOKEN_NLL` nats at the target that answers."""

    def test_a_prompt_is_scored_token_by_token(self):
        async def main():
            async with self.engine() as engine:
                assert await engine.can_score(self.answering(), timeout_s=20.0)
                return await engine.score(self.answering(), [7, 1, 4, 4, 9], timeout_s=20.0)

        assert self.run(main()) == pytest.approx([-TOKEN_NLL] * 4)

    def test_a_target_that_is_not_there_cannot_be_asked_whether_it_scores(self):
        async def main():
            async with self.engine() as engine:
                with pytest.raises(SlipwayError):
                    await engine.can_score(self.absent(), timeout_s=20.0)

        self.run(main())
