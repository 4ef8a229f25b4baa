"""Hostile inputs made from good ones: bytes that are damaged, and JSON of which parts are exchanged."""

import copy
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.codes import ADVICE
from contracts.vocabulary import canonical_json
from shared.errors import SlipwayError
from tests.kit.soak import FUZZ_S, FUZZ_START

INPUTS = 500
"""How many inputs an entry gets in `make test`; `make fuzz` sends them for so many minutes instead."""
LIMIT_S = 10.0
"""Processor seconds that one input may take."""
LIMIT_BYTES = 400 << 20
"""What all inputs together may add to the memory of this process."""

Make = Callable[[random.Random], bytes]
Handle = Callable[[bytes], str]

TOKENS = (
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\\ud800", b"\\u0000", b"\r\n", b"\n\n"),
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"01"),
    *(b"9" * 5000, b"1" + b"0" * 30, b"18446744073709551616", b"-9223372036854775809", b"4294967296"),
    *(b"[" * 3000, b'{"a":' * 3000, b"[" * 200_000, b"(" * 2000, b'""', b"{}", b"[]", b"x" * 70_000),
    *(
        b"{{",
        b"}}",
        b"{%",
        b"%}",
        b"../",
        b"/etc/passwd",
        b"file://",
        b"__class__",
        b"\xe2\x80\xae",
        b"\xf0\x9f\x8f\xb4",
    ),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        7,
        1.5,
        -0.0,
        1e308,
        float("inf"),
        float("nan"),
        2**31,
        2**32,
        2**63,
        2**64,
        -(2**63) - 1,
    ),
    *(
        10**40,
        10**400,
        "",
        " ",
        "0",
        "1",
        "true",
        "a\x00b",
        "\ud800",
        "\u202e",
        "x" * 300,
        "x" * 70_000,
        "../../etc/passwd",
        "ẞ" * 99,
    ),
    *([], {}, [[]], [None], [1, 2, 3], {"": 0}, {"a": {"a": {"a": 1}}}, ["x"] * 2000, [[[[[[[[1]]]]]]]]),
)


@dataclass
class Outcome:
    """What became of the inputs.

    Attributes:
        counts: how many of them had each result: what the entry returned.
        inputs: how many there were.
        slowest_s: processor seconds of the slowest.
        slowest: the beginning of that input.
        grown_bytes: by how much the largest memory of the process exceeded that at the start.
    """

    counts: Counter[str] = field(default_factory=Counter)
    inputs: int = 0
    slowest_s: float = 0.0
    slowest: bytes = b""
    grown_bytes: int = 0


def attack(
    make: Make, handle: Handle, *, inputs: int = INPUTS, start: int = FUZZ_START, limit_s: float = LIMIT_S
) -> Outcome:
    """Hand an entry hostile inputs, one after another.

    Args:
        make: draws an input.
        handle: what takes it; returns a short word for what became of it (`read`, or the code of the refusal). Anything
            that it raises is a defect.
        inputs: how many, unless `make fuzz` sets a time.
        start: the first seed; the next input has the next one, so that a defect can be repeated by its seed.
        limit_s: processor seconds that one input may take.

    Raises:
        AssertionError: an input raised, took too long or too much memory; the message has its seed and its beginning.
    """
    outcome, before = Outcome(), forget_largest_memory()
    for number in _numbers(start, inputs):
        data = make(random.Random(number))
        began = time.process_time()
        try:
            result = handle(data)
        except Exception as error:
            message = f"input {number} raised {type(error).__name__}: {str(error)[:300]}; it begins {data[:300]!r}"
            raise AssertionError(message) from error
        took = time.process_time() - began
        outcome.counts[result] += 1
        outcome.inputs += 1
        if took > outcome.slowest_s:
            outcome.slowest_s, outcome.slowest = took, data[:300]
        assert took < limit_s, f"input {number} took {took:.1f} s of processor time: {data[:300]!r}"
        outcome.grown_bytes = largest_memory() - before
        assert outcome.grown_bytes < LIMIT_BYTES, (
            f"input {number}: {outcome.grown_bytes >> 20} MiB more: {data[:300]!r}"
        )
    print(
        f"{outcome.inputs} inputs, slowest {outcome.slowest_s:.3f} s, {outcome.grown_bytes >> 20} MiB more, {outcome.counts}"
    )
    return outcome


def code_of(error: SlipwayError) -> str:
    """Return the code of a refusal that says what is wrong, and fits into a fact."""
    assert error.code in ADVICE
    assert error.code != "internal_error"
    assert 0 < len(error.reason) < 5_000
    assert len(canonical_json({"reason": error.reason, "details": error.details})) < 100_000
    return error.code


def _numbers(start: int, inputs: int) -> Iterator[int]:
    if not FUZZ_S:
        yield from range(start, start + inputs)
        return
    ends, number = time.monotonic() + FUZZ_S, start
    while time.monotonic() < ends:
        yield number
        number += 1


def largest_memory() -> int:
    """Return the largest memory of this process since it was forgotten, in bytes."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def forget_largest_memory() -> int:
    """Set the largest memory of this process to what it has now; else an earlier test would hide all growth."""
    Path("/proc/self/clear_refs").write_text("5")
    return largest_memory()


def damage(draw: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Return bytes with one to four changes: bits, pieces cut out, doubled, put in, or taken from another input."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + draw.choice((1, 1, 2, 8, 64, 1000)))
        kind = draw.randrange(7)
        if kind == 0 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[end:]
        elif kind == 2:
            data = data[:end] + data[at:end] * draw.choice((1, 2, 50)) + data[end:]
        elif kind == 3:
            data = data[:at]
        elif kind == 4 and others:
            other = draw.choice(others)
            data = data[:at] + other[draw.randrange(len(other) + 1) :]
        else:
            data = data[:at] + draw.choice(TOKENS) + data[end if kind == 5 else at :]
    return data


def exchange(draw: random.Random, value: Any) -> Any:
    """Return JSON with one to three parts exchanged, removed, renamed or moved to another place."""
    whole = json.loads(json.dumps(value))
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(_places(whole))
        if not places:
            return draw.choice(VALUES)
        holder, key = draw.choice(places)
        kind = draw.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[draw.choice(("", "x", str(key) + "s", "\ud800", "__class__", "type"))] = holder.pop(key)
        elif kind == 2:
            other, place = draw.choice(places)
            try:
                holder[key] = json.loads(json.dumps(other[place]))
            except (IndexError, KeyError):
                holder[key] = None
        else:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
    return whole


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a JSON value: what holds it, and its key or index."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def hostile_json(good: Sequence[Any]) -> Make:
    """Return what draws JSON near these values: parts of one are exchanged, or its bytes are damaged, or both."""
    texts = [json.dumps(value).encode() for value in good]

    def make(draw: random.Random) -> bytes:
        value = draw.choice(good)
        kind = draw.randrange(4)
        data = json.dumps(exchange(draw, value) if kind else value, ensure_ascii=draw.random() < 0.9)
        raw = data.encode("utf-8", "surrogatepass")
        return damage(draw, raw, texts) if kind < 2 else raw

    return make
