"""What the attack on an entry finds: inputs that raise, and memory, whatever the process took before."""

import random

import pytest

from tests.kit.mutation import LIMIT_BYTES, attack


def draw(_: random.Random) -> bytes:
    return b"x"


def fill(size: int) -> str:
    """Take memory and give it back."""
    filled = bytearray(size)
    filled[::4096] = b"x" * len(filled[::4096])
    return "read"


def test_an_input_that_raises_is_a_defect_with_its_number():
    def take(_data: bytes) -> str:
        raise KeyError("x")

    with pytest.raises(AssertionError, match="input 3 raised KeyError"):
        attack(draw, take, inputs=1, start=3)


def test_memory_that_a_process_took_before_hides_none():
    fill(2 * LIMIT_BYTES)
    with pytest.raises(AssertionError, match="MiB more"):
        attack(draw, lambda _: fill(LIMIT_BYTES + (64 << 20)), inputs=1)
    assert attack(draw, lambda _: fill(1 << 20), inputs=1).grown_bytes < LIMIT_BYTES
