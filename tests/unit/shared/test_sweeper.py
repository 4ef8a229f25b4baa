"""The one background loop: one rule for failures, in virtual time."""

import asyncio
from collections import Counter
from itertools import pairwise

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


def test_an_item_that_hangs_is_given_up_and_delays_no_other():
    async def play():
        started, done = now_s(), []

        async def do(item):
            if item == "hangs":
                await asyncio.Event().wait()
            done.append((item, now_s() - started))

        sweeper = Sweeper("things", lambda: listed("hangs", "b"), do, every_s=1.0, item_limit_s=30.0)
        with structlog.testing.capture_logs() as logs:
            assert await sweeper.sweep() == 1
        assert done == [("b", 0.0)]
        assert now_s() - started == 30.0
        assert [(log["item"], log["limit_s"], log["log_level"]) for log in logs] == [("hangs", 30.0, "warning")]

    run_virtual(play())


def test_a_slow_item_does_not_delay_the_next_sweeps_of_the_others_and_is_never_done_twice_at_once():
    async def play():
        begun, done = [], []

        async def do(item):
            begun.append(item)
            if item == "slow":
                await asyncio.sleep(4.5)
            done.append((item, now_s()))

        running = asyncio.create_task(Sweeper("things", lambda: listed("slow", "b"), do, every_s=1.0).run())
        await asyncio.sleep(5.5)
        running.cancel()
        assert done == [("b", 0.0), ("b", 1.0), ("b", 2.0), ("b", 3.0), ("b", 4.0), ("slow", 4.5), ("b", 5.0)]
        assert begun.count("slow") == 2

    run_virtual(play())


def test_no_more_items_are_done_at_the_same_time_than_allowed_and_each_has_its_turn():
    async def play():
        at_work, most, begun = 0, 0, []

        async def do(item):
            nonlocal at_work, most
            begun.append(item)
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(1.0)
            at_work -= 1

        assert await Sweeper("things", lambda: listed(*range(10)), do, every_s=1.0, at_once=3).sweep() == 0
        assert (most, begun, now_s()) == (3, list(range(10)), 4.0)

    run_virtual(play())


def test_slow_items_leave_a_slot_to_the_others_and_take_turns():
    async def play():
        begun, done = [], []

        async def do(item):
            begun.append((item, now_s()))
            if item == "hangs 3":
                await asyncio.sleep(9.0)
                raise Transient("store_unavailable", "Gone.")
            if item.startswith("hangs"):
                await asyncio.Event().wait()
            await asyncio.sleep(0.1)
            done.append(now_s())

        names = ("hangs 1", "hangs 2", "hangs 3", "b")
        sweeper = Sweeper("things", lambda: listed(*names), do, every_s=1.0, item_limit_s=10.0, at_once=3)
        running = asyncio.create_task(sweeper.run())
        await asyncio.sleep(60.0)
        running.cancel()
        gaps = [later - earlier for earlier, later in pairwise(done)]
        assert done[0] == 9.1  # once, before any of them is known to be slow
        assert max(gaps) == pytest.approx(1.1, abs=0.11)
        assert len(done) > 40
        counts = Counter(item for item, _ in begun)
        assert min(counts[name] for name in names[:3]) >= 3

    run_virtual(play())


def test_an_item_that_is_in_time_again_is_slow_no_more():
    async def play():
        hangs, done = {"a", "b"}, []

        async def do(item):
            if item in hangs:
                await asyncio.Event().wait()
            await asyncio.sleep(0.5)
            done.append((item, now_s()))

        sweeper = Sweeper("things", lambda: listed("a", "b"), do, every_s=1.0, item_limit_s=5.0, at_once=2)
        assert await sweeper.sweep() == 2
        hangs.clear()
        assert await sweeper.sweep() == 0  # one after the other: a slot stays free
        assert await sweeper.sweep() == 0
        assert done == [("a", 5.5), ("b", 6.0), ("a", 6.5), ("b", 6.5)]

    run_virtual(play())


def test_a_list_that_hangs_is_given_up_as_well():
    async def play():
        lists, done = [asyncio.Event().wait, lambda: listed("a")], []

        async def do(item):
            done.append((item, now_s()))

        sweeper = Sweeper("things", lambda: lists.pop(0)() if lists else listed(), do, every_s=1.0, item_limit_s=5.0)
        running = asyncio.create_task(sweeper.run())
        await asyncio.sleep(8.0)
        running.cancel()
        assert done == [("a", 6.0)]

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


def test_the_first_sweep_comes_when_it_is_due_and_the_next_one_after_its_time():
    async def play():
        started, swept = now_s(), []

        async def do(_item):
            swept.append(now_s() - started)

        sweeper = Sweeper("things", lambda: listed("a"), do, every_s=60.0, first_after_s=10.0)
        running = asyncio.create_task(sweeper.run())
        await asyncio.sleep(135.0)
        running.cancel()
        assert swept == [10.0, 70.0, 130.0]

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
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(play())


def test_an_item_that_is_cancelled_by_what_it_waits_for_fails_alone():
    async def play():
        done = []

        async def do(item):
            if item == ("a",):
                raise asyncio.CancelledError
            done.append(item)

        with structlog.testing.capture_logs() as logs:
            assert await Sweeper("things", lambda: listed(("a",), "b"), do, every_s=1.0).sweep() == 1
        assert [log["item"] for log in logs] == ["('a',)"]
        running = asyncio.create_task(Sweeper("things", lambda: listed(("a",), "b"), do, every_s=1.0).run())
        await asyncio.sleep(1.5)
        assert not running.done()
        running.cancel()
        assert done == ["b"] * 3

    run_virtual(play())
