"""The rehearsal on a real bus and a real store: asked for, certified, or the end of the release."""

import pytest

from contracts import facts as f
from tests.integration.registry_process import answer, base, checkpoint, log, publish, registry, run_to_turn, store
from tests.kit import fakes_registry as k

__all__ = ["base", "checkpoint", "log", "store"]  # fixtures


async def walk_to_rehearsal(js, release):
    await run_to_turn(js, release, 1)
    await answer(js, release, 1, *(k.staged(v) for v in ("bf16", "int8")), k.benchmarked("bf16", verdict="fail"))
    await answer(js, release, 1, k.benchmarked("int8"))


async def test_rollback_is_rehearsed_before_any_traffic(js, settings, checkpoint, log):
    async with registry(js, settings):
        await publish(js, checkpoint(policy=k.careful_policy()), "e1")
        opened = (await log.of(f.ReleaseOpened))[0].data
        await walk_to_rehearsal(js, opened.release_id)
        (asked,) = await log.of(f.RehearsalRequested)
        assert (asked.data.candidate.target, asked.data.triggers) == (k.target("int8"), k.AUTOMATIC)
        assert [event.data.purpose for event in await log.of(f.StageRequested, 3)] == ["benchmark"] * 2 + ["rehearsal"]
        await answer(js, opened.release_id, 1, k.rehearsed())
        (order,) = await log.of(f.TrafficRequested)
        assert order.data.target.target == k.target("int8")
        await answer(js, opened.release_id, 1, k.changed(k.route(k.target("int8"))))
        (finished,) = await log.of(f.ReleaseFinished)
        assert finished.data.outcome == "promoted"
        released = [event.data.purpose for event in await log.of(f.StageReleased, 3)]
        assert released == ["benchmark", "benchmark", "rehearsal"]


@pytest.mark.parametrize("bad", [k.rehearsed(of=k.policy()), k.unstaged("int8")], ids=["certificate", "unstaged"])
async def test_without_a_good_certificate_nothing_is_promoted(js, settings, checkpoint, log, bad):
    async with registry(js, settings):
        await publish(js, checkpoint(policy=k.careful_policy()), "e1")
        opened = (await log.of(f.ReleaseOpened))[0].data
        await walk_to_rehearsal(js, opened.release_id)
        await log.of(f.RehearsalRequested)
        await answer(js, opened.release_id, 1, bad)
        (finished,) = await log.of(f.ReleaseFinished)
        assert (finished.data.outcome, finished.data.code) == ("rejected", "rehearsal_failed")
        assert f.TrafficRequested.TYPE not in {event.type for event in await log.all()}
