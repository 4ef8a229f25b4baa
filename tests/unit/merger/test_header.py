"""Headers of safetensors files that lie: refused with a reason, never an exception, and before a library reads them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from services.merger.adapters import safetensors_header, tensors
from services.merger.domain import FLOATING_DTYPES, checks
from tests.kit.weights import OneFile


def read(header: bytes, body: bytes = b""):
    data = len(header).to_bytes(8, "little") + header + body
    return safetensors_header.read_weights(OneFile(data), "model.safetensors"), data


def entry(**changes) -> bytes:
    whole = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]} | changes
    return json.dumps({"t": whole}).encode()


def test_a_plain_header_is_read():
    parsed, _ = read(b'{"__metadata__":{"format":"pt"},"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x")
    assert (parsed.problem, parsed.tensors["t"].shape) == (None, (1,))


@pytest.mark.parametrize(
    "header",
    [
        entry(shape=[float("inf")]),
        entry().replace(b"[1]", b"[1e999]"),
        entry(shape=[True]),
        entry(shape=[-1], data_offsets=[0, -1]),
        entry(shape=[2**32, 2**32, 0], data_offsets=[0, 0]),
        entry(shape=[2**63, 0], data_offsets=[0, 0]),
        entry(data_offsets=[0.0, 1.0]),
        entry(data_offsets=[False, True]),
        entry(data_offsets=[0, 1, 2]),
        entry(dtype=["U8"]),
        entry(dtype="F6_E2M3"),
        b"[" * 200_000,
        b"[1]",
        b'{"__metadata__":{"step":7}}',
        b'{"__metadata__":[]}',
        b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        json.dumps({"n" * 2000: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode(),
        entry().decode().encode("utf-16"),
    ],
    ids=lambda header: header[:60].decode("latin1"),
)
def test_a_header_that_lies_is_a_problem_with_a_reason(header):
    parsed, _ = read(header, b"x")
    assert parsed.problem
    assert not parsed.tensors
    parsed.problem.encode()


@pytest.mark.parametrize("size", [0, 7, 8])
def test_a_file_that_ends_before_its_header_is_a_problem(size):
    assert safetensors_header.read_weights(OneFile(bytes(size)), "model.safetensors").problem


NUMBERS = st.one_of(st.integers(-1, 4), st.booleans(), st.floats(), st.none(), st.just(2**63), st.text(max_size=1))
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "BF16", "F4", "U64", "NOPE", 3]),
        "shape": st.lists(NUMBERS, max_size=3),
        "data_offsets": st.lists(st.one_of(st.integers(0, 8), NUMBERS), min_size=1, max_size=3),
    }
)
METADATA = st.dictionaries(st.text(max_size=2), st.one_of(st.text(max_size=2), NUMBERS), max_size=2)


@given(
    header=st.dictionaries(st.text(max_size=2), ENTRIES, max_size=2),
    metadata=st.one_of(st.none(), METADATA),
    body=st.binary(max_size=8),
)
def test_what_passes_here_the_safetensors_library_reads_too(tmp_path_factory, header, metadata, body):
    text = json.dumps(header if metadata is None else {"__metadata__": metadata, **header}).encode()
    parsed, data = read(text, body)
    if parsed.problem is None:
        path: Path = tmp_path_factory.mktemp("header") / "model.safetensors"
        path.write_bytes(data)
        with safe_open(str(path), framework="pt") as opened:
            assert set(opened.keys()) == parsed.tensors.keys()


def test_every_dtype_that_a_header_may_name_is_refused_or_can_be_read():
    readable = safetensors_header.BITS.keys() - checks.INTEGER_DTYPES
    assert readable == FLOATING_DTYPES | {"BOOL", "I64"}
    assert readable <= tensors.DTYPES.keys()
    assert safetensors_header.BITS.keys() >= checks.INTEGER_DTYPES
    assert {name for name in readable if tensors.DTYPES[name].is_floating_point} == FLOATING_DTYPES
