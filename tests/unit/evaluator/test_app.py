"""The evaluations of a candidate from staged to committed report, on fakes."""

import json

import pytest

from contracts.evaluations import Evaluations
from contracts.evaluations.results import Anchor
from contracts.facts import VariantStaged
from contracts.vocabulary import ArtifactRef, digest_of
from decisions.scorers.answers import Answer
from services.evaluator.app import Evaluator, _failed
from services.evaluator.domain.report import SHOWN_SLICES, assess_overall, to_event
from services.evaluator.evaluate import Asking
from shared.errors import Permanent, Transient
from shared.runtime.clock import SystemClock
from testbed import factories
from testbed.values import deployable, served, staging_request
from tests.kit.fakes_serving import FakeClock

ROWS = [{"prompt": f"row {number}", "expected": "right", "slice": f"s{number % 3}"} for number in range(60)]
MINE = {"name": "mine", "scorers": [{"kind": "equals"}], "bounds": [{"max_drop": 0.2}]}
BASICS = {"name": "basics", "rows": "default"}


class FakeEndpoint:
    """Answers rightly, except versions that do not."""

    def __init__(self, *wrong):
        self.wrong, self.asked = wrong, 0

    async def ask(self, version, _body, *, timeout_s):
        assert timeout_s > 0
        self.asked += 1
        return Answer("wrong" if version.target.version in self.wrong else "right")


class Rejecting(FakeEndpoint):
    """The baseline rejects every request, as one without a chat template does."""

    async def ask(self, version, body, *, timeout_s):
        return None if version.target.version == 6 else await super().ask(version, body, timeout_s=timeout_s)


class Failing(FakeEndpoint):
    """A version fails at every request."""

    def __init__(self, version, code):
        super().__init__()
        self.version, self.code = version, code

    async def ask(self, version, body, *, timeout_s):
        if version.target.version == self.version:
            raise Transient(self.code, "The engine failed.")
        return await super().ask(version, body, timeout_s=timeout_s)


class FakeReports:
    """Reports and sets in memory."""

    def __init__(self, rows=ROWS):
        self.made, self.set = {}, "\n".join(map(json.dumps, rows)).encode()

    def find(self, output_key):
        return self.made.get(output_key)

    def commit(self, report):
        digest = digest_of(report.model_dump_json().encode())
        ref = ArtifactRef(uri="s3://slipway/manifests/evaluation/x.json", digest=digest, size_bytes=1)
        return self.made.setdefault(report.output_key, (report, ref))

    def read(self, ref):
        return next(report for report, made in self.made.values() if made.digest == ref.digest)

    def rows(self, _ref):
        return self.set


def staged(*sets, **about):
    declared = Evaluations.model_validate({"sets": sets or [MINE]})
    version = about.pop("version", 7)
    versions = {"candidate": deployable(version), "baseline": deployable(version - 1)}
    request = staging_request(purpose="evaluation", evaluations=declared, **versions, **about)
    return factories.fact(VariantStaged, candidate=served(version), baseline=served(version - 1), request=request)


async def evaluate(reports, endpoint, order):
    seen = []

    def progress(done, total):
        seen.append((done, total))

    evaluator = Evaluator(Asking(endpoint, lambda _: "en"), reports, SystemClock())
    return *await evaluator.evaluate(order, progress), seen


async def test_a_candidate_as_good_as_the_baseline_passes_and_the_report_has_every_row():
    report, ref, seen = await evaluate(FakeReports(), FakeEndpoint(), staged())
    (result,) = report.results
    assert (report.verdict, result.asked, len(result.rows)) == ("pass", len(result.rows), result.asked)
    assert seen[-1] == (result.asked, 60)
    fact = to_event(report, ref)
    assert (fact.target.version, fact.baseline.version, fact.report) == (7, 6, ref)
    assert "rows" not in fact.results[0].model_dump()


async def test_one_that_answers_wrongly_fails_with_the_figures_and_the_slices():
    report, _, _ = await evaluate(FakeReports(), FakeEndpoint(7), staged())
    assert report.verdict == "fail"
    assert "mine: equals is lower by 1.000" in report.reason
    assert {score.slice for score in report.results[0].scores} == {"", "s0", "s1", "s2"}
    assert len(report.results[0].worse) == 3


async def test_an_event_has_the_slices_that_changed_most():
    rows = [{"prompt": f"row {number}", "expected": "right", "slice": f"s{number % 30}"} for number in range(60)]
    scorers = [{"kind": "equals"}, *({"kind": "contains", "name": f"c{number}"} for number in range(3))]
    report, ref, _ = await evaluate(
        FakeReports(rows), FakeEndpoint(), staged({**MINE, "scorers": scorers, "bounds": []})
    )
    assert len(report.results[0].scores) == 4 * 31
    assert len(to_event(report, ref).results[0].scores) == 4 + SHOWN_SLICES


async def test_rows_that_do_not_suffice_say_how_many_more():
    report, _, _ = await evaluate(FakeReports(ROWS[:15]), FakeEndpoint(), staged())
    assert report.verdict == "inconclusive"
    assert "more rows would decide" in report.reason


async def test_a_first_release_beside_a_base_that_rejects_the_rows_is_judged_by_its_own_scores():
    both = {**MINE, "bounds": [{"max_drop": 0.2, "min_value": 0.5}]}
    report, _, _ = await evaluate(FakeReports(), Rejecting(), staged(both))
    assert report.verdict == "pass", report.reason
    assert (await evaluate(FakeReports(), Rejecting(7), staged(both)))[0].verdict == "fail"


async def test_a_baseline_that_fails_shows_nothing_and_ends_the_evaluation_soon():
    report, _, _ = await evaluate(FakeReports(), Failing(6, "engine_failed"), staged())
    assert report.verdict == "inconclusive"
    assert "failed at 10 of 10 rows" in report.reason


@pytest.mark.parametrize("code", ["engine_failed", "engine_dead", "no_first_token"])
async def test_a_candidate_that_fails_is_worse(code):
    report, _, _ = await evaluate(FakeReports(), Failing(7, code), staged())
    assert report.verdict == "fail"
    assert code in report.results[0].rows[0].reasons["equals"]


async def test_an_unreachable_engine_is_tried_again_but_not_after_its_lease_is_gone():
    clock, reports = FakeClock(), FakeReports()
    evaluator = Evaluator(Asking(Failing(7, "endpoint_unreachable"), lambda _: "en"), reports, clock)

    def progress(done, total):
        assert done <= total

    for passed_s in (0.0, 600.0):
        clock.seconds += passed_s
        with pytest.raises(Transient):
            await evaluator.evaluate(staged(), progress)
    clock.seconds += 600.0
    with pytest.raises(Permanent) as caught:
        await evaluator.evaluate(staged(), progress)
    assert caught.value.code == "endpoint_unreachable"


async def test_an_evaluation_that_was_made_is_not_made_again_unless_it_is_another():
    reports, endpoint = FakeReports(), FakeEndpoint()
    first = await evaluate(reports, endpoint, staged(MINE, BASICS))
    asked = endpoint.asked
    assert [result.name for result in first[0].results] == ["mine", "basics"]
    assert (await evaluate(reports, endpoint, staged(MINE, BASICS)))[:2] == first[:2]
    assert endpoint.asked == asked
    await evaluate(reports, endpoint, staged(MINE, BASICS, attempt=2))
    assert endpoint.asked > asked


@pytest.mark.parametrize(
    ("reports", "order"),
    [
        (FakeReports(), staged(evaluation=None)),
        (FakeReports([{"text": "no row"}]), staged()),
        (FakeReports([{"prompt": "a"}]), staged()),
        (FakeReports(), staged({**MINE, "bounds": [{"slice": "unknown", "max_drop": 0.2}]})),
    ],
    ids=["no set", "no rows", "nothing expected", "unknown slice"],
)
async def test_a_set_that_cannot_be_used_is_refused(reports, order):
    with pytest.raises(Permanent) as caught:
        await evaluate(reports, FakeEndpoint(), order)
    assert caught.value.code == "evaluation_invalid"


def test_the_worst_verdict_counts():
    assert assess_overall(["pass", "inconclusive", "fail"]) == "fail"
    assert assess_overall(["pass", "inconclusive"]) == "inconclusive"
    assert assess_overall([]) == "pass"


def test_what_cannot_be_evaluated_fails_the_variant():
    event = factories.event(staged())
    failed = _failed(event, Permanent("evaluation_invalid", "no row"))
    assert (failed.step, failed.code, failed.variant) == ("evaluate", "evaluation_invalid", "int8")


SLOW = [{"prompt": f"row {number}", "expected": "right"} for number in range(400)]
ANCHORED = {**MINE, "bounds": [{"max_drop": 0.1, "max_drop_from_anchor": 0.1}], "max_rows": 400}


class Sinking(FakeEndpoint):
    """Each version answers 4 % of the rows wrongly that the one before answered rightly."""

    async def ask(self, version, body, *, timeout_s):
        number = int(body["messages"][-1]["content"].removeprefix("row "))
        wrong = number % 25 < version.target.version - 1
        return Answer("wrong") if wrong else await super().ask(version, body, timeout_s=timeout_s)


def promote(report, ref):
    (result,) = report.results
    return Anchor(basis=result.basis, target=report.target, report=ref)


async def test_small_drops_of_many_releases_do_not_add_up_beside_an_anchor():
    reports = FakeReports(SLOW)
    first, ref, _ = await evaluate(reports, Sinking(), staged(ANCHORED, version=1))
    assert (first.verdict, first.results[0].asked, first.results[0].anchor) == ("pass", 400, None)
    assert "without an anchor" in first.reason
    anchors, verdicts = (promote(first, ref),), []
    for version in range(2, 8):
        report, _, _ = await evaluate(reports, Sinking(), staged(ANCHORED, version=version, anchors=anchors))
        verdicts.append(report.verdict)
        beside, anchor = report.results[0].limits
        assert (beside.kind, beside.decision) == ("max_drop", "met")
        assert anchor.kind == "max_drop_from_anchor"
        assert report.results[0].anchor == first.target
    assert verdicts[0] == "pass"
    assert verdicts[-1] == "fail", report.reason
    assert "at most 0.1 below the anchor" in report.reason


@pytest.mark.parametrize("changed", [{"scorers": [{"kind": "contains"}]}, {"name": "again"}, {"max_tokens": 8}])
async def test_an_evaluation_that_changed_has_another_anchor(changed):
    reports = FakeReports(SLOW)
    first, ref, _ = await evaluate(reports, FakeEndpoint(), staged(ANCHORED, version=1))
    order = staged({**ANCHORED, **changed}, version=2, anchors=(promote(first, ref),))
    report, _, _ = await evaluate(reports, FakeEndpoint(), order)
    assert (report.verdict, report.results[0].anchor) == ("pass", None)
    assert [limit.kind for limit in report.results[0].limits] == ["max_drop"]


async def test_versions_beside_an_anchor_are_asked_the_same_rows_each_in_another_order():
    rows = [{"prompt": f"row {number}", "expected": "right", "slice": f"s{number % 20}"} for number in range(400)]
    bounds = [{"max_drop": 0.2}, {"slice": "s7", "max_drop_from_anchor": 0.5}]
    anchored = {**MINE, "bounds": bounds, "max_rows": 100}
    reports = FakeReports(rows)
    first, ref, _ = await evaluate(reports, FakeEndpoint(), staged(anchored, version=1))
    order = staged(anchored, version=2, anchors=(promote(first, ref),))
    second, _, _ = await evaluate(reports, FakeEndpoint(), order)
    asked = [[row.number for row in report.results[0].rows] for report in (first, second)]
    assert sorted(asked[0]) == sorted(asked[1])
    assert asked[0] != asked[1], "an order that is known before is one to train for"
    assert sum(row.slice == "s7" for row in first.results[0].rows) == 20
    assert [limit.decision for limit in second.results[0].limits] == ["met", "met"]


class FailingAt(FakeEndpoint):
    """The baseline fails at rows from one number up to another."""

    def __init__(self, begin, end):
        super().__init__()
        self.failing = {f"row {number}" for number in range(begin, end)}

    async def ask(self, version, body, *, timeout_s):
        if version.target.version == 6 and body["messages"][-1]["content"] in self.failing:
            raise Transient("engine_failed", "The engine failed.")
        return await super().ask(version, body, timeout_s=timeout_s)


@pytest.mark.parametrize(("failed_from", "may_be_anchor"), [(30, True), (9, True), (4, False)])
async def test_scores_of_too_few_rows_of_a_bounded_slice_are_no_anchor(failed_from, may_be_anchor):
    rows = [{"prompt": f"row {n}", "expected": "right", "slice": "hard" if n < 30 else "easy"} for n in range(100)]
    bounds = [{"max_drop": 0.2}, {"slice": "hard", "max_drop_from_anchor": 0.3}]
    order = staged({**MINE, "bounds": bounds, "max_rows": 100})
    report, _, _ = await evaluate(FakeReports(rows), FailingAt(failed_from, 30), order)
    assert (report.verdict, report.results[0].void) == ("pass", 30 - failed_from)
    assert (report.results[0].basis is not None) == may_be_anchor


async def test_a_candidate_that_is_proved_worse_is_not_asked_every_row():
    report, _, _ = await evaluate(FakeReports(SLOW), FakeEndpoint(7), staged(ANCHORED))
    assert report.verdict == "fail"
    assert report.results[0].asked < 100
