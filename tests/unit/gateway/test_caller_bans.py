"""A caller whose requests are there at each of several deaths is refused for a while, and one that is framed not long."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway import caller_bans
from services.gateway.caller_bans import WINDOW_S, CallerBans, find_killer
from services.gateway.domain.errors import RequestRejected
from services.gateway.engine_deaths import QUIET_S, Sender
from tests.unit.gateway.bans import asked, world
from tests.unit.gateway.fakes import StepClock
from tests.unit.gateway.world import OTHER, OTHER_KEY, OWN_KEYS

A, B, C = (Sender(name, name) for name in "abc")


class Killed:
    """Callers' bans after deaths of one engine."""

    def __init__(self, ban_s=60.0):
        self.clock = StepClock()
        self.changes = Counter()
        self.bans = CallerBans(self.clock, ban_s, lambda change: self.changes.update([change]))
        for sender, requests in ((A, 10), (B, 20), (C, 40), (Sender("d", "d"), 200)):
            for _ in range(requests):
                self.bans.note_request("e:1", sender)

    def die(self, *senders, alone=False, target="m@7"):
        self.bans.note_death("e:1", target, senders, alone=alone)

    def refused(self, *senders, target="m@7"):
        return [sender.caller for sender in senders if self.is_refused(sender, target)]

    def is_refused(self, sender, target="m@7"):
        try:
            self.bans.check(["e:1"], target, sender)
        except RequestRejected as rejection:
            return (rejection.problem.status, rejection.problem.code) == (403, "caller_refused")
        return False


def test_two_deaths_in_a_row_under_one_caller_alone_are_enough():
    made = Killed()
    made.die(A, alone=True)
    assert made.refused(A, B) == []
    made.die(A, alone=True)
    assert made.refused(A, B) == ["a"]
    made.bans.check(["f:1"], "m@7", A)  # another endpoint takes its requests


def test_with_others_in_flight_it_takes_three_and_only_who_was_always_there_is_refused():
    made = Killed()
    for other in (B, C, B):
        assert made.refused(A, B, C) == []
        made.die(A, other)
    assert made.refused(A, B, C) == ["a"]


async def test_one_that_was_framed_is_refused_no_more_once_the_engine_dies_without_it():
    made = Killed()
    for _ in range(3):
        made.die(A, C)  # C kills, whenever A has a request there
    assert made.refused(A, C) == ["a"]
    made.die(C)
    assert made.refused(A, C) == ["c"], "it was at the last three, and A was not"


async def attack(made, kills, *, victim, lasts_s=3600):
    """Kill the engine each 20 s while the victim has a request there, and return how long it was refused."""
    refused_s = 0
    for second in range(lasts_s):
        await made.clock.pause(1)
        gone = bool(made.refused(victim))
        refused_s += gone
        killer = kills(second)
        if second % 20 == 0 and not gone and not made.refused(killer):
            made.die(victim, killer)
    return refused_s


async def test_one_that_kills_only_while_another_is_there_is_refused_as_often():
    made, other = Killed(), Killed()
    framed_s = await attack(made, lambda _: C, victim=A)
    killers_s = await attack(other, lambda _: A, victim=C)  # the same, but the one with fewer requests is the killer
    assert 0 < framed_s <= 1800
    assert abs(framed_s - killers_s) <= 120


@settings(max_examples=30)
@given(st.lists(st.integers(6, 90), max_size=40))
def test_of_several_that_are_there_each_time_none_is_refused_again_before_the_others(waits):
    made, refused = Killed(), Counter()

    async def play():
        for wait_s in waits:
            await made.clock.pause(wait_s)
            before = made.refused(A, B, C)
            if not before:
                made.die(A, B, C)
                refused.update(made.refused(A, B, C))

    asyncio.run(play())
    assert max(refused.values(), default=0) - min(refused[name] for name in "abc") <= 1


async def test_keys_in_turn_are_their_team_as_often_as_the_one_that_was_there_each_time():
    made = Killed()
    keys = [Sender(f"key-{number}", "team") for number in range(3)]
    for sender in keys * 10:
        made.bans.note_request("e:1", sender)
    framed_s = await attack(made, lambda second: keys[second // 20 % 3], victim=A)
    assert 0 < framed_s <= 1800


async def test_one_that_is_refused_beside_others_is_not_refused_for_longer_each_time():
    made = Killed()
    for _ in range(3):
        for number in range(3):
            assert made.refused(A) == []
            made.die(A, Sender(f"x-{number}", f"x-{number}"))
        await made.clock.pause(59)
        assert made.refused(A) == ["a"]
        await made.clock.pause(2)
        assert made.refused(A) == [], "no longer than the first time, and three deaths later at the earliest"


@pytest.mark.parametrize("alone_first", [True, False])
async def test_only_one_that_was_alone_both_times_is_refused_for_longer_the_second_time(alone_first):
    made = Killed()
    for alone in (alone_first, not alone_first):
        for _ in range(3):
            if made.refused(A) == []:
                made.die(A, *(() if alone else (B,)), alone=alone)
        await made.clock.pause(59)
        assert made.refused(A) == ["a"]
        await made.clock.pause(2)
        assert made.refused(A) == []


async def test_a_death_without_one_that_was_refused_does_not_forget_that_it_was():
    made = Killed()
    for _ in range(3):
        made.die(A, B)
    assert made.refused(A, B) == ["a"]
    await made.clock.pause(61)
    for senders in ((C,), (A, B), (A, B), (A, B)):
        assert made.refused(A, B) == []
        made.die(*senders)
    assert made.refused(A, B) == ["b"], "the other one, though it has more requests"


async def test_deaths_of_several_targets_do_not_count_together():
    made = Killed()
    for other, target in ((B, "m@7"), (C, "m@7"), (B, "n@1")):
        made.die(A, other, target=target)
        await made.clock.pause(10)
    assert [made.refused(A, B, C, target=target) for target in ("m@7", "n@1")] == [[], []]


async def test_beside_one_with_most_of_the_requests_the_other_is_refused_again():
    made = Killed()
    for _ in range(2):
        for _ in range(3):
            made.die(A, Sender("d", "d"))
        assert made.refused(A, Sender("d", "d")) == ["a"]
        await made.clock.pause(61)


def test_what_a_version_does_by_itself_refuses_no_caller_at_another_version():
    made = Killed()
    for _ in range(3):
        made.die(A, B)
    assert made.refused(A) == ["a"]
    assert made.refused(A, target="m@6") == []
    made.die(A, B, target="m@6")
    assert made.refused(A, target="m@6") == []


async def test_the_death_of_another_target_lifts_no_ban():
    """Else an accomplice lifts it who kills another model on the same Triton."""
    made = Killed()
    for _ in range(3):
        made.die(A, B)
    assert made.refused(A, B) == ["a"]
    await made.clock.pause(10)
    made.die(C, target="n@1")
    assert made.refused(A, B) == ["a"]
    made.die(B, target="m@7")
    assert made.refused(A, B) == ["b"], "its own, of the same incident, does: the other one was there each time"


async def test_targets_that_die_of_one_cause_are_one_death():
    made = Killed()
    for _ in range(2):
        for target in ("m@7", "m@6", "n@1"):
            made.die(A, B, target=target)
        await made.clock.pause(30)
    assert [made.refused(A, B, target=target) for target in ("m@7", "m@6", "n@1")] == [[], [], []]
    made.die(A, target="m@6")
    assert [made.refused(A, B, target=target) for target in ("m@7", "m@6", "n@1")] == [["a"]] * 3


async def test_deaths_count_for_a_target_that_always_dies_a_moment_after_another_one():
    made = Killed()
    for other in ("n@1", "n@2", "n@3"):
        assert made.refused(A, C) == []
        made.die(A, C, target=other)
        made.die(A, C, target="m@7")
        await made.clock.pause(20)
    assert made.refused(A, C) == ["a"]
    assert made.changes["caller_banned"] == 1
    made.die(C, target="n@3")
    assert made.refused(A, C) == ["a"], "another target's death says nothing of it"


async def test_each_time_in_a_row_is_twice_as_long_and_a_quiet_time_forgets_it():
    made = Killed()
    made.die(A, alone=True)
    for length_s in (60, 120, 240, 480, 480):
        made.die(A, alone=True)
        await made.clock.pause(length_s - 1)
        assert made.refused(A) == ["a"]
        await made.clock.pause(2)
        assert made.refused(A) == []
    await made.clock.pause(WINDOW_S)
    made.die(A, alone=True)
    assert made.refused(A) == []


def test_keys_of_one_team_that_take_turns_are_refused_together():
    made = Killed()
    for number in range(2):
        made.die(Sender(f"key-{number}", "team"), alone=True)
    assert made.refused(Sender("key-7", "team"), A) == ["key-7"]


def test_one_with_most_of_the_requests_is_not_refused():
    made = Killed()
    for _ in range(3):
        made.die(Sender("d", "d"), alone=True)
    assert made.refused(Sender("d", "d")) == []


def test_deaths_without_any_request_and_a_limit_of_zero_refuse_no_caller():
    made, never = Killed(), Killed(ban_s=0.0)
    for _ in range(4):
        made.die()
        never.die(A, alone=True)
    assert made.refused(A, B, C) == never.refused(A) == []
    assert find_killer([], Counter(), {}) is None


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(caller_bans, "_MOST_COUNTED", 10)
    monkeypatch.setattr(caller_bans, "_MOST", 3)
    made = Killed()
    for number in range(100):
        made.bans.note_request(f"e:{number % 5}", Sender(f"key-{number}", "team"))
    assert len(made.bans._seen) <= 3
    assert all(len(seen.begun) <= 10 for seen in made.bans._seen.values())


async def test_a_caller_that_changes_the_body_each_time_is_refused_and_others_are_not():
    made = world(keys=(*OWN_KEYS, OTHER_KEY))
    for _ in range(20):
        assert (await made.chat(headers=OTHER)).status_code == 200
    for number in range(2):
        await quiet_of_others(made)
        assert (await made.chat(**asked(f"kill {number}"))).status_code == 502
    refused = await made.chat(**asked("hello"))
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "caller_refused"
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert (await made.chat(headers=OTHER)).status_code == 200
    assert made.metric('slipway_gateway_body_bans_total{change="caller_banned"} 1.0')
    assert made.metric('slipway_gateway_body_bans_total{change="caller_refused"} 1.0')


async def quiet_of_others(made):
    """Let the engine answer another caller, and time pass until no earlier request can be the cause of what comes."""
    assert (await made.chat(headers=OTHER)).status_code == 200
    await made.clock.pause(QUIET_S)


async def test_after_deaths_of_one_incident_each_it_takes_three_new_ones_to_refuse_another_caller():
    made = Killed()
    for other in ("n@1", "n@2", "n@3"):
        made.die(A, C, target=other)
        made.die(A, C)
        await made.clock.pause(20.0)
    assert made.refused(A, C) == ["a"]
    await made.clock.pause(70.0)
    for other in ("n@4", "n@5"):
        made.die(A, C, target=other)
        made.die(A, C)
        assert made.refused(A, C) == []
        await made.clock.pause(20.0)
    made.die(A, C, target="n@6")
    made.die(A, C)
    assert made.refused(A, C) == ["c"]
