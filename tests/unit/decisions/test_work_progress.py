"""Reports of work are shown while their results are awaited."""

from contracts import facts as f
from contracts.facts.progress import StepProgress
from decisions.releases.work_progress import ongoing
from testbed import factories
from testbed.factories import after


def report(step, seconds, variant=None, **fields):
    return factories.event(factories.fact(f.WorkProgressed, step=step, variant=variant, **fields), time=after(seconds))


def test_of_each_awaited_variant_the_last_report_is_shown_in_the_order_of_the_variants():
    reports = [report("quantise", 20, "gptq-int4", done=1.0), report("quantise", 25, "gptq-int4", done=2.0)]
    reports += [report("quantise", 21, "int8"), report("merge", 9)]
    shown = ongoing(factories.progress(variants=("int8", "gptq-int4")), reports)
    assert [(work.variant, work.done) for work in shown] == [("gptq-int4", 2.0)], "int8 is quantised, the rest merged"
    merged = factories.progress().steps[0]
    both = StepProgress(name="quantised", title="quantising", state="running", awaited=("int8", "gptq-int4"))
    shown = ongoing(factories.progress(variants=("int8", "gptq-int4"), steps=(merged, both)), reports)
    assert [work.variant for work in shown] == ["int8", "gptq-int4"]


def test_a_report_of_an_earlier_step_is_not_shown_while_the_variant_waits_for_the_next():
    merged, quantised = factories.progress().steps
    quantised = quantised.model_copy(update={"state": "done", "at": after(30), "awaited": ()})
    queued = StepProgress(name="staged", title="staging", state="running", awaited=("int8", "gptq-int4"))
    waiting = factories.progress(steps=(merged, quantised, queued))
    assert ongoing(waiting, [report("quantise", 29, "gptq-int4")]) == ()
    assert [work.step for work in ongoing(waiting, [report("stage", 31, "gptq-int4")])] == ["stage"]


def test_loading_again_what_takes_traffic_is_shown_and_nothing_after_the_end():
    moving = factories.progress(target=factories.target(7, "int8"))
    assert [work.step for work in ongoing(moving, [report("stage", 12, "int8"), report("merge", 11)])] == ["stage"]
    assert ongoing(moving, [report("stage", 11, "int8")]) == (), "older than the merge's end"
    assert ongoing(factories.progress(outcome="cancelled"), [report("quantise", 20, "gptq-int4")]) == ()


def test_the_share_of_the_work_is_never_more_than_all_of_it():
    for done, total, ratio in ((40.0, 30.0, 1.0), (12.0, 30.0, 0.4), (1.0, 0.0, 0.0)):
        assert factories.fact(f.WorkProgressed, done=done, total=total).ratio == ratio
