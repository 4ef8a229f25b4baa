"""Work whose release ends: not begun, ended in the middle, or left alone."""

import asyncio

import pytest

from contracts.facts import ReleaseFinished
from services.quantiser import app
from tests.kit import factories


class Ends:
    """Gives one answer after the other, the last one for ever."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)

    async def look(self):
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        return None if outcome is None else factories.fact(ReleaseFinished, outcome=outcome)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(app, "LOOK_EVERY_S", 0.001)


async def test_work_of_a_release_that_is_over_is_not_begun():
    begun = []

    async def work():
        begun.append(1)

    assert await app.unless_over(work(), Ends("rejected")) is None
    assert begun == []


@pytest.mark.parametrize("outcome", ["cancelled", "promoted"])
async def test_work_is_cancelled_and_awaited_when_its_release_ends(outcome):
    """Also by a promotion: what is still being made then was given up, and nobody waits for it."""
    steps = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            steps.append("cleaned up")

    assert await app.unless_over(work(), Ends(None, None, outcome)) is None
    assert steps == ["cleaned up"]


async def test_work_of_a_living_release_gives_its_result():
    async def work():
        await asyncio.sleep(0.01)
        return "made"

    assert await app.unless_over(work(), Ends(None)) == "made"


async def test_failure_of_the_work_is_not_hidden():
    async def work():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await app.unless_over(work(), Ends(None))


async def test_cancelling_the_wait_ends_the_work():
    ended = asyncio.Event()

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(app.unless_over(work(), Ends(None)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
