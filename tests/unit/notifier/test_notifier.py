"""What is sent to whom, in which order and when: the use cases over a record in memory, and by random histories."""

import asyncio
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from contracts import metrics as m
from contracts.envelope import Event, source_of
from contracts.facts import AlertRaised, AlertResolved, AlertUpdated, RollbackFailed
from services.notifier.app import WAITS, Notifier
from services.notifier.domain import notices
from services.notifier.domain.notices import KEPT, MOST_ENDED, ModelNotices, Receiver
from services.notifier.ports import SendFailedError
from shared.errors import Transient
from shared.runtime.metrics import counter
from testbed import factories as f
from tests.kit.records import MemoryRecords

PAGER = Receiver(name="pager", kind="webhook", url="http://pager", severities=("critical",))
CHAT = Receiver(name="chat", kind="slack", url="http://chat")
MANAGER = Receiver(name="manager", kind="alertmanager", url="http://manager")
ALL = (PAGER, CHAT, MANAGER)
NOW = f.after(0)
ALERT = f.fact(AlertRaised).alert_id


class World:
    """A notifier whose receivers take all but what they are told to refuse; `sent` is what was tried."""

    def __init__(self, receivers=ALL):
        self.at_s, self.sent, self.refusing, self.hanging = 0.0, [], set(), {}
        records = MemoryRecords(ModelNotices)
        counted = counter(m.NOTIFICATIONS, CollectorRegistry())
        self.notifier = Notifier(records, receivers, self, counted, self)

    def now(self):
        return f.after(self.at_s)

    async def send(self, receiver, notice, transition):  # noqa: ARG002 - as the protocol has it
        self.sent.append((receiver.name, transition.partition("/")[0]))
        if receiver.name in self.hanging:
            await self.hanging[receiver.name].wait()
        if receiver.name in self.refusing:
            raise SendFailedError("answered 500")

    async def record(self):
        entry = await self.notifier.records.get(f.MODEL)
        return entry.value if entry else ModelNotices(model=f.MODEL)

    def took(self):
        """Return what was tried since the last call."""
        sent, self.sent = self.sent, []
        return sent

    async def raised(self, event=None, **changes):
        await self.notifier.alert(event or self.event(AlertRaised, **changes))
        return self.took()

    async def updated(self, **changes):
        await self.notifier.alert(self.event(AlertUpdated, **changes))
        return self.took()

    async def resolved(self, event=None, **changes):
        await self.notifier.alert(event or self.event(AlertResolved, **changes))
        return self.took()

    async def rollback_failed(self, *, at_s=None, **changes):
        fields = {"alert_id": ALERT, "code": "no_previous_target", "reason": "There is none.", **changes}
        await self.notifier.rollback_failed(
            envelope(f.fact(RollbackFailed).model_copy(update=fields), at_s or self.at_s)
        )
        return self.took()

    async def repeated(self):
        await self.notifier.repeat(f.MODEL)
        return self.took()

    def event(self, kind, *, at_s=None, **changes):
        fields = {"drill": None, "severity": "critical", "raised_at": NOW, **changes}
        return envelope(f.fact(kind).model_copy(update=fields), self.at_s if at_s is None else at_s)


def envelope(fact, at_s):
    return Event[type(fact)](
        id=str(uuid.uuid4()),
        source=source_of("monitor"),
        type=fact.TYPE,
        subject=f.MODEL,
        time=f.after(at_s),
        correlationid="r-7",
        data=fact,
    )


def to_all(transition):
    return [("pager", transition), ("chat", transition), ("manager", transition)]


async def test_each_receiver_gets_what_it_takes_once():
    world = World()
    assert await world.raised() == to_all("raised")
    assert await world.raised() == []
    assert await World().raised(severity="info") == [("chat", "raised"), ("manager", "raised")]


async def test_a_receiver_of_other_models_gets_nothing():
    assert await World((CHAT.model_copy(update={"models": ("another-bot",)}),)).raised() == []


async def test_alerts_of_drills_are_never_sent():
    world = World()
    assert await world.raised(drill="drill-3") == []
    assert await world.resolved(drill="drill-3") == []
    assert (await world.record()).notices == {}


async def test_an_alert_that_is_no_longer_a_drills_is_sent():
    world = World()
    await world.raised(drill="drill-3")
    assert await world.updated() == to_all("raised")


async def test_the_end_follows_the_beginning_also_if_a_drill_began_meanwhile():
    world = World()
    await world.raised()
    assert await world.resolved(drill="drill-3") == to_all("resolved")
    assert await world.repeated() == [], "nothing is repeated after the end"
    assert await world.resolved() == []
    assert await world.raised() == []


async def test_an_open_alert_is_repeated_to_alertmanager_only():
    world = World()
    await world.raised()
    for _ in range(3):
        assert await world.repeated() == [("manager", "raised")]


async def test_alertmanager_is_tried_on_after_a_failed_repeat():
    world = World()
    await world.raised()
    world.refusing = {"manager"}
    assert await world.repeated() == [("manager", "raised")]
    assert await world.repeated() == [("manager", "raised")]
    assert world.notifier.counted.labels("manager", "failed")._value.get() == 2


async def test_the_next_occurrence_is_another_alert():
    world = World()
    await world.raised()
    await world.resolved()
    world.at_s = 300
    assert await world.raised(raised_at=f.after(300)) == to_all("raised")


async def test_what_failed_is_tried_again_and_the_end_waits_behind_it():
    world = World((CHAT, PAGER))
    world.refusing = {"chat"}
    assert await world.raised() == [("chat", "raised"), ("pager", "raised")]
    for _ in range(3):
        assert await world.repeated() == [("chat", "raised")]
    assert await world.raised(alert_id="another") == [("pager", "raised")], "an event waits for no failing receiver"
    assert await world.resolved() == [("pager", "resolved")]
    world.refusing = set()
    assert sorted(await world.repeated()) == [("chat", "raised"), ("chat", "raised"), ("chat", "resolved")]
    assert await world.repeated() == []


async def test_what_one_took_is_known_to_all_while_another_hangs():
    world = World((CHAT, PAGER))
    world.hanging = {"chat": asyncio.Event()}
    raising = asyncio.create_task(world.notifier.alert(world.event(AlertRaised)))
    async with asyncio.timeout(5):
        while not any(each.sent.get("pager") for each in (await world.record()).notices.values()):
            await asyncio.sleep(0)
    other = World((CHAT, PAGER))
    other.notifier = Notifier(world.notifier.records, (CHAT, PAGER), other, other.notifier.counted, other)
    assert await other.repeated() == [("chat", "raised")]
    world.hanging["chat"].set()
    await raising


async def test_it_is_tried_while_the_alert_is_open_and_a_week_longer():
    world = World((CHAT,))
    world.refusing = {"chat"}
    await world.raised()
    world.at_s = 2 * KEPT.total_seconds()
    assert await world.repeated() == [("chat", "raised")]
    await world.resolved()
    world.took()
    world.at_s += KEPT.total_seconds()
    assert await world.repeated() == []


async def test_a_receiver_that_is_added_gets_open_alerts_only():
    world = World((CHAT,))
    await world.raised()
    other = World((CHAT, PAGER))
    other.notifier = Notifier(world.notifier.records, (CHAT, PAGER), other, other.notifier.counted, other)
    assert await other.repeated() == [("pager", "raised")]
    await world.resolved()
    third = World((CHAT, PAGER, MANAGER))
    third.notifier = Notifier(world.notifier.records, (MANAGER,), third, third.notifier.counted, third)
    assert await third.repeated() == []


async def test_an_alert_of_last_week_is_not_sent():
    long_ago = -KEPT.total_seconds() - 1
    assert await World().raised(at_s=long_ago, raised_at=f.after(long_ago)) == []


async def test_an_end_that_is_read_first_is_sent_after_its_beginning():
    world = World((CHAT,))
    assert await world.resolved() == [("chat", "raised"), ("chat", "resolved")]
    assert await world.raised() == []


async def test_the_end_of_an_alert_that_was_sent_is_sent_however_long_it_was_open():
    world = World()
    await world.raised()
    world.at_s = KEPT.total_seconds() + 86_400
    assert await world.resolved() == to_all("resolved")
    world.at_s += KEPT.total_seconds()
    await world.repeated()
    assert (await world.record()).notices == {}


async def test_an_update_of_an_unknown_alert_shows_that_it_is_open():
    assert await World().updated(message="worse") == to_all("raised")
    world = World()
    await world.raised()
    await world.updated(message="worse")
    await world.raised()
    assert [notice.alert.message for notice in (await world.record()).notices.values()] == ["worse"]


async def test_an_alert_that_becomes_critical_is_sent_to_those_who_take_only_critical_ones():
    world = World()
    assert await world.raised(severity="warning") == [("chat", "raised"), ("manager", "raised")]
    assert await world.updated() == [("pager", "raised")]
    assert sorted(await world.resolved()) == sorted(to_all("resolved"))


async def test_all_who_know_of_an_alert_are_told_once_that_no_rollback_follows():
    world = World((PAGER, CHAT))
    await world.raised()
    assert await world.rollback_failed() == [("pager", "rollback_failed"), ("chat", "rollback_failed")]
    assert await world.rollback_failed() == []
    assert len(await world.rollback_failed(code="previous_not_ready")) == 2


async def test_a_failed_rollback_that_is_read_before_its_alert_waits_for_it():
    world = World((CHAT,))
    with pytest.raises(Transient):
        await world.rollback_failed(at_s=5)
    await world.raised()
    assert await world.rollback_failed(at_s=5) == [("chat", "rollback_failed")]
    unknown = World((CHAT,))
    unknown.at_s = WAITS.total_seconds() + 5
    assert await unknown.rollback_failed(at_s=5) == []


async def test_a_rollback_that_no_alert_asked_for_changes_nothing():
    world = World()
    await world.raised()
    assert await world.rollback_failed(alert_id="") == []
    world.at_s = WAITS.total_seconds() + 1
    assert await world.rollback_failed(alert_id="another", at_s=0.5) == []
    await world.resolved()
    assert await world.rollback_failed() == []


async def test_a_receiver_that_is_no_longer_configured_keeps_nothing():
    world = World()
    await world.raised()
    fewer = World((CHAT,))
    fewer.notifier = Notifier(world.notifier.records, (CHAT,), fewer, fewer.notifier.counted, fewer)
    assert await fewer.resolved() == [("chat", "resolved")]


def test_few_alerts_that_ended_are_kept():
    ended = {
        f"a{number}": notices.Notice(alert=f.fact(AlertRaised), resolved_at=f.after(number))
        for number in range(MOST_ENDED + 5)
    }
    kept = notices.prune(ModelNotices(model=f.MODEL, notices=ended), f.after(MOST_ENDED)).notices
    assert len(kept) == MOST_ENDED
    assert "a0" not in kept


STEPS = st.lists(st.sampled_from(["raise", "resolve", "update", "held", "repeat", "refuse", "take"]), max_size=30)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_no_history_sends_a_beginning_after_its_end(steps):
    async def run():
        world = World()
        acts = {
            "raise": world.raised,
            "resolve": world.resolved,
            "update": world.updated,
            "held": world.rollback_failed,
            "repeat": world.repeated,
        }
        tried = []
        for step in steps:
            if step in ("refuse", "take"):
                world.refusing = {"chat", "manager"} if step == "refuse" else set()
                continue
            try:
                tried += await acts[step]()
            except Transient:
                tried += world.took()
        return tried

    for name in ("pager", "chat", "manager"):
        transitions = [transition for receiver, transition in asyncio.run(run()) if receiver == name]
        ends = [number for number, transition in enumerate(transitions) if transition == "resolved"]
        if ends:
            assert set(transitions[ends[0] :]) == {"resolved"}, (name, transitions)
