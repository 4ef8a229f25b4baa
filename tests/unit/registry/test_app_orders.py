"""Orders and approvals as the registry answers them, on fakes: attested, applied once, of the right team."""

from datetime import timedelta

import pytest

from contracts import facts as f
from contracts.policy import Promotion
from contracts.teams import Team
from shared.errors import Permanent, Transient
from tests.kit import fakes_registry as k
from tests.unit.registry.harness import harness

__all__ = ["harness"]  # a fixture


async def test_an_approval_is_attested_with_its_sender_before_it_counts_and_waits_for_the_version(harness):
    (opened,) = await harness.admit(policy=k.policy(promotion=Promotion(mode="manual")))
    await harness.handle(opened.release_id, k.merged(), k.quantised("bf16"))
    digest = k.quantised("bf16").manifest.digest
    order = k.event(k.approval(digest, opened.release_id), "o-1", source="/slipway/ana")
    with pytest.raises(Transient, match="not registered yet"):
        await harness.registry.handle_order(order, order.time)
    assert harness.out.artifacts.approvals == {}
    await harness.handle(opened.release_id, k.quantised("int8"))
    attested = await harness.registry.handle_order(order, order.time)
    assert attested.order_id == "o-1"
    record = harness.out.artifacts.approvals["o-1"]
    assert (record.approved_by, record.manifest_digest) == ("ana", digest)
    other = k.event(k.approval("sha256:" + "0" * 64, opened.release_id), "o-2", source="/slipway/ana")
    await harness.registry.handle_order(other, other.time)
    assert set(harness.out.artifacts.approvals) == {"o-1"}, "it approves no variant of this release"


async def test_an_approval_that_arrives_before_its_variant_is_quantised_waits_and_is_attested(harness):
    (opened,) = await harness.admit(policy=k.policy(promotion=Promotion(mode="manual")))
    order = k.event(k.approval(k.quantised("bf16").manifest.digest, opened.release_id), "o-1", source="/slipway/ana")
    for arrived in ((), (k.merged(),), (k.quantised("int8"),)):
        await harness.handle(opened.release_id, *arrived)
        with pytest.raises(Transient, match="not registered yet"):
            await harness.registry.handle_order(order, order.time)
    await harness.handle(opened.release_id, k.quantised("bf16"))
    assert (await harness.registry.handle_order(order, order.time)).order_id == "o-1"
    assert set(harness.out.artifacts.approvals) == {"o-1"}


async def test_an_order_for_a_release_that_ended_or_is_unknown_is_refused(harness):
    (opened,) = await harness.admit()
    cancelled = k.event(k.cancel(opened.release_id), "o-1", source="/slipway/ana")
    assert (await harness.registry.handle_order(cancelled, cancelled.time)).order_id == "o-1"
    late = k.event(k.cancel(opened.release_id), "o-2", source="/slipway/ana")
    unknown = k.event(k.approval(k.ref("x").digest, "r-unknown"), "o-3", source="/slipway/ana")
    for order in (late, unknown):
        with pytest.raises(Permanent) as refused:
            await harness.registry.handle_order(order, order.time)
        assert refused.value.code == "not_applicable"
    assert (await harness.registry.handle_order(cancelled, cancelled.time)).order_id == "o-1", "delivered again"


def held(release_id, order_id, *, paused, sender="oscar"):
    fact = f.ReleaseHeld(release_id=release_id, paused=paused, reason=order_id)
    return k.event(fact, order_id, source=f"/slipway/{sender}")


@pytest.mark.parametrize("first", ["resume", "pause"])
async def test_a_resume_that_is_handled_before_its_pause_ends_it_all_the_same(harness, first):
    """The bus stored the pause first; delivered again after a failure, it comes after the resume."""
    (opened,) = await harness.admit()
    pause, resume = (held(opened.release_id, name, paused=name == "pause") for name in ("pause", "resume"))
    stored = {"pause": pause.time, "resume": pause.time + timedelta(seconds=1)}
    for order in (resume, pause) if first == "resume" else (pause, resume):
        await harness.registry.handle_order(order, stored[order.id])
    release = await harness.release(opened.release_id)
    assert (release.is_paused, release.hold.event_id) == (False, "resume")


async def test_a_second_pause_is_accepted_and_counts_as_the_newest(harness):
    (opened,) = await harness.admit()
    for number, sender in enumerate(("oscar", "olga")):
        order = held(opened.release_id, f"h{number}", paused=True, sender=sender)
        stored = order.time + timedelta(seconds=number)
        accepted = await harness.registry.handle_order(order, stored)
        details = {"paused": True, "by": sender, "at": stored.isoformat(), "reason": f"h{number}"}
        assert accepted.details == details
        assert (await harness.registry.handle_order(order, stored)).details == details, "delivered again"
    assert (await harness.release(opened.release_id)).hold.sender == "olga"


async def test_an_order_with_an_id_that_was_applied_is_answered_by_what_the_record_has(harness):
    """Who publishes chooses the id: the answer shows readers of the log whether a release is paused."""
    (opened,) = await harness.admit()
    pause, resume = held(opened.release_id, "h1", paused=True), held(opened.release_id, "h2", paused=False)
    later = resume.time + timedelta(seconds=1)
    await harness.registry.handle_order(pause, pause.time)
    forged = held(opened.release_id, "h1", paused=False)
    with pytest.raises(Permanent, match="id h1 is that of another event"):
        await harness.registry.handle_order(forged, later)
    await harness.registry.handle_order(resume, later)
    for reused in (pause, held(opened.release_id, "h1", paused=True, sender="olga")):
        assert (await harness.registry.handle_order(reused, pause.time)).details == {}, "a newer one counts"
    assert (await harness.release(opened.release_id)).is_paused is False


async def test_an_order_of_another_team_is_refused_although_its_id_was_applied(harness):
    (opened,) = await harness.admit()
    pause = held(opened.release_id, "h1", paused=True)
    await harness.registry.handle_order(pause, pause.time)
    harness.out.teams = (Team(name="shop", models=(k.MODEL,), members=("oscar",)),)
    assert (await harness.registry.handle_order(pause, pause.time)).details["by"] == "oscar"
    foreign = held(opened.release_id, "h1", paused=False, sender="mallory")
    with pytest.raises(Permanent) as refused:
        await harness.registry.handle_order(foreign, pause.time)
    assert refused.value.code == "team_mismatch"


async def test_text_is_erased_by_an_order_that_is_answered_with_what_was_erased(harness):
    (opened,) = await harness.admit()
    await harness.to_registered(opened.release_id)
    order = k.event(f.ErasureOrdered(reason="asked for", version=opened.version), "o-1", source="/slipway/ana")
    accepted = await harness.registry.erase(order, order.time)
    assert harness.out.artifacts.erased == [(k.MODEL, opened.version, "held-out")]
    assert len(accepted.details["digests"]) == 1
    void = k.event(f.ErasureOrdered(reason="asked for", version=99), "o-2", source="/slipway/ana")
    with pytest.raises(Permanent, match="has no version 99"):
        await harness.registry.erase(void, void.time)
