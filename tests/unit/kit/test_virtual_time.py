"""Virtual time: hours pass in a moment, in the order of the timers, and a deadlock is said instead of waited for."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.virtual_time import START, NothingLeftToHappenError, VirtualClock, run_virtual, virtual_time


@virtual_time
async def test_hours_pass_in_a_moment():
    clock, began = VirtualClock(), time.monotonic()
    await asyncio.sleep(36_000)
    assert clock.monotonic() == 36_000
    assert (clock.now() - START).total_seconds() == 36_000
    assert time.monotonic() - began < 5


@given(st.lists(st.floats(0.001, 1e6), max_size=20))
def test_timers_fire_in_their_order(delays):
    fired = []

    async def wait(delay):
        await asyncio.sleep(delay)
        fired.append((asyncio.get_running_loop().time(), delay))

    async def main():
        await asyncio.gather(*map(wait, delays))

    run_virtual(main())
    assert [delay for _, delay in fired] == sorted(delays)
    assert all(at == pytest.approx(delay) for at, delay in fired)


@virtual_time
async def test_a_timeout_ends_what_hangs():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(600):
            await asyncio.Event().wait()
    assert asyncio.get_running_loop().time() == pytest.approx(600)


def test_what_nothing_can_wake_is_said():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(NothingLeftToHappenError):
        run_virtual(main())


@virtual_time
async def test_a_wall_clock_jumps_and_the_monotonic_one_does_not():
    clock = VirtualClock()
    clock.jump(-3600)
    await asyncio.sleep(1)
    assert (clock.now() - START).total_seconds() == -3599
    assert clock.monotonic() == 1
    assert (clock.true_time() - START).total_seconds() == 1
