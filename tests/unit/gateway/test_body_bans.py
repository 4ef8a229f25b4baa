"""A request under which an engine died is refused for a while, and no caller can have another's refused."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.api_usage import DemandReport
from contracts.routes import ShadowShare
from services.gateway import body_bans, endpoint, engine_deaths
from services.gateway.domain.body_digests import digest_of
from services.gateway.domain.requests import read_request
from services.gateway.engine_deaths import QUIET_S, EngineDeaths
from shared.errors import Transient
from testbed import factories as f
from tests.unit.gateway.bans import DEAD, Killable, asked, kill_beside, quiet, world
from tests.unit.gateway.fakes import FakeEngine, StepClock
from tests.unit.gateway.world import OTHER, OTHER_KEY, OWN_KEYS, World

UNSEEN = ShadowShare(served=f.served(8), share_ratio=1.0)


def shown(made):
    lines = made.metric("slipway_gateway_body_bans_total{")
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


def counted(made):
    return {change: count for change, count in shown(made).items() if count}


def test_a_rule_sees_the_first_ban_of_a_process():
    """`increase` does not see a series that begins at 1."""
    assert shown(world()) == dict.fromkeys(("banned", "refused", "caller_banned", "caller_refused"), 0.0)


async def test_what_was_alone_when_the_engine_died_is_refused_to_all_and_never_sent_again():
    made = world(keys=(*OWN_KEYS, OTHER_KEY))
    await quiet(made)
    assert (await made.chat(**asked("kill"))).status_code == 502
    sent = len(made.engine.calls)
    for headers in (None, OTHER):
        refused = await made.chat(**asked("kill"), headers=headers)
        assert refused.status_code == 422
        assert 590 <= int(refused.headers["retry-after"]) <= 600
        error = refused.json()["error"]
        assert error["code"] == "body_refused"
        assert "died" in error["message"]
        assert "again after that time" in error["message"]
    assert len(made.engine.calls) == sent
    assert counted(made) == {"banned": 1.0, "refused": 2.0}
    assert (await made.chat()).status_code == 200


async def test_a_refusal_is_no_evidence_and_costs_nothing():
    made = world()
    await quiet(made)
    await made.chat(**asked("kill"))
    records, used = len(made.records), made.budgets.used("0123456789ab")
    assert (await made.chat(**asked("kill"))).status_code == 422
    assert len(made.records) == records
    assert made.budgets.used("0123456789ab") == used


async def test_other_forms_of_the_same_request_are_refused_and_other_requests_are_not():
    made = world()
    await quiet(made)
    await made.chat(**asked("kill"))
    assert (await made.chat(**asked("kill"), stream=True, user="ada")).status_code == 422
    assert (await made.chat(**asked("kill"), model=f"{f.MODEL}@v7")).status_code == 422
    assert (await made.chat(**asked("kill"), model=f"{f.MODEL}@v6")).status_code == 422
    assert (await made.chat(**asked("hello"))).status_code == 200
    assert (await made.complete(prompt="hello")).status_code == 200


async def test_it_ends_and_can_be_switched_off():
    made = world(body_ban_s=30)
    await quiet(made)
    await made.chat(**asked("kill"))
    await made.clock.pause(30.0)
    assert (await made.chat(**asked("kill"))).status_code == 502
    off = world(body_ban_s=0)
    for _ in range(3):
        await quiet(off)
        assert (await off.chat(**asked("kill"))).status_code == 502


async def test_the_version_behind_does_not_get_it_after_a_rollback_and_a_new_version_does():
    made = world()
    await quiet(made)
    await made.chat(**asked("kill"))
    back = f.route(canary=None, active=f.served(6), previous=None, quarantined=(f.target(7),), epoch=50)
    await made.table.apply(f.MODEL, back, 2)
    assert (await made.chat(**asked("kill"))).status_code == 422
    new = f.route(canary=None, active=f.served(9), previous=f.served(6), epoch=51)
    await made.table.apply(f.MODEL, new, 3)
    assert (await made.chat(**asked("kill"))).status_code == 502


async def test_of_several_each_is_refused_after_the_second_death_and_to_its_caller_only():
    made = world(keys=(*OWN_KEYS, OTHER_KEY))
    assert (await kill_beside(made, "slow")).status_code == 502
    assert counted(made) == {}
    assert (await kill_beside(made, "slow")).status_code == 502
    assert counted(made) == {"banned": 2.0}
    assert (await made.chat(**asked("slow"))).status_code == 422
    assert (await made.chat(**asked("kill"))).status_code == 422
    assert (await made.chat(**asked("slow"), headers=OTHER)).status_code == 502


async def test_two_copies_of_a_request_that_meet_one_death_are_suspects_only():
    """A caller that asked twice at once was refused after a death that another one caused."""
    made = world()
    assert (await made.chat()).status_code == 200
    copies = [asyncio.ensure_future(made.chat(**asked("slow"))) for _ in range(2)]
    while made.engine.slow < len(copies):
        await asyncio.sleep(0)
    await made.chat(**asked("kill"))
    assert [answer.status_code for answer in await asyncio.gather(*copies)] == [502, 502]
    assert counted(made) == {}
    assert (await kill_beside(made, "slow")).status_code == 502
    assert (await made.chat(**asked("slow"))).status_code == 422, "the second death"


async def test_who_is_answered_in_between_is_no_suspect():
    made = world()
    for number in range(4):
        assert (await kill_beside(made, "slow", killer=f"kill {number}")).status_code == 502
        made.engine.answers_slow = True
        assert (await made.chat(**asked("slow"))).status_code == 200
        made.engine.answers_slow = False


@pytest.mark.parametrize("sole", [False, True])
async def test_only_who_sees_all_requests_can_say_that_one_was_alone(sole):
    made = world(sole=sole)
    if sole:
        made.shares.take_report(DemandReport(process="ab" * 8, demand={}))
    await quiet(made)
    assert (await made.chat(**asked("kill"))).status_code == 502
    assert (await made.chat(**asked("kill"))).status_code == 502


async def test_what_has_no_part_of_its_answer_may_have_met_a_dead_engine_and_is_refused_after_the_second_death():
    made = world(keys=(*OWN_KEYS, OTHER_KEY))
    made.engine.begins = False
    for _ in range(2):
        await quiet(made)
        assert (await made.chat(**asked("kill"))).status_code == 502
    assert (await made.chat(**asked("kill"))).status_code == 422
    assert (await made.chat(**asked("kill"), headers=OTHER)).status_code == 422


async def test_a_death_of_two_versions_is_a_second_death():
    made = world()
    made.engine.begins = False
    await quiet(made)
    await made.chat(**asked("kill"))
    await made.table.apply(f.MODEL, f.route(canary=None, active=f.served(6), previous=f.served(7), epoch=50), 2)
    await quiet(made)
    await made.chat(**asked("kill"))
    assert (await made.chat(**asked("kill"))).status_code == 422


async def test_what_meets_an_engine_that_is_dead_already_did_not_kill_it():
    made = world()
    await quiet(made)
    await made.chat(**asked("kill"))  # and it is dead
    made.engine.poison = {"": DEAD}
    for _ in range(3):
        assert (await made.chat(**asked("innocent"))).status_code == 502
    made.engine.poison = {}
    assert (await made.chat(**asked("innocent"))).status_code == 200
    assert (await made.chat(**asked("kill"))).status_code == 422


NEW, OLD = str(f.target(7)), str(f.target(6))


class Repeating(Killable):
    """Version 7 fails a request with `kill` after its first token; the version behind begins its answer, and dies."""

    async def send(self, endpoint, target, request):
        is_killer, begun = b"kill" in request.body, 0
        if not is_killer and b"slow" not in request.body:
            async for piece in super().send(endpoint, target, request):
                yield piece
            return
        if not is_killer:
            self.slow += 1
        async for piece in FakeEngine.send(self, endpoint, target, request):
            yield piece
            begun += 1
            if is_killer and str(target) == NEW and begun == 3:
                raise Transient("engine_failed", "KeyError")
            if is_killer and str(target) == OLD:
                self.died.set()
                raise DEAD
            if not is_killer and begun == 1:
                await self.died.wait()
                raise DEAD


def behind(*endpoints):
    return f.route(canary=None, active=f.served(7), previous=f.served(6, endpoints=endpoints or ("127.0.0.1:8001",)))


@pytest.mark.parametrize("apart", [False, True])
async def test_what_kills_the_version_behind_in_a_cross_check_is_refused(apart):
    made = world(Repeating(), route=behind(*(("b:1",) if apart else ())))
    assert (await made.chat(model=f"{f.MODEL}@v6")).status_code == 200
    for _ in range(4):
        await quiet(made)
        assert (await made.chat(model=f"{f.MODEL}@v6")).status_code == 200
        last = await made.chat(**asked("kill"), stream=True)
    killed = sum((name, text) == (OLD, "kill") for _, name, text in made.engine.calls)
    assert killed == (1 if apart else 2), "where the two share an endpoint, the failed attempt was there just before"
    assert last.status_code == 422


async def test_a_cross_check_that_kills_an_engine_puts_no_blame_on_who_is_there():
    made = world(Repeating(), route=behind("b:1"), keys=(*OWN_KEYS, OTHER_KEY))
    await quiet(made)
    assert (await made.chat(model=f"{f.MODEL}@v6")).status_code == 200
    await made.clock.pause(QUIET_S)
    other = asyncio.ensure_future(made.chat(**asked("slow"), model=f"{f.MODEL}@v6", headers=OTHER, stream=True))
    while not made.engine.slow:
        await asyncio.sleep(0)
    await made.chat(**asked("kill"), stream=True)
    await other
    assert counted(made) == {}
    made.engine.died.set()
    assert (await made.chat(**asked("slow"))).status_code != 422


async def test_a_cross_check_that_ends_in_silence_or_without_its_end_is_told_apart():
    """Silence is no death, and an answer that breaks off without a word is one."""
    silent = Transient("engine_dead", "silent for 20 s", silent_s=20.0)

    class Ending(Repeating):
        async def send(self, endpoint, target, request):
            begun = 0
            async for piece in super().send(endpoint, target, request):
                yield piece
                begun += b"kill" in request.body and str(target) == OLD
                if begun == 1 and self.ends == "silent":
                    raise silent
                if begun == 1:
                    return

    for ends, banned in (("silent", {}), ("cut", {"banned": 1.0})):
        made = world(Ending(), route=behind("b:1"))
        made.engine.ends = ends
        await quiet(made)
        assert (await made.chat(model=f"{f.MODEL}@v6")).status_code == 200
        await made.clock.pause(QUIET_S)
        await made.chat(**asked("kill"), stream=True)
        assert counted(made) == banned
        assert [(record.error, record.caused_by) for record in made.records][-1] == ("engine_failed", "infrastructure")


async def test_silence_is_no_death():
    silent = Transient("engine_dead", "silent for 20 s", silent_s=20.0)
    made = world(FakeEngine(break_after=(1, silent)))
    for _ in range(3):
        assert (await made.chat(**asked("long"))).status_code == 502
        await made.clock.pause(QUIET_S)
    assert counted(made) == {}


async def test_an_endpoint_that_cannot_be_reached_is_no_death():
    made = world(FakeEngine(break_after=(1, Transient("endpoint_unreachable", "reset"))))
    for _ in range(3):
        assert (await made.chat(**asked("long"))).status_code == 502
        await made.clock.pause(QUIET_S)
    assert counted(made) == {}


async def test_a_gateway_that_never_saw_the_engine_alive_blames_nobody():
    made = world()
    made.engine.begins = False
    for _ in range(3):
        assert (await made.chat(**asked("kill"))).status_code == 502


async def test_a_caller_that_sends_a_killer_and_leaves_puts_no_blame_on_who_is_left():
    deaths = EngineDeaths(clock := StepClock(), lambda: True)
    killer, honest = (deaths.begin("a:1", f.target(7)) for _ in range(2))
    honest.note_piece()
    killer.end(complete=False)  # it hung up; the engine dies of it a moment later
    honest.note_death()
    assert honest.involvement == "shared"
    honest.end(complete=False)
    await clock.pause(QUIET_S)
    later = deaths.begin("a:1", f.target(7))
    later.note_piece()
    later.note_death()
    assert later.involvement == "certain"


def test_targets_of_one_endpoint_share_a_process():
    deaths = EngineDeaths(StepClock(), lambda: True)
    first, other = deaths.begin("a:1", f.target(7)), deaths.begin("a:1", f.target(6))
    elsewhere = deaths.begin("b:1", f.target(7))
    for attempt in (first, other, elsewhere):
        attempt.note_piece()
    first.note_death()
    assert [attempt.involvement for attempt in (first, other, elsewhere)] == ["shared", "none", "none"]


async def test_a_second_try_that_is_answered_clears_the_request():
    made = world(FakeEngine())
    await quiet(made)
    endpoint = made.engine.calls[-1][0]
    for _ in range(3):
        made.engine.failures = {endpoint: [DEAD]}
        assert (await made.chat(**asked("hello"))).status_code == 200
        await made.clock.pause(QUIET_S)
    assert counted(made) == {}


async def test_the_tables_are_bounded(monkeypatch):
    monkeypatch.setattr(body_bans, "MOST", 3)
    monkeypatch.setattr(engine_deaths, "_MOST_ENGINES", 2)
    made = world()
    for number in range(6):
        await quiet(made)
        await made.chat(**asked(f"kill {number}"))
    statuses = [(await made.chat(**asked(f"kill {number}"))).status_code for number in (3, 4, 5)]
    assert statuses == [422, 422, 422]
    assert (await made.chat(**asked("kill 0"))).status_code == 502
    deaths = EngineDeaths(StepClock(), lambda: True)
    for number in range(20):
        deaths.begin(f"a:{number}", f.target(7)).end(complete=False)
    assert len(deaths._engines) <= 2


def parsed(body):
    return read_request("/v1/completions", json.dumps(body).encode(), body)


@given(
    st.dictionaries(st.sampled_from(["prompt", "seed", "stop", "n"]), st.text(max_size=5) | st.integers(), max_size=4),
    st.booleans(),
    st.text(max_size=5),
)
def test_the_digest_ignores_form_and_delivery_only(fields, stream, user):
    plain = digest_of(parsed({"model": "m", **fields}))
    other = dict(reversed(list(fields.items())))
    assert digest_of(parsed({"user": user, **other, "model": "m@v1", "stream": stream})) == plain
    assert digest_of(parsed({"model": "m", **fields, "prompt": "something longer"})) != plain


async def test_what_is_refused_no_longer_costs_no_request_a_digest(monkeypatch):
    computed = []
    monkeypatch.setattr(endpoint, "digest_of", lambda parsed: computed.append(parsed) or digest_of(parsed))
    made = world(body_ban_s=30)
    await quiet(made)
    await made.chat(**asked("kill"))
    await made.chat()
    assert len(computed) == 1
    await made.clock.pause(30)
    await made.chat()
    assert len(computed) == 1


async def test_what_no_candidate_died_of_lately_costs_a_canary_no_digest(monkeypatch):
    computed = []
    monkeypatch.setattr(endpoint, "digest_of", lambda parsed: computed.append(parsed) or digest_of(parsed))
    shadowed = f.route(canary=None, quarantined=(), active=f.served(7, pair_ratio=0.0), shadow=UNSEEN)
    made = World(shadowed, engine=FakeEngine(poison={"hello": DEAD}, faulty={str(f.target(8))}), body_ban_s=30)
    await made.ask(1)
    canary = f.CanaryShare(served=f.served(8, pair_ratio=0.0), weight_ratio=0.99)
    await made.table.apply(f.MODEL, f.route(canary=canary, quarantined=(), active=f.served(7), epoch=13), 2)
    await made.ask(3, **asked("other"))
    assert len(computed) >= 2
    before = len(computed)
    await made.clock.pause(30)
    await made.ask(3, **asked("other"))
    assert len(computed) == before
