"""Both versions slow: a rollback is held for a minute, then a slice of live traffic on the version behind decides."""

import asyncio
from datetime import timedelta

import pytest

from contracts import facts as cf
from services.rollback_controller.domain import slices
from services.rollback_controller.domain.record import RollbackState, Trial
from testbed import factories as f
from tests.kit.virtual_time import virtual_time
from tests.unit.rollback_controller.slow_sides import both_slow, codes
from tests.unit.rollback_controller.world import World

ACTIVE, PREVIOUS = f.target(7), f.target(6)


class Story:
    """An alert of latency that lasts, with an update every 15 s, and live traffic on both versions."""

    def __init__(self, world: World, *, active_ms=5_000.0, behind_ms=50.0, per_second=4, answer=None) -> None:
        self.world = world
        self.active_ms, self.behind_ms, self.per_second = active_ms, behind_ms, per_second
        self.began_at = world.clock.true_time()
        self.kind = cf.AlertRaised
        self._answer = answer or self.answer_requests

    async def run(self, seconds: int) -> None:
        world = self.world
        for second in range(seconds):
            if second % 15 == 0:
                kind = cf.AlertUpdated if second else self.kind
                world.publish(world.alert(kind=kind, confirmed_by="none", raised_at=self.began_at))
            self._answer()
            await asyncio.sleep(1)
            if world.route().active.target == PREVIOUS:
                return

    def answer_requests(self):
        lasts = self.sliced()
        label = {"slice": lasts.slice_id if lasts else None}
        self.world.requests(7, count=self.per_second, ttft_ms=self.active_ms, e2e_ms=self.active_ms + 40, **label)
        if lasts is not None:
            self.world.requests(6, count=2, ttft_ms=self.behind_ms, e2e_ms=self.behind_ms + 40, **label)

    def sliced(self):
        """Return the slice as gateways follow it."""
        written = self.world.slices.written
        last = written[-1] if written else None
        lasts = last is not None and last.share_ratio > 0 and self.world.clock.true_time() < last.expires_at
        return last if lasts else None

    @property
    def passed_s(self):
        return (self.world.clock.true_time() - self.began_at).total_seconds()


def changes(world):
    return [(fact.phase, fact.verdict) for fact in world.log.facts(cf.SliceChanged)]


@virtual_time
async def test_a_version_that_is_slow_where_the_one_behind_is_not_is_rolled_back_by_its_slice():
    world = both_slow(apart=True)
    story = Story(world)
    await story.run(300)
    assert world.route().active.target == PREVIOUS
    assert 60 <= story.passed_s <= 60 + 15 + 30 + 10 + 15 + 5
    assert changes(world) == [("started", None), ("ended", "target")]
    started, ended = world.log.facts(cf.SliceChanged)
    assert (started.target, started.other, started.share_ratio) == (ACTIVE, PREVIOUS, 0.1)
    assert (ended.counts.target_bad, ended.counts.other_bad) == (ended.counts.target_requests, 0)
    await world.stop()


@virtual_time
async def test_where_both_are_slow_on_live_traffic_nothing_is_rolled_back():
    world = both_slow(apart=True)
    await Story(world, behind_ms=5_000.0).run(300)
    assert world.route().active.target == ACTIVE
    assert changes(world) == [("started", None), ("ended", "both")]
    assert codes(world) == ["unconfirmed"]
    await world.stop()


def lasting(*, threshold=800.0):
    """Return a record with a slice that has begun, and the id of the slice."""
    trial = Trial(alert_id="a", trigger="slow", target=ACTIVE, behind=PREVIOUS, share_ratio=0.1, held_at=f.START)
    triggers = {"7": (f.trigger(name="slow", metric="ttft_ms", threshold=threshold),)}
    state = RollbackState(model=f.MODEL, environment="production", trial=trial, triggers=triggers)
    state = slices.start(state, 30.0, f.START)
    return state, state.trial.slice_id


def answers(slice_id, version, ttft_ms, holder, *, count=30):
    about = {"target": f.target(version), "ttft_ms": ttft_ms, "e2e_ms": ttft_ms + 40, "slice": slice_id}
    plain = {"error": None, "drill": None, "canary": False, "environment": "production"}
    return [f.inference(**about, **plain, holder=holder) for _ in range(count)]


ROUTE = f.route(active=f.served(7), previous=f.served(6))


@pytest.mark.parametrize(("slow", "verdict"), [(("a",), "unknown"), (("a", "b", "c"), "both")])
def test_both_are_slow_only_if_they_are_without_any_one_caller(slow, verdict):
    state, slice_id = lasting()
    for number, holder in enumerate(("a", "b", "c")):
        took_ms = 5_000.0 if holder in slow else 50.0
        batch = answers(slice_id, 7, took_ms, holder) + answers(slice_id, 6, took_ms, holder, count=90)
        state = slices.add_records(state, batch if holder == "a" else batch[::3], f"batch-{number}")
    ended = slices.end_due(state, ROUTE, f.START + timedelta(seconds=41)).trial
    assert (ended.verdict, ended.callers, ended.batches) == (verdict, {}, ())


def test_a_caller_that_ends_its_requests_on_one_version_does_not_choose_what_the_slice_shows():
    state, slice_id = lasting()
    for number, holder in enumerate("abcdef"):
        batch = answers(slice_id, 7, 5_000.0, holder, count=20) + answers(slice_id, 6, 5_000.0, holder, count=5)
        state = slices.add_records(state, batch, f"batch-{number}")
    chooser = answers(slice_id, 7, 5_000.0, "chooser", count=60) + answers(slice_id, 6, 50.0, "chooser", count=60)
    hidden = [
        record.model_copy(update={"finish_reason": "cancelled", "ttft_ms": None, "e2e_ms": 300.0, "output_tokens": 0})
        for record in answers(slice_id, 6, 5_000.0, "chooser", count=40)
    ]
    state = slices.add_records(state, chooser, "batch-7")
    state = slices.add_records(state, hidden, "batch-8")
    assert state.trial.ended == {"chooser": 40}
    ended = slices.end_due(state, ROUTE, f.START + timedelta(seconds=41)).trial
    assert (ended.verdict, ended.ended) == ("both", {})


def test_telemetry_that_is_delivered_again_counts_once():
    state, slice_id = lasting()
    batch = answers(slice_id, 7, 5_000.0, "a", count=10)
    state = slices.add_records(slices.add_records(state, batch, "batch-1"), batch, "batch-1")
    assert state.trial.counts.target_requests == 10
    assert slices.add_records(state, batch, "batch-2").trial.counts.target_requests == 20


@pytest.mark.parametrize(("threshold", "awaited_s"), [(800.0, 10), (20_000.0, 40), (90_000.0, 60), (1e308, 60)])
def test_answers_that_take_long_are_awaited_after_the_end(threshold, awaited_s):
    state, _ = lasting(threshold=threshold)
    assert slices.is_sliced(slices.end_due(state, ROUTE, f.START + timedelta(seconds=29 + awaited_s)))
    assert not slices.is_sliced(slices.end_due(state, ROUTE, f.START + timedelta(seconds=30 + awaited_s)))


@virtual_time
async def test_what_both_showed_counts_for_ten_minutes():
    world = both_slow(apart=True)
    await Story(world, behind_ms=5_000.0).run(900)
    assert changes(world) == [("started", None), ("ended", "both")] * 2
    await world.stop()


@pytest.mark.parametrize("skew_s", [-2.0, -0.05, 2.0])
def test_a_clock_that_differs_by_seconds_ends_no_slice_before_its_end(skew_s):
    now = f.START
    trial = Trial(
        alert_id="a",
        trigger="slow",
        target=ACTIVE,
        behind=PREVIOUS,
        share_ratio=0.1,
        held_at=now - timedelta(minutes=1),
    )
    state = slices.start(RollbackState(model=f.MODEL, environment="production", trial=trial), 30.0, now)
    route = f.route(active=f.served(7), previous=f.served(6))
    assert slices.is_sliced(slices.end_due(state, route, now + timedelta(seconds=skew_s)))
    assert not slices.is_sliced(slices.end_due(state, route, now - timedelta(minutes=2)))


@pytest.mark.parametrize(("verdict", "others_s"), [("both", 599), ("target", 119), ("unknown", 119), (None, 119)])
def test_what_a_slice_showed_counts_for_later_alerts_only_where_it_holds_the_rollback(verdict, others_s):
    trial = Trial(
        alert_id="a", trigger="slow", target=ACTIVE, behind=PREVIOUS, share_ratio=0.1, held_at=f.START, verdict=verdict
    )
    state = RollbackState(model=f.MODEL, environment="production", trial=trial)
    route = f.route(active=f.served(7), previous=f.served(6))
    first, later = f.fact(cf.AlertUpdated, target=ACTIVE, alert_id="a"), f.fact(cf.AlertUpdated, target=ACTIVE)
    for passed_s, kept in ((0, trial), (599, trial), (600, None)):
        now = f.START + timedelta(seconds=passed_s)
        known = slices.forget(state, route, now)
        assert known.trial == kept
        assert slices.find_trial(known, first, now) == kept, "an alert with few requests is updated seldom"
        assert slices.find_trial(known, later, now) == (kept if passed_s <= others_s else None)
    held = slices.hold(state, later, route, 0.1, f.START + timedelta(seconds=300))
    assert (held.trial == trial) == (verdict == "both")


@virtual_time
async def test_a_slice_without_traffic_shows_nothing_and_the_rollback_follows():
    world = both_slow(apart=True)
    story = Story(world, answer=lambda: None)
    await story.run(300)
    assert world.route().active.target == PREVIOUS
    assert changes(world) == [("started", None), ("ended", "unknown")]
    await world.stop()


@virtual_time
async def test_on_one_machine_a_slice_decides_only_where_the_offered_load_rose():
    world = both_slow(apart=False)
    story = Story(world)
    await story.run(60)
    assert (world.route().active.target, changes(world)) == (PREVIOUS, [])
    assert story.passed_s <= 2
    await world.stop()
    world = both_slow(apart=False)
    world.load_rose = True
    await Story(world, behind_ms=5_000.0).run(20)
    world.load_rose = False
    await Story(world, behind_ms=5_000.0).run(200)
    assert world.route().active.target == ACTIVE, "the rise is over for the count, its cause is not"
    assert changes(world) == [("started", None), ("ended", "both")]
    await world.stop()


@virtual_time
async def test_requests_without_the_label_count_for_neither_side():
    """Who pins the version behind chooses its version: that is no draw."""
    world = both_slow(apart=True)

    def pinned():
        world.requests(6, count=20, ttft_ms=5_000.0, e2e_ms=5_040.0, slice=None)
        world.requests(6, count=20, ttft_ms=5_000.0, e2e_ms=5_040.0, slice="another")

    await Story(world, answer=pinned).run(300)
    assert world.route().active.target == PREVIOUS
    assert world.log.facts(cf.SliceChanged)[-1].counts == cf.SliceCounts()
    await world.stop()


@virtual_time
async def test_a_manual_order_ends_a_slice_at_once():
    world = both_slow(apart=True)
    story = Story(world)
    await story.run(85)
    assert story.sliced() is not None
    world.publish(
        f.fact(cf.RollbackOrdered, failed=ACTIVE, to_version=None, epoch=world.route().epoch, expires_at=None)
    )
    await asyncio.sleep(3)
    assert world.route().active.target == PREVIOUS
    assert world.slices.written[-1].share_ratio == 0.0
    assert changes(world) == [("started", None), ("ended", "unknown")]
    assert "The route changed." in world.log.facts(cf.SliceChanged)[-1].message
    await world.stop()


@pytest.mark.parametrize("after_s", [0.0, 20.0, 200.0])
@virtual_time
async def test_a_slice_ends_although_its_process_died(after_s):
    world = both_slow(apart=True)
    story = Story(world)
    await story.run(80)
    decided = story.sliced()
    await world.life.close()
    assert (decided.expires_at - decided.starts_at).total_seconds() == 30
    await asyncio.sleep(after_s)
    world.start()
    await asyncio.sleep(60)
    assert world.slices.written[-1].share_ratio == 0.0
    assert [phase for phase, _ in changes(world)] == ["started", "ended"]
    await world.stop()


@pytest.mark.parametrize("kill_at", range(1, 61, 5))
@virtual_time
async def test_killed_at_any_step_a_slice_starts_once_ends_once_and_decides(kill_at):
    world = both_slow(apart=True)
    story = Story(world)
    await story.run(55)
    await world.life.close()
    running = asyncio.create_task(world.keep_running(kill_at))
    story.kind = cf.AlertUpdated
    await story.run(300)
    assert world.route().active.target == PREVIOUS
    assert changes(world) in ([("started", None), ("ended", "target")], [("started", None), ("ended", "unknown")])
    assert world.slices.written[-1].share_ratio == 0.0
    assert len({each.slice_id for each in world.slices.written}) == 1
    assert [each.failed for each in world.log.facts(cf.RollbackStarted)] == [ACTIVE]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await world.stop()


@virtual_time
async def test_a_slice_that_was_decided_and_not_written_is_written_by_the_next_process():
    world = both_slow(apart=True)
    world.slices.lost = True
    story = Story(world)
    await story.run(80)
    assert world.state().trial.starts_at is not None
    assert world.slices.written == []
    world.slices.lost = False
    await asyncio.sleep(2)
    assert story.sliced() is not None
    await world.stop()


@virtual_time
async def test_after_deaths_of_an_engine_no_live_traffic_is_sliced():
    """What the active version's engine died of must not reach the one behind it: the minute decides, as before."""
    world = both_slow(apart=True)
    raised_at = world.clock.true_time()
    deaths = cf.DeathCounts(deaths=1, holders=1)
    for number in range(7):
        kind = cf.AlertUpdated if number else cf.AlertRaised
        world.publish(world.alert(kind=kind, confirmed_by="none", raised_at=raised_at, deaths=deaths))
        await asyncio.sleep(15)
    assert changes(world) == []
    assert world.route().active.target == PREVIOUS
    await world.stop()


@virtual_time
async def test_a_canary_and_staging_have_no_slices():
    world = both_slow(apart=True)
    world.serve(7, 6, canary=8, epoch=world.route().epoch + 1)
    world.open_releases(8, triggers=(f.trigger(name="slow", metric="ttft_ms", threshold=800.0),))
    world.probe.times |= {str(f.target(8)): world.probe.times[str(ACTIVE)]}
    for number in range(8):
        kind = cf.AlertUpdated if number else cf.AlertRaised
        world.publish(world.alert(8, kind=kind, confirmed_by="none", raised_at=f.START))
        await asyncio.sleep(15)
    assert changes(world) == []
    await world.stop()


def test_a_record_without_trials_or_without_their_callers_is_read():
    state, _ = lasting()
    stored = state.model_dump(mode="json")
    del stored["trial"]["callers"], stored["trial"]["batches"]
    assert RollbackState.model_validate(stored).trial == state.trial
    del stored["trial"]
    assert RollbackState.model_validate(stored).trial is None
