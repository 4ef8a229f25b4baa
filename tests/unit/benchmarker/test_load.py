"""The load is open: arrivals never wait for answers, and nothing that an engine does can stop it."""

import asyncio

import pytest

from contracts.policy import LoadProfile
from services.benchmarker.domain.plan import Arrival, plan_arrivals
from services.benchmarker.load import WARMUP_PAIR, Load, LoadedSide
from tests.kit.virtual_time import VirtualClock
from tests.unit.benchmarker.factories import BASELINE, CANDIDATE, served
from tests.unit.benchmarker.fakes import Behaviour, FakeEngine
from tests.unit.benchmarker.virtual_time import EPOCH, run_virtually

PROFILE = LoadProfile(requests=25, rate_rps=2.0, output_tokens=5, warmup_requests=3, timeout_s=10.0)
PLAN = plan_arrivals(requests=25, rate_rps=2.0, prompts=2, seed=3)


def ignore(_done, _total):
    return None


def make(candidate=None, baseline=None, *, profile=PROFILE, prompts=("p0", "p1")):
    engine = FakeEngine({str(CANDIDATE): candidate or Behaviour(), str(BASELINE): baseline or Behaviour()})
    sides = {
        "candidate": LoadedSide(served(CANDIDATE), prompts),
        "baseline": LoadedSide(served(BASELINE), ("b0", "b1")),
    }
    return engine, Load(engine=engine, clock=VirtualClock(EPOCH), sides=sides, profile=profile, salt="s")


def run(candidate=None, baseline=None, *, profile=PROFILE, prompts=("p0", "p1"), plan=PLAN, progress=ignore):
    engine, load = make(candidate, baseline, profile=profile, prompts=prompts)
    return engine, run_virtually(load.run(plan, progress))


def of(records, side):
    return [record for record in records if record.side == side]


def test_records_come_in_the_order_of_the_plan_with_the_times_planned():
    _, records = run()
    assert [(record.side, record.pair, record.prompt, record.scheduled_s) for record in records] == [
        (arrival.side, arrival.pair, arrival.prompt, arrival.at_s) for arrival in PLAN
    ]
    assert all(record.sent_s == pytest.approx(record.scheduled_s, abs=1e-6) for record in records)


def test_figures_are_those_of_the_engine():
    _, records = run(Behaviour(first_s=0.25, between_s=0.02))
    for record in of(records, "candidate"):
        assert record.error is None
        assert record.ttft_ms == pytest.approx(250, abs=0.01)
        assert record.itl_ms == pytest.approx(20, abs=0.01)
        assert record.e2e_ms == pytest.approx(330, abs=0.01)
        assert (record.output_tokens, record.input_tokens) == (5, 5)


def test_arrivals_do_not_wait_for_answers():
    engine, records = run(Behaviour(first_s=8.0), Behaviour(first_s=8.0))
    assert all(record.sent_s == pytest.approx(record.scheduled_s, abs=1e-6) for record in records)
    assert engine.most_open > 10


def test_each_side_gets_its_own_prompts():
    engine, _ = run()
    assert {prompt for name, prompt, _ in engine.started if name == str(CANDIDATE)} == {"p0", "p1"}
    assert {prompt for name, prompt, _ in engine.started if name == str(BASELINE)} == {"b0", "b1"}


def test_the_first_token_is_timed_from_the_planned_arrival():
    overdue = [Arrival(at_s=-0.5, side="candidate", pair=0, prompt=0)]
    _, (record,) = run(Behaviour(first_s=0.1), plan=overdue)
    assert record.ttft_ms == pytest.approx(600, abs=0.01)


@pytest.mark.parametrize(
    ("behaviour", "kind", "first"),
    [
        (Behaviour(error="engine_dead"), "engine_dead", False),
        (Behaviour(error="engine_failed", error_after=2), "engine_failed", True),
        (Behaviour(error="bad_request"), "bad_request", False),
        (Behaviour(hang_after=0), "timeout", False),
        (Behaviour(hang_after=3), "timeout", True),
        (Behaviour(first_s=11.0), "timeout", False),
        (Behaviour(mute=True), "empty", False),
    ],
)
def test_every_failure_has_its_kind_and_touches_only_its_own_side(behaviour, kind, first):
    engine, records = run(behaviour)
    assert {record.error for record in of(records, "candidate")} == {kind}
    assert all((record.first_s is not None) is first for record in of(records, "candidate"))
    assert {record.error for record in of(records, "baseline")} == {None}
    assert engine.open == 0


def test_a_hanging_engine_costs_one_deadline_not_one_per_request():
    async def main():
        _, load = make(Behaviour(hang_after=0))
        await load.run(PLAN, ignore)
        return asyncio.get_running_loop().time()

    assert run_virtually(main()) == pytest.approx(PLAN[-1].at_s + 10.0, abs=3.0)


def test_a_prompt_that_the_template_refuses_is_an_error_without_a_request():
    engine, records = run(prompts=("p0", None))
    assert {record.error for record in of(records, "candidate") if record.prompt == 1} == {"template"}
    assert {record.error for record in of(records, "candidate") if record.prompt == 0} == {None}
    assert None not in {prompt for _, prompt, _ in engine.started}


def test_progress_counts_every_request_once():
    seen = []

    def note(done, total):
        seen.append((done, total))

    run(Behaviour(hang_after=0), progress=note)
    assert seen == [(done, len(PLAN)) for done in range(1, len(PLAN) + 1)]


def test_one_token_answers_have_no_inter_token_latency():
    _, records = run(Behaviour(tokens=1))
    assert all(record.itl_ms is None and record.ttft_ms is not None for record in of(records, "candidate"))


def warm_up(candidate=None, baseline=None, profile=PROFILE):
    engine, load = make(candidate, baseline, profile=profile)
    return engine, run_virtually(load.warm_up())


def test_warm_up_requests_go_to_both_sides_one_after_the_other():
    engine, records = warm_up()
    assert len(engine.started) == 2 * PROFILE.warmup_requests == len(records)
    assert engine.most_open == 2
    assert {record.pair for record in records} == {WARMUP_PAIR}


def test_warm_up_stops_at_the_first_error_of_a_side():
    engine, records = warm_up(Behaviour(hang_after=0))
    assert [name for name, _, _ in engine.started].count(str(CANDIDATE)) == 1
    assert [record.error for record in of(records, "candidate")] == ["timeout"]
    assert [record.error for record in of(records, "baseline")] == [None] * 3


def test_no_warm_up_is_no_request():
    assert warm_up(profile=PROFILE.model_copy(update={"warmup_requests": 0}))[1] == ()


def test_a_defect_in_an_adapter_is_not_taken_for_an_error_of_the_engine():
    class Broken(FakeEngine):
        async def stream(self, *_args, **_options):
            raise KeyError("a defect")
            yield

    sides = {
        "candidate": LoadedSide(served(CANDIDATE), ("p", "p")),
        "baseline": LoadedSide(served(BASELINE), ("p", "p")),
    }
    load = Load(engine=Broken({}), clock=VirtualClock(EPOCH), sides=sides, profile=PROFILE, salt="s")
    with pytest.raises(ExceptionGroup) as caught:
        run_virtually(load.run(PLAN, ignore))
    assert caught.group_contains(KeyError)
