"""The one background loop: one rule for failures, in virtual time."""

import asyncio

import pytest
import structlog

from shared.errors import Transient
from shared.runtime.sweeper import Sweeper
from tests.kit.virtual_time import run_virtual


def now_s():
    return round(asyncio.get_running_loop().time(), 1)


async def listed(*items):
    return items


def test_every_item_is_swept_again_and_again_and_a_failure_stops_neither_others_nor_the_loop():
    async def play():
        done = []

        async def do(item):
            if item == "bad":
                raise errors.pop(0)
            done.append(item)

        errors = [Transient("bus_unavailable", "Gone."), ValueError("a defect"), OSError(28, "No space left")]
        sweeper = Sweeper("things", lambda: listed("a", "bad", "b"), do, every_s=1.0)
        with structlog.testing.capture_logs() as logs:
            running = asyncio.create_task(sweeper.run())
            await asyncio.sleep(2.5)
            running.cancel()
        assert done == ["a", "b"] * 3
        assert [(log["item"], log.get("code"), log["log_level"]) for log in logs] == [
            ("bad", "bus_unavailable", "warning"),
            ("bad", None, "error"),
            ("bad", "disk_full", "warning"),
        ]

    run_virtual(play())


def test_an_item_that_hangs_is_given_up_and_the_others_go_on():
    async def play():
        started, done = now_s(), []

        async def do(item):
            if item == "hangs":
                await asyncio.Event().wait()
            done.append((item, now_s() - started))

        assert await Sweeper("things", lambda: listed("hangs", "b"), do, every_s=1.0, item_limit_s=30.0).sweep() == 1
        assert done == [("b", pytest.approx(30.0, abs=0.2))]

    run_virtual(play())


def test_a_sweep_that_cannot_list_its_items_is_tried_again():
    async def play():
        answers, done = [Transient("bus_unavailable", "Gone."), RuntimeError("a defect"), ["a"]], []

        async def items():
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        async def do(item):
            done.append(item)

        running = asyncio.create_task(Sweeper("things", items, do, every_s=1.0).run())
        await asyncio.sleep(2.5)
        running.cancel()
        assert done == ["a"]

    run_virtual(play())


def test_the_first_sweep_comes_when_it_is_due_and_a_wake_brings_the_next_one_forward():
    async def play():
        started, swept = now_s(), []

        async def do(_item):
            swept.append(now_s() - started)

        sweeper = Sweeper("things", lambda: listed("a"), do, every_s=60.0, first_after_s=10.0)
        running = asyncio.create_task(sweeper.run())
        await asyncio.sleep(15.0)
        sweeper.wake()
        await asyncio.sleep(70.0)
        running.cancel()
        assert swept == [pytest.approx(at, abs=0.2) for at in (10.0, 15.0, 75.0)]

    run_virtual(play())


def test_cancelling_ends_the_loop_also_within_an_item():
    async def play():
        async def do(_item):
            await asyncio.Event().wait()

        running = asyncio.create_task(Sweeper("things", lambda: listed("a"), do, every_s=1.0).run())
        await asyncio.sleep(0.5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run_virtual(play())
