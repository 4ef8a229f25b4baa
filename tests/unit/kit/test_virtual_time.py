"""Virtual time: hours pass in a moment, in the order of the timers, and a deadlock is said instead of waited for."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.virtual_time import NothingLeftToHappenError, run_virtual


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


def test_what_nothing_can_wake_is_said():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(NothingLeftToHappenError):
        run_virtual(main())
