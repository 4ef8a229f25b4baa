"""Releases whose records were lost, on fakes: what ends for others, what is known again, and what resolves alerts."""

import pytest

from contracts import facts as f
from shared.storage.kv import Entry
from tests.kit import fakes_registry as k
from tests.unit.registry.harness import harness

__all__ = ["harness"]  # a fixture


async def lose(harness, *keys):
    """Remove records of the bucket, all without keys, and start the registry again."""
    for key in keys or tuple(harness.out.bucket.data):
        del harness.out.bucket.data[key]
    harness.restarted()


@pytest.mark.parametrize("model_too", [True, False], ids=["the whole bucket", "one record"])
async def test_a_workers_fact_of_a_release_whose_record_was_lost_ends_it_once(harness, model_too):
    (opened,) = await harness.admit()
    await harness.to_registered(opened.release_id)
    await harness.admit("e2", attempt=2)
    await lose(harness, *(() if model_too else (f"{k.MODEL}.{opened.release_id}",)))
    await harness.handle(opened.release_id, k.benchmarked("int8"), k.benchmarked("bf16"))
    ends = [emit for emit in harness.out.publisher.published if isinstance(emit.fact, f.ReleaseFinished)]
    assert {emit.id for emit in ends} == {ends[0].id}
    assert (ends[0].fact.release_id, ends[0].fact.version, ends[0].fact.outcome) == (opened.release_id, 1, "aborted")
    assert (await harness.model()).in_progress != opened.release_id


async def test_a_workers_fact_of_a_release_that_never_was_ends_nothing(harness):
    await harness.admit()
    await harness.handle("r-0123456789abcdef-1", k.benchmarked("int8"))
    assert harness.published(f.ReleaseFinished) == []


async def test_the_alert_names_a_canary_whose_release_is_not_known_any_more(harness):
    (opened,) = await harness.admit()
    await harness.to_registered(opened.release_id)
    harness.out.routes.kept[k.MODEL] = Entry(k.route(k.target("int8", 0), k.target("int8", 1), weight=0.25), 1)
    await lose(harness)
    await harness.registry.records.sweep_model(k.MODEL)
    (raised,) = harness.published(f.AlertRaised)
    assert f"slipway rollback {k.MODEL} --target {k.target('int8', 1)}" in raised.message


async def test_the_release_in_progress_still_is_when_the_record_of_its_model_was_lost(harness):
    await harness.admit("e1")
    await harness.admit("e2", attempt=2)
    first, second = (fact.release_id for fact in harness.published(f.ReleaseOpened))
    await harness.to_registered(second)
    await harness.to_registered(first)
    await lose(harness, f"{k.MODEL}.model")
    await harness.sweep()
    await harness.sweep()
    assert ((await harness.model()).in_progress, (await harness.model()).queue) == (second, (first,))


async def test_only_the_end_of_a_later_registered_release_resolves_the_alert(harness):
    (opened,) = await harness.admit()
    unreadable = f.CheckpointRejected(code="object_unreadable", reason="The store does not read blobs/a.", details={})
    await harness.handle(opened.release_id, unreadable)
    assert len(harness.published(f.AlertRaised)) == 1
    *_, second = await harness.admit("e2", attempt=2)
    await harness.handle(second.release_id, k.cancel(second.release_id))
    assert len(harness.published(f.ReleaseFinished)) == 2
    assert harness.published(f.AlertResolved) == []
    *_, third = await harness.admit("e3", attempt=3)
    await harness.to_registered(third.release_id)
    await harness.handle(third.release_id, k.cancel(third.release_id))
    assert len(harness.published(f.AlertResolved)) == 1
