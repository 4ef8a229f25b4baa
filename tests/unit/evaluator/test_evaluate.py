"""An evaluation asks both versions row by row until each limit is decided, and no more."""

import asyncio
import json
import random

import pytest

from contracts.evaluations import Evaluations
from contracts.evaluations.results import EvaluationResult
from contracts.vocabulary import digest_of
from decisions.evaluations.fitting import check_set, find_expected
from decisions.evaluations.rows import read_rows
from decisions.scorers.answers import Answer
from decisions.scorers.scoring import ABSENT
from services.evaluator.adapters.triton import read_answer
from services.evaluator.domain.plan import plan_evaluation, plan_request
from services.evaluator.evaluate import Asking
from shared.errors import Transient
from testbed.factories import served

BOUNDS = ({"max_drop": 0.1},)


class FakeEndpoint:
    """Answers by version: a share of rows wrongly, some not at all."""

    def __init__(self, wrong_ratio, *, rejects=(), lost_after=None):
        self.wrong_ratio, self.rejects, self.lost_after = wrong_ratio, set(rejects), lost_after
        self.asked = []
        self.at_once = self.most_at_once = 0

    async def ask(self, version, body, *, timeout_s):  # noqa: ARG002 - of the port
        if self.lost_after is not None and len(self.asked) >= self.lost_after:
            raise Transient("endpoint_unreachable", "The engine is lost.")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        self.asked.append((version.target.version, body["messages"][-1]["content"]))
        question = body["messages"][-1]["content"]
        if (version.target.version, question) in self.rejects:
            return None
        draw = random.Random(f"{version.target.version} {question}").random()
        return Answer("wrong" if draw < self.wrong_ratio[version.target.version] else "right")


def rows(count, **about):
    lines = [
        {"prompt": f"row {number}", "expected": "right", "slice": f"s{number % 2}", **about} for number in range(count)
    ]
    return "\n".join(json.dumps(line) for line in lines).encode()


def versions():
    return {"candidate": served(version=3), "active": served(version=2)}


def planned(data, bounds=BOUNDS, **about):
    evaluation = {"name": "orders", "scorers": [{"kind": "equals"}, {"kind": "length"}], "bounds": [], **about}
    evaluation["bounds"] = [{"scorer": "equals", **bound} for bound in bounds]
    declared = Evaluations.model_validate({"sets": [evaluation]})
    rows = read_rows(data)
    return plan_evaluation(
        declared,
        declared.sets[0],
        rows,
        rows_digest=digest_of(data),
        versions=tuple(versions().values()),
        limits_of_set=check_set(declared, declared.sets[0], rows),
        limits=max(len(bounds), 1),
    )


async def evaluate(plan, endpoint, **about):
    seen = []

    def progress(done, total):
        seen.append((done, total))

    asking = Asking(endpoint, lambda _: None, **about)
    result = await asking.evaluate(plan, versions(), progress)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (result.asked, result.available)
    assert EvaluationResult.model_validate_json(result.model_dump_json()) == result
    return result


async def test_an_equal_candidate_passes_after_few_rows_and_no_more_are_asked():
    endpoint = FakeEndpoint({3: 0.0, 2: 0.0})
    result = await evaluate(planned(rows(500)), endpoint)
    assert (result.verdict, result.limits[0].decision) == ("pass", "met")
    assert result.asked < 80
    assert 2 * result.asked <= len(endpoint.asked) <= 2 * (result.asked + 8)
    assert 4 < endpoint.most_at_once <= 8
    assert (result.worse, result.better, result.void) == ((), (), 0)


async def test_a_candidate_that_lost_fails_and_the_rows_that_got_worse_are_named():
    result = await evaluate(planned(rows(500)), FakeEndpoint({3: 0.6, 2: 0.05}))
    assert result.verdict == "fail"
    (limit,) = result.limits
    assert limit.decision == "missed"
    assert limit.low < limit.value < limit.high
    by_number = {row.number: row for row in result.rows}
    assert len(result.worse) == 3
    for number in result.worse:
        assert (by_number[number].candidate["equals"], by_number[number].active["equals"]) == (0.0, 1.0)
        assert by_number[number].reasons["equals"]
    whole = next(each for each in result.scores if (each.scorer, each.slice) == ("equals", ""))
    assert whole.candidate < whole.active
    assert {each.slice for each in result.scores} == {"", "s0", "s1"}


async def test_too_few_rows_are_no_pass_and_say_how_many_more():
    result = await evaluate(planned(rows(30)), FakeEndpoint({3: 0.0, 2: 0.0}))
    assert (result.verdict, result.asked) == ("inconclusive", 30)
    assert 5 < result.limits[0].more_rows < 100


async def test_a_lost_engine_ends_the_evaluation_which_can_be_repeated():
    with pytest.raises(Transient):
        await evaluate(planned(rows(300)), FakeEndpoint({3: 0.0, 2: 0.0}, lost_after=40))


class SlowEndpoint(FakeEndpoint):
    """Takes longest for the rows that are asked first."""

    async def ask(self, version, body, *, timeout_s):
        for _ in range(max(0, 400 - 10 * len(self.asked))):
            await asyncio.sleep(0)
        return await super().ask(version, body, timeout_s=timeout_s)


async def test_rows_count_in_the_order_that_was_drawn_however_long_each_takes():
    plan = planned(rows(100))
    result = await evaluate(plan, SlowEndpoint({3: 0.2, 2: 0.2}))
    assert [row.number for row in result.rows] == [row.number for row in plan.rows][: result.asked]


async def test_what_a_version_rejects_is_worth_nothing():
    plan = planned(rows(40), ({"max_drop": 0.3},))
    first = [row.messages[-1]["content"] for row in plan.rows[:8]]
    endpoint = FakeEndpoint({3: 0.0, 2: 0.0}, rejects=[(3, first[0]), (2, first[1]), (3, first[1])])
    result = await evaluate(plan, endpoint)
    assert result.void == 0
    by_question = {f"row {row.number - 1}": row for row in result.rows}
    assert by_question[first[1]].active == by_question[first[1]].candidate == {"equals": None, "length": None}
    rejected = next(row for row in result.rows if f"row {row.number - 1}" == first[0])
    assert rejected.candidate == {"equals": None, "length": None}
    assert "rejected" in rejected.reasons["equals"]
    assert result.scores[0].candidate_unparsed > 0.0


async def test_without_a_bound_every_row_is_asked():
    result = await evaluate(planned(rows(30), ()), FakeEndpoint({3: 0.5, 2: 0.0}), together=7)
    assert (result.asked, result.verdict, result.limits) == (30, "pass", ())


def test_the_order_is_that_of_the_comparison_and_the_number_of_rows_is_bounded():
    data = rows(300)
    one, again = planned(data, max_rows=100), planned(data, max_rows=100)
    assert (one.rows, one.output_key) == (again.rows, again.output_key)
    assert len(one.rows) == 100
    other = planned(data, ({"max_drop": 0.2},), max_rows=100)
    assert other.output_key != one.output_key
    assert other.rows != one.rows


@pytest.mark.parametrize(
    ("data", "bounds", "named"),
    [
        (rows(3, expected=4), BOUNDS, "line 1: the scorer equals"),
        (rows(3), ({"slice": "s9", "max_drop": 0.1},), "'s9'"),
        (rows(20), BOUNDS, "needs 29 rows at least, and there are 20"),
        (rows(90), ({"slice": "s1", "max_drop": 0.05},), "needs 59 rows of slice s1 at least, and there are 45"),
        (rows(3, expect={"length": 3, "equal": "right"}), BOUNDS, "line 1: expect names 'equal'"),
    ],
)
def test_a_set_that_does_not_fit_the_evaluation_is_refused(data, bounds, named):
    with pytest.raises(ValueError, match=r"line|slice|rows") as caught:
        planned(data, bounds)
    assert named in str(caught.value)


async def test_a_scorer_scores_the_rows_that_say_what_it_expects():
    data = rows(30) + b"\n" + rows(10, expect={"tool_call": None})
    scorers = [{"kind": "equals"}, {"kind": "tool_call"}]
    lines = [json.loads(line) for line in data.splitlines()]
    for line in lines[:30]:
        line["expect"] = {"equals": line.pop("expected")}
    data = "\n".join(map(json.dumps, lines)).encode()
    result = await evaluate(planned(data, (), scorers=scorers), FakeEndpoint({3: 0.0, 2: 0.0}))
    assert {(each.scorer, each.rows) for each in result.scores if not each.slice} == {("equals", 40), ("tool_call", 10)}
    unused = [{"kind": "equals"}, {"kind": "tool_call"}]
    with pytest.raises(ValueError, match="no row says what the scorer tool_call expects"):
        planned("\n".join(json.dumps(line) for line in lines[:30]).encode(), (), scorers=unused)


def test_what_is_expected_is_the_right_answer_and_other_scorers_need_their_own():
    line = {"prompt": "a", "expected": "b", "expect": {"language": "en"}}
    data = rows(30) + b"\n" + json.dumps(line).encode()
    plan = planned(data, (), scorers=[{"kind": "equals"}, {"kind": "language"}, {"kind": "refusal"}])
    row = next(row for row in plan.rows if row.number == 31)
    assert [find_expected(scorer, row) for scorer in plan.evaluation.scorers] == ["b", "en", ABSENT]


def test_a_rare_slice_with_a_bound_is_drawn_first():
    lines = [json.loads(line) for line in rows(2_000).splitlines()]
    for number in range(0, 2_000, 50):
        lines[number]["slice"] = "rare"
    data = "\n".join(map(json.dumps, lines)).encode()
    plan = planned(data, ({"slice": "rare", "max_drop": 0.2},), max_rows=100)
    assert len(plan.rows) == 100
    assert sum(row.slice == "rare" for row in plan.rows) >= 40
    assert plan.comparison.tested[0].available >= 40


def test_a_request_is_as_callers_send_it():
    row = read_rows(b'{"prompt": "Hi", "tools": [{"type": "function"}]}')[0]
    body = plan_request("support-bot", row, 64)
    assert body["temperature"] == 0.0
    assert body["tools"] == [{"type": "function"}]
    assert "ignore_eos" not in body
    assert "tools" not in plan_request("support-bot", read_rows(b'{"prompt": "Hi"}')[0], 64)


def test_a_response_is_an_answer_a_rejection_or_a_failure():
    choice = {"message": {"content": "Hi"}, "finish_reason": "stop"}
    assert read_answer(200, json.dumps({"choices": [choice]}).encode()) == Answer("Hi")
    assert read_answer(400, b"{}") is None
    for status, body in ((500, b"{}"), (0, b""), (200, b"{"), (200, b'{"choices": []}'), (200, b"[]")):
        with pytest.raises(Transient):
            read_answer(status, body)
