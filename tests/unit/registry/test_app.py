"""The registry around its domain, on fakes: what it admits and refuses, and what a crash leaves behind."""

import pytest

from contracts import facts as f
from contracts.policy import Promotion
from contracts.vocabulary import ServingSettings
from services.registry.domain.versions import REMEMBERED
from shared.errors import Permanent
from shared.storage.kv import Entry
from tests.kit import fakes_registry as k
from tests.unit.registry.harness import harness

__all__ = ["harness"]  # a fixture


async def test_a_checkpoint_opens_a_release_with_the_first_version(harness):
    (opened,) = await harness.admit()
    assert opened.version == 1
    assert opened.policy == k.policy()
    assert opened.source_event_id == "e1"
    (emit,) = [emit for emit in harness.out.publisher.published if isinstance(emit.fact, f.ReleaseOpened)]
    assert (emit.cause_id, emit.correlation_id, emit.model) == ("e1", opened.release_id, k.MODEL)
    assert (await harness.release(opened.release_id)).outbox == ()
    assert harness.published(f.AlertRaised) == []


async def test_one_checkpoint_under_many_ids_and_again_is_one_release(harness):
    for event_id in ("e1", "e1", "e2", "e3", "e1"):
        await harness.admit(event_id)
    assert len(harness.published(f.ReleaseOpened)) == 1
    assert (await harness.model()).next_version == 2


async def test_a_higher_attempt_is_another_release_of_the_next_version(harness):
    await harness.admit()
    assert [opened.version for opened in await harness.admit("e2", attempt=2)] == [1, 2]
    first, second = (fact.release_id for fact in harness.published(f.ReleaseOpened))
    assert (first[:-2], second[:-2]) == (second[:-2], first[:-2])


async def test_a_checkpoint_of_long_ago_is_still_the_release_that_it_was(harness):
    """Its number is among the record's reservations no more: the record does not grow with each release that ended."""
    rejected = f.CheckpointRejected(code="parity_failed", reason="not equal")
    await harness.admit(attempt=1)  # it is not ended: its number stays
    count = REMEMBERED + 5
    for attempt in range(2, count + 1):
        release_id = (await harness.admit(f"e{attempt}", attempt=attempt))[-1].release_id
        await harness.handle(release_id, rejected)
    model = await harness.model()
    assert list(model.reservations.values()) == [1, *range(count + 1 - REMEMBERED, count + 1)]
    assert (await harness.release(release_id.rpartition("-")[0] + "-2")).finished is not None
    await harness.restarted().admit("again", attempt=2)
    assert len(harness.published(f.ReleaseOpened)) == count
    assert await harness.model() == model


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"policy": k.policy(triggers=k.AUTOMATIC)}, "policy_invalid"),
        ({"policy": None}, "policy_missing"),
        ({"serving": ServingSettings(tool_parser="unheard-of")}, "serving_invalid"),
        ({"base": k.ready().base.model_copy(update={"name": "unheard-of"})}, "unknown_base"),
        ({"base": k.ready().base.model_copy(update={"name": "../../x"})}, "unknown_base"),
        ({"calibration": k.ref("elsewhere/x")}, "uri_not_allowed"),
        ({"calibration": k.ref("checkpoints/support-bot/nothing-here")}, "artifact_not_found"),
    ],
)
async def test_what_may_not_come_in_is_refused_with_its_code(harness, changes, code):
    with pytest.raises(Permanent) as caught:
        await harness.admit(**changes)
    assert caught.value.code == code
    assert harness.out.publisher.published == []
    assert (await harness.model()).next_version == 1
    assert len(await harness.admit("e2")) == 1


async def test_the_stored_policy_is_used_and_no_other(harness):
    harness.out.policies.kept[k.MODEL] = Entry(k.policy(promotion=Promotion(mode="manual")), 1)
    with pytest.raises(Permanent) as caught:
        await harness.admit()
    assert caught.value.code == "policy_differs"
    (opened,) = await harness.admit(policy=None)
    assert opened.policy.promotion.mode == "manual"


async def test_a_crash_after_the_reservation_keeps_the_number(harness):
    """The model's record was written, the release's was not: neither redelivery nor the sweeper takes another."""
    await harness.admit()
    (opened,) = harness.published(f.ReleaseOpened)

    for heal in (lambda: harness.admit("e1"), harness.sweep, lambda: harness.admit("e9", attempt=3)):
        del harness.out.bucket.data[f"{k.MODEL}.{opened.release_id}"]
        harness.restarted()
        await heal()
        assert (await harness.release(opened.release_id)).version == 1
    assert (await harness.model()).next_version == 3


async def test_a_redelivered_event_stays_its_release_although_the_stored_policy_changed(harness):
    harness.out.policies.kept[k.MODEL] = Entry(k.policy(), 1)
    await harness.admit("e1", policy=None)
    harness.out.policies.kept[k.MODEL] = Entry(k.policy(objective="cost"), 2)
    await harness.admit("e1", policy=None)
    assert (await harness.model()).next_version == 2
