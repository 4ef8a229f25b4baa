"""Admission and teams, on fakes: senders of other teams are refused, and a team's quota counts over its models."""

import asyncio

import pytest

from contracts import facts as f
from contracts.envelope import source_of
from contracts.teams import Team, TeamQuota
from services.registry.domain.announcements import Announcements
from services.registry.ports import announcements_key, model_key, release_key
from services.registry.team_use import LISTED_S
from shared.errors import Permanent
from testbed.factories import PUBLISHER
from tests.kit import fakes_registry as k
from tests.kit.records import MemoryRecords
from tests.unit.registry.harness import OTHER, Announcing

THIRD = "third-bot"
OPERATOR = "oscar"


def shop(*, members=(PUBLISHER, OPERATOR), unrestricted=(), models=(k.MODEL, OTHER), **quota):
    return Team(name="shop", models=models, members=members, unrestricted=unrestricted, quota=TeamQuota(**quota))


@pytest.fixture
def harness():
    return Announcing()


async def test_a_member_publishes_and_a_stranger_is_refused_with_a_sentence(harness):
    harness.out.teams = (shop(members=()), Team(name="bank", models=(THIRD,), members=(PUBLISHER,)))
    await harness.announce(k.MODEL)
    await harness.announce("free-bot")
    await harness.announce(THIRD)
    assert harness.rejected() == [(k.MODEL, "team_mismatch"), ("free-bot", "team_mismatch")]
    rejected = next(emit.fact for emit in harness.out.publisher.published if emit.model == k.MODEL)
    assert f"{k.MODEL} belongs to team shop, and {PUBLISHER} is no member of it." in rejected.reason
    assert (harness.opened(k.MODEL), harness.opened(THIRD)) == ([], [1])


async def test_a_release_that_was_admitted_stays_though_its_sender_left(harness):
    harness.out.teams = (shop(),)
    event, announcement = harness.store(k.MODEL)
    await harness.announced((event, announcement))
    harness.out.teams = (shop(members=()),)
    harness.restarted()
    await harness.announced((event, announcement))
    await harness.registry.admit(event)
    assert (harness.opened(k.MODEL), harness.rejected()) == ([1], [])


async def test_what_a_model_in_no_team_announces_is_admitted_as_before(harness):
    harness.out.teams = (shop(members=(), releases=1, announcements_per_minute=1, models=(OTHER,)),)
    for attempt in (1, 2, 3):
        await harness.announce(k.MODEL, attempt=attempt)
    assert (harness.opened(k.MODEL), harness.rejected()) == ([1, 2, 3], [])
    assert (await harness.record(k.MODEL)).accepted == ()


async def test_releases_under_way_count_over_all_models_of_a_team_and_not_over_others(harness):
    harness.out.teams = (shop(members=(), unrestricted=(PUBLISHER, OPERATOR), releases=2),)
    await harness.announce(THIRD)
    await asyncio.gather(*(harness.announced(harness.store(model)) for model in (k.MODEL, OTHER)))
    refused = harness.store(OTHER, attempt=2)
    await harness.announced(refused)
    assert harness.rejected() == [(OTHER, "team_quota_exceeded")]
    harness.restarted()
    await harness.announced(refused)
    assert harness.rejected() == [(OTHER, "team_quota_exceeded")], "it is decided once"
    await harness.announce(THIRD, attempt=2)
    assert harness.opened(THIRD) == [1, 2]
    (opened,) = [
        e.fact for e in harness.out.publisher.published if e.model == OTHER and e.fact.TYPE == f.ReleaseOpened.TYPE
    ]
    cancelled = k.event(k.cancel(opened.release_id), "c1", model=OTHER, source=source_of(OPERATOR))
    assert await harness.registry.handle_order(cancelled, harness.out.clock.now()) is not None
    await harness.announce(OTHER, attempt=3)
    assert harness.opened(OTHER) == [1, 2]


BYTES = 2 * len(f"checkpoints/{k.MODEL}/manifests/folder/a.json") + 30  # two checkpoints, one release of 10 + 2 * 10


async def test_a_release_reserves_the_most_bytes_that_it_may_store_and_counts_as_what_it_stored(harness):
    harness.out.teams = (shop(members=(), unrestricted=(PUBLISHER,), stored_bytes=BYTES),)
    await harness.announce(k.MODEL)
    refused = harness.store(OTHER)
    await harness.announced(refused)
    assert harness.rejected() == [(OTHER, "team_quota_exceeded")]
    rejected = next(e.fact for e in harness.out.publisher.published if e.model == OTHER)
    assert "team shop" in rejected.reason
    assert (rejected.details["reserved"], rejected.details["needed"]) == (30, 30)
    await harness.announce(THIRD)
    assert harness.opened(THIRD) == [1], "it belongs to no team"


@pytest.mark.parametrize("quota", [{"releases": 1}, {"announcements_per_minute": 1}, {"stored_bytes": BYTES}])
async def test_two_models_at_once_do_not_both_take_what_is_left(harness, quota):
    harness.out.teams = (shop(**quota),)
    stored = [harness.store(model) for model in (k.MODEL, OTHER)]
    await asyncio.gather(*(harness.announced(each) for each in stored))
    assert sorted([len(harness.opened(k.MODEL)), len(harness.opened(OTHER))]) == [0, 1]
    assert [code for _, code in harness.rejected()] == ["team_quota_exceeded"]


async def test_announcements_per_minute_count_over_all_models_and_are_decided_by_the_time_of_the_stream(harness):
    harness.out.teams = (shop(announcements_per_minute=2),)
    await asyncio.gather(*(harness.announced(harness.store(model)) for model in (k.MODEL, OTHER)))
    late = harness.store(OTHER, attempt=2)
    harness.out.clock.advance(600.0)  # read late: it is assessed as if it had been read at once
    await harness.announced(late)
    assert harness.rejected() == [(OTHER, "team_quota_exceeded")]
    await harness.announced(late)
    assert len(harness.rejected()) == 1
    await harness.announce(OTHER, attempt=3)
    assert harness.opened(OTHER) == [1, 2]
    assert len((await harness.record(OTHER)).accepted) == 1


async def test_a_record_that_cannot_be_used_does_not_hold_up_the_teams_other_models(harness):
    harness.out.teams = (shop(announcements_per_minute=5, releases=5),)
    await harness.announce(OTHER)
    for key in (announcements_key(OTHER), model_key(OTHER)):
        harness.out.bucket.data[key] = (1, b'{"schema_version": 99}')
    await harness.announce(k.MODEL)
    assert (harness.opened(k.MODEL), harness.rejected()) == ([1], [])


async def test_another_teams_release_is_opened_after_a_few_of_a_team_that_announced_fifty(harness):
    harness.out.teams = (shop(), Team(name="bank", models=(THIRD,), members=(PUBLISHER,)))
    for attempt in range(1, 51):
        await harness.announce((k.MODEL, OTHER)[attempt % 2], attempt=attempt)
    await harness.announce(THIRD)
    opened = [e for e in harness.out.publisher.published if isinstance(e.fact, f.ReleaseOpened)]
    assert [each.model for each in opened[-1:]] == [THIRD]
    assert len(opened) == harness.settings.work_per_team + 1
    assert len((await harness.record(k.MODEL)).waiting) + len((await harness.record(OTHER)).waiting) == 46
    first = opened[0].fact
    cancelled = k.event(k.cancel(first.release_id), "c1", model=first.model, source=source_of(OPERATOR))
    await harness.registry.handle_order(cancelled, harness.out.clock.now())
    harness.restarted()
    await harness.sweep()
    opened = [e for e in harness.out.publisher.published if isinstance(e.fact, f.ReleaseOpened)]
    assert [each.fact.attempt for each in opened if each.model != THIRD] == [1, 2, 3, 4, 5]
    assert harness.rejected() == []


class Queues:
    """Three models of one team, each with a release at work and one in its queue; the workers' share is two."""

    def __init__(self):
        self.harness = Announcing(work_per_team=2)
        self.count = 0

    async def fill(self):
        for attempt in (1, 2):
            for model in (k.MODEL, OTHER, THIRD):
                await self.harness.announce(model, attempt=attempt)
                await self.handle(self.release(model, attempt), k.merged(), *map(k.quantised, ("bf16", "int8")))
        self.harness.out.teams = (shop(models=(k.MODEL, OTHER, THIRD)),)

    def release(self, model, attempt):
        emits = self.harness.out.publisher.published
        opened = [each.fact for each in emits if isinstance(each.fact, f.ReleaseOpened) and each.model == model]
        return next(each for each in opened if each.attempt == attempt)

    async def handle(self, release, *facts):
        for fact in facts:
            self.count += 1
            event = k.event(fact, f"q{self.count}", model=release.model, correlation=release.release_id)
            await self.harness.registry.handle(event, release.release_id)

    async def cancel(self, model, attempt):
        release = self.release(model, attempt)
        order = k.event(k.cancel(release.release_id), f"{model}-{attempt}", model=model, source=source_of(OPERATOR))
        await self.harness.registry.handle_order(order, self.harness.out.clock.now())

    async def hold(self, model, attempt, *, paused):
        fact = f.ReleaseHeld(release_id=self.release(model, attempt).release_id, paused=paused)
        order = k.event(fact, f"hold-{paused}", model=model, source=source_of(OPERATOR))
        now = self.harness.out.clock.now()
        await self.harness.registry.handle_order(order.model_copy(update={"time": now}), now)

    async def sweep(self):
        """Sweep as often as it takes a checkpoint that waits to be asked for again."""
        for _ in range(6):
            self.harness.out.clock.advance(5.0)
            await self.harness.sweep()
            await self.harness.registry.sweepers[1].sweep()

    def staged(self, version):
        emits = self.harness.out.publisher.published
        requested = [each for each in emits if isinstance(each.fact, f.StageRequested)]
        return {each.model for each in requested if each.fact.candidate.target.version == version}


async def test_releases_that_leave_their_queues_at_once_take_no_more_than_the_share_of_their_team():
    queues = Queues()
    await queues.fill()
    assert (queues.staged(1), queues.staged(2)) == ({k.MODEL, OTHER, THIRD}, set())
    await asyncio.gather(*(queues.cancel(model, 1) for model in (k.MODEL, OTHER, THIRD)))
    await queues.sweep()
    assert len(queues.staged(2)) == 2
    (waits,) = {k.MODEL, OTHER, THIRD} - queues.staged(2)
    queues.harness.restarted()
    await queues.harness.announce(OTHER, attempt=3)
    await queues.sweep()
    assert (len(queues.staged(2)), queues.harness.opened(OTHER)) == (2, [1, 2])
    await queues.cancel(next(iter(queues.staged(2))), 2)
    await queues.sweep()
    assert waits in queues.staged(2), "it goes before what is to be admitted"
    assert queues.harness.opened(OTHER) == [1, 2]
    await queues.cancel(waits, 2)
    await queues.sweep()
    assert queues.harness.opened(OTHER) == [1, 2, 3]


async def test_releases_of_another_team_and_without_teams_leave_their_queues_at_once():
    queues = Queues()
    await queues.fill()
    own = shop(models=(k.MODEL, OTHER))
    queues.harness.out.teams = (own, Team(name="bank", models=(THIRD,), members=(OPERATOR,)))
    for model in (k.MODEL, OTHER, THIRD):
        await queues.cancel(model, 1)
    assert queues.staged(2) == {k.MODEL, OTHER, THIRD}


async def test_models_of_no_team_have_one_share_together_if_there_are_teams(harness):
    harness.out.teams = (Team(name="bank", models=(THIRD,), members=(), unrestricted=(PUBLISHER,)),)
    for attempt in range(1, 6):
        for model in (k.MODEL, OTHER):
            await harness.announce(model, attempt=attempt)
    assert len(harness.opened(k.MODEL) + harness.opened(OTHER)) == harness.settings.work_per_team
    await harness.announce(THIRD)
    assert harness.opened(THIRD) == [1]


async def test_a_paused_release_takes_no_share_of_the_workers_once_they_have_nothing_to_do_for_it():
    """A pause has no end of its own, so it must not keep the team's other models out; nor must it let more of them in."""
    queues = Queues()
    queues.harness.out.teams = (shop(models=(k.MODEL, OTHER, THIRD)),)
    for model in (k.MODEL, OTHER):
        await queues.harness.announce(model)
    await queues.harness.announce(THIRD)
    await queues.hold(k.MODEL, 1, paused=True)
    await queues.sweep()
    assert queues.harness.opened(THIRD) == [], "it is merged still"
    await queues.handle(queues.release(k.MODEL, 1), k.merged())
    await queues.sweep()
    assert queues.harness.opened(THIRD) == [1]
    await queues.hold(k.MODEL, 1, paused=False)
    await queues.cancel(OTHER, 1)
    await queues.harness.announce(OTHER, attempt=2)
    await queues.sweep()
    assert queues.harness.opened(OTHER) == [1], "the two others have the whole share"


async def test_releases_with_unreadable_records_take_no_share_of_the_workers(harness):
    harness.out.teams = (shop(),)
    for attempt in range(1, harness.settings.work_per_team + 1):
        await harness.announce(k.MODEL, attempt=attempt)
    for release_id in (await harness.out.ports().models.read(model_key(k.MODEL))).open:
        harness.out.bucket.data[release_key(k.MODEL, release_id)] = (1, b'{"schema_version": 99}')
    harness.out.clock.advance(30.0)
    await harness.announce(OTHER)
    assert harness.opened(OTHER) == [1]


async def test_a_checkpoint_that_waits_for_its_turn_is_not_verified(harness):
    harness.out.teams = (shop(),)
    for attempt in range(1, harness.settings.work_per_team + 1):
        await harness.announce(k.MODEL, attempt=attempt)
    await harness.announce(OTHER)
    for _ in range(5):
        harness.out.clock.advance(5.0)
        await harness.sweep()
    assert OTHER not in harness.artifacts.asked
    assert len((await harness.record(OTHER)).waiting) == 1


class Listed(MemoryRecords):
    """Records that count how often their keys are listed."""

    listed = 0

    async def keys(self):
        self.listed += 1
        return await super().keys()


async def test_models_of_no_team_are_listed_once_in_a_while_and_new_ones_count_at_once(harness):
    harness.out.teams = (Team(name="bank", models=(THIRD,), members=(), unrestricted=(PUBLISHER,)),)
    records = harness.out.announcements = Listed(Announcements, harness.out.bucket)
    harness.restarted()
    names = [f"free-{number}" for number in range(harness.settings.work_per_team + 3)]
    for name in names:
        await harness.announce(name)
    assert sum(len(harness.opened(name)) for name in names) == harness.settings.work_per_team
    assert records.listed == 1
    harness.out.clock.advance(LISTED_S)
    await harness.announce(names[0], attempt=2)
    assert records.listed == 2


@pytest.mark.parametrize("order", [k.approval, k.cancel])
async def test_orders_of_another_team_are_refused(harness, order):
    harness.out.teams = (shop(members=(PUBLISHER,)),)
    await harness.announce(k.MODEL)
    (release,) = [emit.fact for emit in harness.out.publisher.published if isinstance(emit.fact, f.ReleaseOpened)]
    given = (k.BASE_FOLDER.digest, release.release_id) if order is k.approval else (release.release_id,)
    event = k.event(order(*given), "o1", source=source_of(OPERATOR))
    with pytest.raises(Permanent) as caught:
        await harness.registry.handle_order(event, harness.out.clock.now())
    assert caught.value.code == "team_mismatch"
