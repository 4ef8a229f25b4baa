"""Answers of an engine."""

import struct

from tritonclient.grpc import service_pb2

RECORD = {
    "prompt_tokens": 9,
    "output_tokens": 3,
    "texts": [["0", "a b"]],
    "finish_reasons": {"0": "stop"},
    "queue_ms": 1.5,
    "logprob_mean": -0.2,
    "nan_logits": False,
}


FAILED = {"error": {"class": "TemplateError", "source": "template"}, "output_tokens": 1}


ROWS = [
    {"id": "r1", "number": 0, "status": 200, "headers": [["content-type", "text/event-stream"]], "record": RECORD},
    {"id": "r2", "number": 4, "record": FAILED, "last": True},
]


def tensor(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def response(**tensors: bytes) -> service_pb2.ModelInferResponse:
    built = service_pb2.ModelInferResponse(id="r1")
    for name, raw in tensors.items():
        built.outputs.add(name=name, datatype="BYTES", shape=[1])
        built.raw_output_contents.append(raw)
    return built
