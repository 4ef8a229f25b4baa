"""The wire format of tensors, and what errors mean."""

import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Permanent, Transient
from shared.serving import inference, tensors
from shared.serving.tensors import Delta

UTF8 = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@given(UTF8)
def test_text_comes_back_as_it_was(text):
    assert tensors.decode_text(tensors.encode_text(text)) == text


def test_text_is_as_triton_reads_it():
    from tritonclient.utils import deserialize_bytes_tensor

    assert deserialize_bytes_tensor(tensors.encode_text("Grüße"))[0].decode() == "Grüße"


def test_an_empty_tensor_is_empty_text():
    assert tensors.decode_text(b"") == ""


def response(**values):
    raw = {
        name: tensors.encode_text(value) if isinstance(value, str) else struct.pack("<I", value)
        for name, value in values.items()
    }
    outputs = [SimpleNamespace(name=name) for name in raw]
    return SimpleNamespace(outputs=outputs, raw_output_contents=list(raw.values()))


def test_a_piece():
    delta = tensors.read_delta(response(text_output="hi", finish_reason="", num_input_tokens=5, num_output_tokens=2))
    assert delta == Delta("hi", None, 5, 2)


def test_a_last_piece():
    delta = tensors.read_delta(response(finish_reason="stop", text_output="", num_output_tokens=1))
    assert delta == Delta("", "stop", 0, 1)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        ("[-0.25]", (-0.25,)),
        ("[-1.0, -3]", (-1.0, -3.0)),
        ('[{"7": -1.0}]', ()),
        ("null", ()),
        ("", ()),
        ("not json", ()),
    ],
    ids=["one token", "two tokens", "another form", "null", "empty", "no json"],
)
def test_log_probabilities_of_a_piece(tensor, expected):
    assert tensors.read_delta(response(text_output="hi", logprobs=tensor)).logprobs == expected


def test_the_final_flag_alone_is_no_piece():
    assert tensors.read_delta(response()) is None


@pytest.mark.parametrize(
    ("message", "kind", "code"),
    [
        ("bad_request: max_tokens must be at least 1", Permanent, "bad_request"),
        ("engine_dead: the engine is dead", Transient, "engine_dead"),
        ("Error generating stream: EngineDeadError: gone", Transient, "engine_dead"),
        ("Request for unknown model: 'm.v1.int8' is not found", Transient, "endpoint_unreachable"),
        ("Stub process 'm.v1.int8_0_0' is not healthy.", Transient, "engine_dead"),
        ("anything else", Transient, "engine_failed"),
        # Where the code is there, the words after it decide nothing: they may be the caller's.
        ("engine_failed: KeyError: 'tool' not found", Transient, "engine_failed"),
        ("engine_failed: ValueError: unknown model of 'stubborn' is not ready", Transient, "engine_failed"),
        ("engine_failed: RuntimeError: EngineDeadError in a prompt", Transient, "engine_failed"),
    ],
)
def test_errors_of_the_engine(message, kind, code):
    classified = inference.classify_engine_error(message, "m.v1.int8")
    assert (type(classified), classified.code) == (kind, code)
    assert ("not_loaded" in classified.details) == (code == "endpoint_unreachable")


@pytest.mark.parametrize(("begun", "code", "silent_s"), [(False, "no_first_token", 6.0), (True, "engine_dead", 2.0)])
def test_silence_says_how_long_it_was_and_a_reported_death_does_not(begun, code, silent_s):
    classified = inference.silence_error("m.v1.int8", inference.Deadlines(6.0, 2.0), has_started=begun)
    assert (classified.code, classified.details["silent_s"]) == (code, silent_s)
    assert "silent_s" not in inference.classify_engine_error("engine_dead: gone", "m.v1.int8").details


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        ("UNAVAILABLE", Transient, "endpoint_unreachable"),
        ("CANCELLED", Transient, "endpoint_unreachable"),
        ("INVALID_ARGUMENT", Permanent, "bad_request"),
        ("INTERNAL", Transient, "engine_failed"),
        ("RESOURCE_EXHAUSTED", Transient, "engine_failed"),
    ],
)
def test_errors_of_the_call(status, kind, code):
    error = SimpleNamespace(code=lambda: SimpleNamespace(name=status), details=lambda: "why")
    classified = inference.classify_rpc_error(error, "m.v1.int8")
    assert (type(classified), classified.code) == (kind, code)
