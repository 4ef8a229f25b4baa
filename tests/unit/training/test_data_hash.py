"""The hash of training data does not depend on what does not change the data."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.training import data_hash

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('aé\n"', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.text("abc", max_size=3), VALUES, max_size=4), max_size=5)


@given(ROWS)
def test_the_order_of_keys_does_not_count_and_that_of_rows_does(rows):
    turned = [dict(reversed(row.items())) for row in rows]
    assert data_hash(rows) == data_hash(iter(turned)) == data_hash(tuple(rows))
    if rows != rows[::-1]:
        assert data_hash(rows) != data_hash(rows[::-1])
    assert data_hash([*rows, {}]) != data_hash(rows)


def test_the_algorithm_is_the_documented_one():
    row = hashlib.sha256('{"a":[1,2.5],"b":"é"}'.encode()).digest()
    expected = hashlib.sha256(b"slipway-data-1\n" + row).hexdigest()
    assert data_hash([{"b": "é", "a": (1, 2.5)}]) == f"sha256:{expected}"


def test_files_count_by_their_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"x" * 3_000_000)
    assert data_hash([tmp_path / "one"]) == data_hash([tmp_path / "two"])


class Indexed:
    """A dataset without an iterator, as those of torch."""

    def __getitem__(self, index):
        return [{"a": 1}, {"a": 2}][index]


def test_rows_may_come_from_any_sequence():
    assert data_hash(Indexed()) == data_hash([{"a": 1}, {"a": 2}])


class Frame:
    """Iterates over the names of its columns, as a DataFrame does."""

    def __iter__(self):
        return iter(["prompt", "answer"])


@pytest.mark.parametrize(
    "data",
    [["train.jsonl"], "train.jsonl", Path("train.jsonl"), b"rows", {"train": [{"a": 1}]}, Frame(), [[1, 2]], [None], 7],
)
def test_what_is_neither_rows_nor_files_is_refused(data):
    """Else the hash would be that of names, whatever the data is."""
    with pytest.raises(ValueError, match=r"data_hash takes rows \(mappings\) or paths .*: pass "):
        data_hash(data)


@pytest.mark.parametrize("value", [float("nan"), object(), {1: "x"}])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(ValueError):  # noqa: PT011 - the text is json's own for NaN
        data_hash([{"a": value}])
