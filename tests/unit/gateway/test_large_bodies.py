"""How much work a body may cost: what has too many values is refused before it is parsed, whatever its shape."""

import json
import sys

import pytest

from decisions.json_values import MAX_VALUES
from services.gateway.domain import json_body
from services.gateway.domain.errors import RequestRejected
from tests.unit.gateway.world import World, only_active

SIZE = 4 * 2**20


def fill(chunk, start=b'{"a":[', end=b""):
    return start + chunk * ((SIZE - len(start) - len(end)) // len(chunk)) + end


def steps(raw):
    """Parse a body; return how many functions were called for it, and the refusal if there was one."""
    calls = 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    refusal = None
    sys.setprofile(count)
    try:
        json_body.parse_body(raw)
    except RequestRejected as rejected:
        refusal = rejected.problem.message
    finally:
        sys.setprofile(None)
    return calls, refusal


@pytest.mark.parametrize(
    "raw",
    [
        fill(b"{},"),
        fill(b"[],"),
        fill(b"1,"),
        fill(b"1.5,"),
        fill(b'"",'),
        fill(b'{"a":1},'),
        fill(b"[[],[]],"),
        fill(b"["),
        fill(b'"a":1,', b"{"),
        fill(b'{"a":', b""),
        fill(b"\n{ } ,"),
        fill(b"null,"),
        fill(b'"\\\\",{},'),
        fill(b'"\\"",{},'),
        fill(b"{},", b'{"a":"' + b"\\" * 65_530 + b'","b":['),
        fill(b"{},", b'{"a":"' + b"\\" * 65_531 + b'"","b":['),
        fill(b'{"a":1},', b"[", b"1]"),
        fill(b",", b"["),
    ],
)
def test_too_many_values_are_refused_before_the_body_is_parsed(raw):
    """Nothing of these would be JSON in the end, so the refusal shows that none was read."""
    calls, refusal = steps(raw)
    assert refusal == f"The body has more than {MAX_VALUES} values."
    assert calls < 2_000


@pytest.mark.parametrize(
    "text",
    [
        '",[{' * 100_000,
        "\\" * 65_535 + ",[{" * 100_000,
        ('\\"' + ',[{"' * 9) * 20_000,
        "é,[" * 200_000,
        '\\\\",' * 400_000,
    ],
)
def test_a_text_with_many_commas_passes_in_few_steps(text):
    for offset in range(3):
        raw = json.dumps({"prompt": "x" * offset + text}, ensure_ascii=False).encode()
        assert steps(raw)[1] is None
        assert steps(raw)[0] < 2_000


@pytest.mark.parametrize("number", [b"1", b"0.1", b"1e-1"])
def test_a_number_as_long_as_the_body_may_be_costs_no_steps(number):
    assert steps(fill(b"1", b'{"a":' + number, b"}"))[0] < 100


def test_the_largest_body_that_is_taken_costs_a_bounded_number_of_steps():
    keys = ",".join(f'"k{number}":1' for number in range(MAX_VALUES - 1))
    assert steps(f"{{{keys}}}".encode())[1] is None
    assert steps(f'{{{keys},"one":1}}'.encode())[1] == f"The body has more than {MAX_VALUES} values."
    assert steps(f"{{{keys}}}".encode())[0] < 10 * MAX_VALUES


async def test_a_large_body_is_refused_and_served_as_a_small_one():
    world = World(only_active(), max_body_bytes=SIZE)
    answer = await world.http.post("/v1/completions", content=fill(b"{},", b'{"prompt":['))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    answer = await world.complete(prompt="a, " * 30_000)
    assert answer.status_code == 200
