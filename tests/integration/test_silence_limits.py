"""Which time limit holds for an engine's silence: an answer may begin before its first token."""

import asyncio
import json

import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from shared.errors import Transient
from shared.serving.channels import Channels
from shared.serving.engine_streams import stream_api
from shared.serving.inference import Deadlines
from shared.serving.openai_stream import ApiRequest
from shared.serving.tensors import encode_text
from tests.kit.triton_servicer import serve

LIMITS = Deadlines(first_token_s=2.0, inter_token_s=0.3)


class Scripted(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Sends records at given times, as a backend does; then nothing, or the end."""

    def __init__(self, script, *, ends):
        self._script, self._ends = script, ends

    async def ModelStreamInfer(self, request_iterator, context):  # noqa: N802, ARG002 - the name is gRPC's
        async for request in request_iterator:
            for number, (pause_s, record) in enumerate(self._script):
                await asyncio.sleep(pause_s)
                last = self._ends and number == len(self._script) - 1
                yield response(request.id, number, record, last=last)
            if not self._ends:
                await asyncio.sleep(60)


def response(request_id, number, record, *, last):
    answer = service_pb2.ModelInferResponse(id=request_id)
    row = {"id": request_id, "number": number, "record": record, "last": last, **({} if number else {"status": 200})}
    for name, text in {"http_body": "x", "http_record": json.dumps([row])}.items():
        answer.outputs.add(name=name, datatype="BYTES", shape=[1])
        answer.raw_output_contents.append(encode_text(text))
    return service_pb2.ModelStreamInferResponse(infer_response=answer)


async def ask(script, *, ends):
    """Return the counts of tokens in the pieces of an answer."""
    channels = Channels()
    request = ApiRequest("POST", "/v1/responses", b"{}", 60.0)
    async with serve(Scripted(script, ends=ends)) as (_, address):
        try:
            stream = stream_api(channels.get(address), "m.v1.bf16", request, deadlines=LIMITS)
            return [piece.record.get("output_tokens") async for piece in stream]
        finally:
            await channels.close()


async def test_events_before_the_first_token_leave_the_time_for_it():
    script = [(0.0, {"output_tokens": 0}), (0.0, {"output_tokens": 0}), (0.8, {"output_tokens": 1}), (0.0, {})]
    assert await ask(script, ends=True) == [0, 0, 1, None]


@pytest.mark.parametrize("record", [{"output_tokens": 0}, {}, {"output_tokens": "many"}])
async def test_silence_before_the_first_token_is_no_first_token_though_the_answer_has_begun(record):
    with pytest.raises(Transient) as failed:
        await ask([(0.0, record)], ends=False)
    assert (failed.value.code, failed.value.details["silent_s"]) == ("no_first_token", 2.0)


async def test_after_the_first_token_silence_is_the_death_of_an_answer():
    script = [(0.0, {"output_tokens": 0}), (0.0, {"output_tokens": 1}), (0.8, {"output_tokens": 2})]
    with pytest.raises(Transient) as failed:
        await ask(script, ends=True)
    assert (failed.value.code, failed.value.details["silent_s"]) == ("engine_dead", 0.3)
