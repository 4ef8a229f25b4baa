"""Work whose release finishes: not started, cancelled, or completed."""

import asyncio
from functools import partial

import pytest

from contracts.facts import ReleaseFinished
from services.quantiser import app
from testbed import factories


class Release:
    """Returns one outcome after the other, and the last one for ever."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)

    async def finished(self):
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        return None if outcome is None else factories.fact(ReleaseFinished, outcome=outcome)


unless_finished = partial(app.unless_finished, interval_s=0.001)


async def test_work_of_a_finished_release_is_not_started():
    begun = []

    async def work():
        begun.append(1)

    assert await unless_finished(work(), Release("rejected")) is None
    assert begun == []


@pytest.mark.parametrize("outcome", ["cancelled", "promoted"])
async def test_work_is_cancelled_and_awaited_when_its_release_finishes(outcome):
    """Also by a promotion: the registry has given up variants that are still being made then."""
    steps = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    assert await unless_finished(work(), Release(None, None, outcome)) is None
    assert steps == ["cleaned up"]


async def test_work_of_a_running_release_returns_its_result():
    async def work():
        await asyncio.sleep(0)
        return "made"

    assert await unless_finished(work(), Release(None)) == "made"


async def test_failure_of_the_work_is_not_hidden():
    async def work():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await unless_finished(work(), Release(None))


async def test_cancelling_the_wait_ends_the_work():
    ended = asyncio.Event()

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(unless_finished(work(), Release(None)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
