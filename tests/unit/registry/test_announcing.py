"""Announcements on fakes: each is admitted or rejected in the order of its model, and none holds up another model's."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ConnectionClosedError

from contracts import facts as f
from contracts.attachments import Attachment
from contracts.envelope import source_of
from contracts.policy import Approvals, Promotion
from services.registry.domain import announcements
from services.registry.domain.admission import RECORD_BYTES
from services.registry.domain.announcements import Announcement, Announcements
from services.registry.ports import announcements_key
from shared.errors import Permanent, Transient
from shared.messaging.delivery import ITEM_LIMIT_S, OUTAGE_LIMIT_S
from shared.storage.kv import Entry
from testbed.factories import PUBLISHER
from tests.kit import fakes_registry as k
from tests.kit.records import Faults, FaultyRecords, raising
from tests.kit.virtual_time import virtual_time
from tests.unit.registry.harness import OTHER, Announcing


@pytest.fixture
def harness():
    return Announcing()


STORE_AWAY = Transient("store_unavailable", "It does not answer.")


async def test_an_announcement_is_admitted_before_its_message_is_acknowledged(harness):
    await harness.announce()
    assert harness.opened(k.MODEL) == [1]
    assert (await harness.record()).waiting == ()


async def test_a_stuck_announcement_holds_up_no_other_models(harness):
    harness.artifacts.failing[k.MODEL] = STORE_AWAY
    await harness.announce()
    await harness.announce(OTHER)
    assert harness.opened(OTHER) == [1]
    assert harness.opened(k.MODEL) == []
    (waiting,) = (await harness.record()).waiting
    assert (waiting.tries, waiting.code) == (1, "store_unavailable")


@virtual_time
async def test_one_that_never_answers_holds_up_no_other_models_either():
    harness = Announcing(admission_try_s=0.2, admission_wait_s=0.05)
    harness.artifacts.failing[k.MODEL] = None
    await harness.announce()
    await harness.announce(OTHER)
    assert harness.opened(OTHER) == [1]
    await harness.sweep()
    (waiting,) = (await harness.record()).waiting
    assert waiting.tries == 1
    assert "longer than 0.2 s" in waiting.reason


@virtual_time
async def test_of_a_hanging_model_only_the_first_announcement_is_waited_for():
    harness = Announcing(admission_try_s=5.0, admission_wait_s=0.2)
    harness.artifacts.failing[k.MODEL] = None
    started = asyncio.get_running_loop().time()
    for attempt in (1, 2, 3, 4):
        await harness.announce(attempt=attempt)
    await harness.announce(OTHER)
    assert asyncio.get_running_loop().time() - started == pytest.approx(0.2)
    assert harness.opened(OTHER) == [1]
    assert len((await harness.record()).waiting) == 4
    await harness.registry.admissions.stop()


async def test_more_announcements_than_may_wait_are_answered_and_forgotten(harness):
    harness.artifacts.failing[k.MODEL] = STORE_AWAY
    for attempt in range(1, announcements.MOST_WAITING + 1):
        await harness.announce(attempt=attempt)
    refused = harness.store(attempt=1000)
    for _ in range(2):
        await harness.announced(refused)
    assert harness.rejected() == [(k.MODEL, "too_large")]
    assert len((await harness.record()).waiting) == announcements.MOST_WAITING
    del harness.artifacts.failing[k.MODEL]
    harness.out.clock.advance(60)
    await harness.sweep()
    await harness.announced(refused)
    assert (await harness.record()).waiting == ()
    assert len(harness.opened(k.MODEL)) == announcements.MOST_WAITING
    assert harness.rejected() == [(k.MODEL, "too_large")]


async def test_tries_that_cannot_be_written_are_counted_and_wait_all_the_same(harness):
    harness.artifacts.failing[k.MODEL] = STORE_AWAY
    _, announcement = harness.store()
    await harness.registry.admissions._edit(k.MODEL, lambda record: announcements.add(record, announcement))
    harness.out.announcements.conflicts = 10**9
    for _ in range(10):
        await harness.sweep()
    assert harness.artifacts.asked == [k.MODEL]
    harness.out.clock.advance(0.3)
    await harness.sweep()
    assert harness.artifacts.asked == [k.MODEL] * 2
    harness.out.announcements.conflicts = 0
    harness.out.clock.advance(1.1)
    await harness.sweep()
    assert (await harness.record()).waiting[0].tries == 3


async def test_versions_of_a_model_follow_the_stream_also_behind_a_stuck_announcement(harness):
    harness.artifacts.failing[k.MODEL] = STORE_AWAY
    for attempt in (3, 1, 2):
        await harness.announce(attempt=attempt)
    assert len(harness.artifacts.asked) == 1, "those behind it are not tried"
    del harness.artifacts.failing[k.MODEL]
    await harness.sweep()
    assert harness.opened(k.MODEL) == [], "the first one's next try is later"
    harness.out.clock.advance(60)
    await harness.sweep()
    assert [emit.attempt for emit in harness.out.publisher.of(f.ReleaseOpened)] == [3, 1, 2]
    assert harness.opened(k.MODEL) == [1, 2, 3]


async def test_a_model_on_attached_servers_watches_only_what_they_tell(harness):
    queued = k.MANUAL.model_copy(update={"name": "queued", "metric": "queue_ms", "threshold": 50.0})
    policy = k.policy(triggers=(k.MANUAL, queued))
    await harness.announce(policy=policy)
    attached = Attachment(model=k.MODEL, groups={"blue": ("http://a",)})
    harness.out.attachments.kept[k.MODEL] = Entry(attached, 1)
    await harness.announce(policy=policy, attempt=2)
    await harness.announce(attempt=2)
    assert harness.rejected() == [(k.MODEL, "policy_invalid")]
    assert harness.opened(k.MODEL) == [1, 2]


async def test_one_that_is_refused_is_answered_and_the_next_comes_in(harness):
    await harness.announce(policy=None)
    await harness.announce()
    assert harness.rejected() == [(k.MODEL, "policy_missing")]
    assert harness.opened(k.MODEL) == [1]
    (emit,) = [emit for emit in harness.out.publisher.published if isinstance(emit.fact, f.CheckpointRejected)]
    assert (emit.cause_id, emit.correlation_id) == ("e1", "run 1")


@pytest.mark.parametrize(
    ("error", "limit_s"), [(Transient("engine_failed", "No."), ITEM_LIMIT_S), (STORE_AWAY, OUTAGE_LIMIT_S)]
)
async def test_what_stays_stuck_is_rejected_after_the_limit_and_the_next_comes_in(harness, error, limit_s):
    harness.artifacts.failing[k.MODEL] = error
    await harness.announce()
    await harness.announce(attempt=2)
    first = (await harness.record()).waiting[0]
    tries = int(limit_s / 30)
    shortly_before = announcements.postpone(
        await harness.record(),
        first.model_copy(update={"tries": tries}),
        code=error.code,
        reason="No.",
        wait_s=1,
        now=k.START,
    )
    entry = await harness.out.announcements.get(announcements_key(k.MODEL))
    await harness.out.announcements.update(announcements_key(k.MODEL), shortly_before, entry.revision)
    for _ in range(12):
        harness.out.clock.advance(31)
        await harness.sweep()
    assert harness.rejected() == [(k.MODEL, "retries_exhausted")]
    assert (await harness.record()).waiting[0].event_id == "e2"


async def test_an_error_that_nothing_maps_is_tried_five_times(harness):
    harness.artifacts.failing[k.MODEL] = ZeroDivisionError("boom")
    await harness.announce()
    for _ in range(4):
        assert harness.rejected() == []
        harness.out.clock.advance(31)
        await harness.sweep()
    assert harness.rejected() == [(k.MODEL, "internal_error")]


async def test_delivered_again_after_a_lost_consumer_nothing_comes_of_it(harness):
    """What was refused weeks ago must not come in because the base was imported since."""
    bases = dict(harness.out.artifacts.bases)
    harness.out.artifacts.bases.clear()
    first = harness.store()
    await harness.announced(first)
    harness.out.artifacts.bases.update(bases)
    second = harness.store(attempt=2)
    await harness.announced(second)
    published = list(harness.out.publisher.published)
    harness.out.clock.advance(30 * 86_400)
    harness.restarted()
    for stored in (first, second):
        await harness.announced(stored)
    await harness.sweep()
    assert harness.out.publisher.published == published
    assert harness.rejected() == [(k.MODEL, "unknown_base")]


async def test_a_stream_that_was_made_anew_begins_at_one_and_is_heard(harness):
    for attempt in (1, 2, 3):
        await harness.announce(attempt=attempt)
    harness.out.clock.advance(60)
    harness.sequence = 0
    await harness.announce(attempt=4, event_id="anew")
    assert harness.opened(k.MODEL) == [1, 2, 3, 4]


@pytest.mark.parametrize("step", ["write 2 before", "write 2 after", "write 3 before", "write 3 after"])
async def test_a_crash_around_the_rejection_says_it_once(harness, step):
    """Written down (1), rejected and settled in one write (2), cleared (3)."""
    faults, store = Faults(), harness.registry.admissions._ports.announcements
    store._records = FaultyRecords(store._records, faults)
    faults.at[step] = raising(ConnectionClosedError())
    await harness.announced(harness.store(policy=None))
    assert not faults.at
    harness.out.publisher.forget()
    harness.restarted()
    await harness.sweep()
    assert harness.rejected() == [(k.MODEL, "policy_missing")]
    assert (await harness.record()).waiting == ()
    assert (await harness.record()).outbox == ()


async def test_a_message_that_is_gone_from_the_stream_is_answered(harness):
    event, announcement = harness.store()
    harness.out.inbox.stored.clear()
    await harness.announced((event, announcement))
    assert harness.rejected() == [(k.MODEL, "internal_error")]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"schema_version":99,"model":"support-bot"}', "record_version_unknown"),
        (b'{"model":"support-bot"}', "record_version_unknown"),
        (b"{not json", "internal_error"),
    ],
)
async def test_an_unusable_record_holds_up_other_models_for_a_minute_and_once_only(harness, data, code):
    """The consumer has one message at a time: what cannot be written down keeps those of all models behind it."""
    key = announcements_key(k.MODEL)
    harness.out.bucket.data[key] = (1, data)
    first = harness.store()
    with pytest.raises(Transient, match=code):
        await harness.announced(first)
    harness.out.clock.advance(59)
    with pytest.raises(Transient, match=code):
        await harness.announced(first)
    harness.out.clock.advance(1)
    for refused in (first, harness.store(attempt=2)):
        with pytest.raises(Permanent) as caught:
            await harness.announced(refused)
        assert (caught.value.code, key in caught.value.reason) == (code, True)
    await harness.announce(OTHER)
    assert harness.opened(OTHER) == [1]
    assert harness.out.bucket.data[key] == (1, data)
    del harness.out.bucket.data[key]
    await harness.announce(attempt=3)
    assert harness.opened(k.MODEL) == [1]
    harness.out.bucket.data[key] = (1, data)
    with pytest.raises(Transient, match=code):
        await harness.announce(attempt=4)


async def test_a_rejection_that_cannot_be_published_holds_up_no_checkpoint_of_its_model(harness):
    harness.out.publisher.failing = Permanent("too_large", "Too large for its stream.")
    await harness.announce(policy=None)
    harness.out.publisher.failing = None
    await harness.announce()
    assert harness.opened(k.MODEL) == [1]
    assert harness.rejected() == [(k.MODEL, "policy_missing")]


# -- measured before anything is reserved -----------------------------------------------------------------------------


async def test_what_would_make_a_record_too_large_reserves_nothing_and_the_next_checkpoint_comes_in(harness):
    huge = k.policy(gates=tuple(f_gate(number) for number in range(1, 20_001)))
    harness.out.policies.kept[k.MODEL] = Entry(huge, 1)
    await harness.announce(policy=None)
    assert harness.rejected() == [(k.MODEL, "too_large")]
    reason = harness.out.publisher.published[0].fact.reason
    assert f"{RECORD_BYTES:,}" in reason
    assert (await harness.registry.records.model(k.MODEL)).next_version == 1
    harness.out.policies.kept.clear()
    await harness.announce()
    assert harness.opened(k.MODEL) == [1]


def f_gate(number):
    from contracts.policy import MetricGate

    return MetricGate(metric="ttft_ms", max_value=float(number))


# -- the record, pure -------------------------------------------------------------------------------------------------


def announcement(sequence, at=0):
    return Announcement(
        sequence=sequence,
        event_id=f"e{sequence}",
        correlation_id="run",
        environment="production",
        stored_at=k.START + timedelta(seconds=at),
    )


@given(st.lists(st.integers(min_value=1, max_value=8), max_size=30), st.data())
def test_however_often_it_is_delivered_each_is_settled_once_and_in_order(deliveries, data):
    record, settled = Announcements(model="m"), []
    highest = 0
    for number in deliveries:
        sequence = min(number, highest + 1)  # the consumer never skips, and may repeat
        highest = max(highest, sequence)
        record = announcements.add(record, announcement(sequence, at=sequence))
        if record.waiting and data.draw(st.booleans()):
            settled.append(record.waiting[0].sequence)
            record = announcements.settle(record, record.waiting[0])
    everything = settled + [waiting.sequence for waiting in record.waiting]
    assert everything == list(range(1, highest + 1))


@given(st.integers(min_value=0, max_value=30), st.integers(min_value=-30, max_value=100))
def test_a_postponed_announcement_is_due_when_its_wait_is_over_and_blocks_those_behind(wait_s, later):
    record = announcements.add(announcements.add(Announcements(model="m"), announcement(1)), announcement(2))
    after = announcements.postpone(
        record, record.waiting[0], code="engine_failed", reason="No.", wait_s=wait_s, now=k.START
    )
    due = announcements.due(after, k.START + timedelta(seconds=later))
    assert (due.sequence if due else None) == (1 if later >= wait_s else None)


def test_a_clock_that_is_set_back_a_day_leaves_nothing_waiting_for_a_day():
    record = announcements.add(Announcements(model="m"), announcement(1))
    ahead = k.START + timedelta(days=1)
    after = announcements.postpone(record, record.waiting[0], code="engine_failed", reason="No.", wait_s=30, now=ahead)
    assert announcements.due(after, k.START) is not None


def test_two_rejected_announcements_with_one_id_have_a_rejection_each():
    first, second = announcement(1), announcement(2, at=1).model_copy(update={"event_id": "e1"})
    record = announcements.add(announcements.add(Announcements(model="m"), first), second)
    for rejected, code in ((first, "policy_missing"), (second, "unknown_base")):
        reason = f.CheckpointRejected(code=code, reason="No.")
        record = announcements.reject(record, rejected, reason, k.START)
    assert [entry.data["code"] for entry in record.outbox] == ["policy_missing", "unknown_base"]
    assert len({entry.id for entry in record.outbox}) == 2
    assert [entry.cause_id for entry in record.outbox] == ["e1", "e1"]


# -- orders -----------------------------------------------------------------------------------------------------------


async def ordered(harness, fact, *, at=0.0, stored=0.0, event_id="o1"):
    event = k.event(fact, event_id, correlation=fact.release_id, at=k.START + timedelta(seconds=at))
    await harness.registry.handle_order(event, k.START + timedelta(seconds=stored))


async def opened_release(harness):
    await harness.announce()
    (opened,) = harness.out.publisher.of(f.ReleaseOpened)
    await register(harness, opened)
    return opened.release_id


async def register(harness, opened):
    """Let a version be registered: approvals wait for that."""
    for number, fact in enumerate((k.merged(), *(k.quantised(variant) for variant in opened.variants))):
        await harness.registry.handle(k.event(fact, f"r{number}", correlation=opened.release_id), opened.release_id)


async def test_an_approval_by_the_publisher_of_the_checkpoint_is_refused_and_changes_nothing(harness):
    approvals = Approvals(not_by_publisher=True)
    policy = k.policy(promotion=Promotion(mode="manual"), approvals=approvals)
    harness.out.policies.kept[k.MODEL] = Entry(policy, 1)
    await harness.announce(policy=None)
    (opened,) = harness.out.publisher.of(f.ReleaseOpened)
    assert opened.publishers == (PUBLISHER,)
    await register(harness, opened)
    approval = k.approval(k.ref("x").digest, opened.release_id)
    for number, (sender, refused) in enumerate(((PUBLISHER, True), ("anna", False))):
        event = k.event(approval, f"a{number}", correlation=opened.release_id, source=source_of(sender))
        if refused:
            with pytest.raises(Permanent) as caught:
                await harness.registry.handle_order(event, k.START)
            assert caught.value.code == "approver_is_publisher"
        else:
            await harness.registry.handle_order(event, k.START)
    release = await harness.registry.records.read(k.MODEL, opened.release_id)
    assert [given.sender for given in release.approvals[approval.manifest_digest]] == ["anna"]


async def test_who_published_the_weights_may_not_approve_the_attempt_of_another_publisher(harness):
    policy = k.policy(promotion=Promotion(mode="manual"), approvals=Approvals(not_by_publisher=True))
    for number, sender in enumerate(("anna", "paula", "otto"), start=1):
        event, _ = harness.store(policy=policy, attempt=number)
        await harness.registry.admit(event.model_copy(update={"source": source_of(sender)}))
    assert [opened.publishers for opened in harness.out.publisher.of(f.ReleaseOpened)] == [
        ("anna",),
        ("paula", "anna"),
        ("otto", "anna", "paula"),
    ]
    others = k.ref("checkpoints/support-bot/manifests/folder/b.json")
    harness.out.artifacts.present[others.uri] = b"checkpoints/support-bot/manifests/folder/b.json"
    event, _ = harness.store(policy=policy, weights=f.Weights(kind="lora", ref=others))
    await harness.registry.admit(event.model_copy(update={"source": source_of("lena")}))
    assert harness.out.publisher.of(f.ReleaseOpened)[-1].publishers == ("lena",)


@pytest.mark.parametrize(("at", "stored"), [(-86_400, 0), (0, -86_400)])
async def test_a_cancel_or_approval_of_yesterday_changes_nothing_and_is_refused(harness, at, stored):
    release_id = await opened_release(harness)
    before = await harness.out.releases.get(f"{k.MODEL}.{release_id}")
    for fact in (k.cancel(release_id), k.approval(k.ref("x").digest, release_id)):
        with pytest.raises(Permanent) as caught:
            await ordered(harness, fact, at=at, stored=stored)
        assert caught.value.code == "order_expired"
    assert await harness.out.releases.get(f"{k.MODEL}.{release_id}") == before


async def test_a_cancel_that_was_carried_out_comes_again_late_and_is_not_refused(harness):
    release_id = await opened_release(harness)
    await ordered(harness, k.cancel(release_id))
    assert harness.out.publisher.of(f.ReleaseFinished)[0].outcome == "cancelled"
    harness.out.clock.advance(30 * 86_400)
    await ordered(harness, k.cancel(release_id))
    assert len(harness.out.publisher.of(f.ReleaseFinished)) == 1


async def test_an_approval_given_while_something_else_served_is_refused(harness):
    release_id = await opened_release(harness)
    harness.out.routes.kept[k.MODEL] = Entry(k.route(k.target("bf16"), epoch=5), 1)
    approval = k.approval(k.ref("x").digest, release_id)
    with pytest.raises(Permanent) as caught:
        await ordered(harness, approval.model_copy(update={"epoch": 4}))
    assert caught.value.code == "stale_epoch"
    await ordered(harness, approval.model_copy(update={"epoch": 5}))


@pytest.mark.parametrize("second", ["approval of another manifest", "cancel"])
async def test_an_order_with_the_id_of_another_is_refused_and_the_same_order_again_is_not(harness, second):
    release_id = await opened_release(harness)
    first = k.approval(k.ref("x").digest, release_id)
    await ordered(harness, first)
    await ordered(harness, first)
    before = await harness.out.releases.get(f"{k.MODEL}.{release_id}")
    other = k.cancel(release_id) if second == "cancel" else k.approval(k.ref("y").digest, release_id)
    with pytest.raises(Permanent) as caught:
        await ordered(harness, other)
    assert caught.value.code == "malformed_event"
    assert await harness.out.releases.get(f"{k.MODEL}.{release_id}") == before
    await ordered(harness, other, event_id="o2")
    assert await harness.out.releases.get(f"{k.MODEL}.{release_id}") != before
