"""Hostile answers of an endpoint: tensors that lie, records that are none, streams that are no stream."""

import json
import random
import struct

from tritonclient.grpc import service_pb2

from services.gateway.domain.drills import AlteredBody
from services.gateway.domain.records import EngineRecord, read_failure, read_message, read_record
from shared.serving.openai_stream import read_pieces
from shared.serving.tensors import encode_text, read_delta
from tests.kit.mutation import attack, damage, hostile_json
from tests.unit.fuzz.engine_answers import FAILED, RECORD, ROWS, response, tensor

BODIES = (b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n', b'{"error": {"message": "no", "code": 400}}')
LOGPROBS = [-0.25, -2.0, -3]


def check_record(record: EngineRecord) -> None:
    """Check that everything in a record can be counted, measured and reported."""
    assert 0 <= record.input_tokens < 2**53
    assert 0 <= record.output_tokens < 2**53
    for number in (record.queue_ms, record.logprob_mean):
        assert number is None or json.loads(json.dumps(number, allow_nan=False)) == number
    read_failure(200, record, b"")


def test_hostile_frames_are_read_or_refused_whole():
    draw_rows, good = hostile_json([ROWS]), tensor(*BODIES)

    def draw(random_: random.Random) -> bytes:
        body = good if random_.randrange(4) else damage(random_, good)
        return response(http_record=tensor(draw_rows(random_)), http_body=body).SerializeToString()

    def take(data: bytes) -> str:
        message = service_pb2.ModelInferResponse.FromString(data)
        try:
            parts = read_pieces(message)
        except ValueError:
            return "refused"
        for part in parts:
            assert part.piece.status is None or type(part.piece.status) is int
            record = read_record(part.piece.record)
            check_record(record)
            read_failure(part.piece.status, record, part.piece.body)
        return "read"

    outcome = attack(draw, take, inputs=2_000)
    assert min(outcome.counts["read"], outcome.counts["refused"]) > 100


def test_hostile_records_are_read_without_trust():
    def take(data: bytes) -> str:
        try:
            raw = json.loads(data)
        except (ValueError, RecursionError):
            return "no record"
        record = read_record(raw)
        check_record(record)
        return "failure" if record.error else "read"

    outcome = attack(hostile_json([RECORD, FAILED]), take, inputs=2_000)
    assert min(outcome.counts["read"], outcome.counts["failure"]) > 100


def test_hostile_text_tensors_are_read_or_refused():
    draw_logprobs = hostile_json([LOGPROBS])

    def draw(random_: random.Random) -> bytes:
        texts = {"text_output": encode_text("hello"), "num_output_tokens": struct.pack("<I", 3)}
        name = random_.choice(list(texts))
        texts[name] = damage(random_, texts[name])
        return response(**texts, logprobs=tensor(draw_logprobs(random_))).SerializeToString()

    def take(data: bytes) -> str:
        delta = read_delta(service_pb2.ModelInferResponse.FromString(data))
        assert delta is not None
        return "read" if delta.logprobs else "no log-probabilities"

    attack(draw, take, inputs=1_000)


def test_hostile_bodies_of_an_engine_are_no_message_or_one():
    def take(data: bytes) -> str:
        message = read_message(data)
        altered = AlteredBody(stream=data.startswith(b"data"))
        altered.feed(data, "x")
        return "message" if message else "none"

    draw_error = hostile_json([{"error": {"message": "no", "type": "BadRequestError", "code": 400}}])
    outcome = attack(lambda random_: random_.choice((b"data: ", b"")) + draw_error(random_), take, inputs=1_000)
    assert min(outcome.counts.values()) > 20
