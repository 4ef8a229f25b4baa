"""How streams end: what has finished is let end by itself, only what is abandoned is cancelled (a cancel can crash Triton)."""

import asyncio

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from shared.errors import SlipwayError
from shared.serving.inference import Deadlines, first_token, generate
from shared.serving.tensors import encode_text
from tests.kit.triton_servicer import serve

NAME = "bot.v1.bf16"


class Streams(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers as Triton does, and notes for each stream whether it ended or was cancelled."""

    def __init__(self) -> None:
        self.how = "answers"
        self.ends: list[str] = []
        self.ended = asyncio.Event()

    def piece(self, text: str, reason: str, *, final: bool = False):
        response = service_pb2.ModelInferResponse(model_name=NAME)
        for name, value in (("text_output", text), ("finish_reason", reason)):
            response.outputs.add(name=name, datatype="BYTES", shape=[1])
            response.raw_output_contents.append(encode_text(value))
        response.parameters["triton_final_response"].bool_param = final
        return service_pb2.ModelStreamInferResponse(infer_response=response)

    async def ModelStreamInfer(self, requests, context):  # noqa: N802, ARG002 - Triton's name
        try:
            async for _ in requests:
                if self.how == "refuses":
                    yield service_pb2.ModelStreamInferResponse(error_message="Request for unknown model: not found")
                    continue
                for text in ("keel", " hull"):
                    yield self.piece(text, "")
                    await asyncio.sleep(0.02)
                yield self.piece(" mast", "stop")
                if self.how == "answers":
                    yield self.piece("", "stop", final=True)
            if self.how == "stays open":
                await asyncio.sleep(60)  # a server that is silent
            self.ends.append("ended")
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        finally:
            self.ended.set()


@pytest.fixture
async def triton():
    streams = Streams()
    async with serve(streams) as (_, address), grpc.aio.insecure_channel(address) as channel:
        streams.channel = channel
        yield streams


async def how_it_ended(triton) -> str:
    await asyncio.wait_for(triton.ended.wait(), 10)
    async with asyncio.timeout(60):
        while not triton.ends:
            await asyncio.sleep(0.05)
    return triton.ends[0]


async def test_an_answer_that_has_finished_is_not_cancelled(triton):
    texts = [delta.text async for delta in generate(triton.channel, NAME, "hello", {})]
    assert texts == ["keel", " hull", " mast"]
    assert await how_it_ended(triton) == "ended"


async def test_a_reader_that_stops_at_the_finish_reason_cancels_nothing(triton):
    stream = generate(triton.channel, NAME, "hello", {})
    async for delta in stream:
        if delta.finish_reason:
            break
    await stream.aclose()
    assert await how_it_ended(triton) == "ended"


async def test_an_answer_that_is_an_error_is_not_cancelled(triton):
    triton.how = "refuses"
    with pytest.raises(SlipwayError):
        [delta async for delta in generate(triton.channel, NAME, "hello", {})]
    assert await how_it_ended(triton) == "ended"


async def test_a_probe_returns_at_the_first_text_and_cancels_nothing(triton):
    assert await first_token(triton.channel, NAME) == "keel"
    assert triton.ends == []
    assert await how_it_ended(triton) == "ended"


async def test_what_is_abandoned_is_cancelled(triton):
    stream = generate(triton.channel, NAME, "hello", {})
    await anext(stream)
    await stream.aclose()
    assert await how_it_ended(triton) == "cancelled"


async def test_a_server_that_never_ends_the_stream_is_not_waited_for(triton):
    triton.how = "stays open"
    async with asyncio.timeout(5):
        texts = [delta.text async for delta in generate(triton.channel, NAME, "hello", {}, deadlines=Deadlines(5, 5))]
    assert texts == ["keel", " hull", " mast"]
    assert await how_it_ended(triton) == "cancelled"
