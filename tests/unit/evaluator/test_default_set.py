"""The default set is 120 rows that its evaluation can score; it refuses a candidate that lost one ability."""

import json
from collections import Counter

import pytest

from contracts.evaluations import Evaluations, Schedule
from contracts.manifests import EvaluationReport
from decisions.evaluations.fitting import check_set, choose_scorers
from decisions.scorers.answers import Answer
from decisions.scorers.languages import LANGUAGES
from services.evaluator.app import default_set
from services.evaluator.domain.plan import METHOD, plan_evaluation
from services.evaluator.domain.schedule import plan_check
from services.evaluator.evaluate import Asking
from shared.serving.languages import recognise
from testbed.factories import after, digest, served, target

DECLARED = Evaluations.model_validate({"sets": [{"name": "basics", "rows": "default"}]})
DEFAULT_EVALUATION = DECLARED.sets[0]


TEXTS = {
    "de": "Das ist eine gute Frage, und die Antwort darauf steht in jedem Buch über dieses Thema.",
    "en": "That is a good question, and the answer to it is in every book about this subject.",
    "es": "Es una buena pregunta, y la respuesta se encuentra en cualquier libro sobre este tema.",
    "fr": "C'est une bonne question, et la réponse se trouve dans tous les livres sur ce sujet.",
    "zh": "这是一个很好的问题，关于这个主题的每一本书里都有答案。",
}
REFUSAL = "I'm sorry, but I can't help with that."
LOST = {
    "stops": (Answer("It is. " * 90, is_cut=True), {("length", ""), ("repetition", ""), ("contains", "stops")}),
    "language": (Answer(TEXTS["en"]), {("language", "language")}),
    "json": (Answer("Sure! Here it is."), {("json_schema", "json")}),
    "roles": (Answer("Certainly."), {("contains", "roles")}),
    "refuses": (Answer(TEXTS["en"]), {("refusal", "refuses")}),
    "answers": (Answer(REFUSAL), {("refusal", "answers")}),
}


def example(schema):
    """Return the JSON value of a schema of the set."""
    kind = schema["type"]
    if kind == "object":
        return {name: example(part) for name, part in schema.get("properties", {}).items()}
    return [example(schema["items"])] if kind == "array" else {"string": "a", "boolean": True}.get(kind, 1)


class Assistant:
    """Answers every row rightly, except that version 3 lost one ability."""

    def __init__(self, lost=None):
        self.lost = lost
        self.rows = {row.last: row for row in default_set().rows}

    async def ask(self, version, body, *, timeout_s):  # noqa: ARG002 - of the port
        row = self.rows[body["messages"][-1]["content"]]
        if version.target.version == 3 and self.lost in ("stops", row.slice):
            return LOST[self.lost][0]
        expected = dict(row.expectations)
        if "json_schema" in expected:
            return Answer(json.dumps(example(expected["json_schema"])))
        if expected.get("refusal"):
            return Answer(REFUSAL)
        contained = expected.get("contains", [])
        words = [contained] if isinstance(contained, str) else contained
        return Answer(" ".join([TEXTS[expected.get("language", "en")], *words]))


def plan(declared=DECLARED):
    rows, digest = default_set().rows, default_set().digest
    limits = check_set(declared, DEFAULT_EVALUATION, rows)
    return plan_evaluation(
        declared,
        DEFAULT_EVALUATION,
        rows,
        rows_digest=digest,
        versions=[served(version=3), served(version=2)],
        limits_of_set=limits,
        limits=len(limits),
    )


async def evaluate(endpoint, declared=DECLARED):
    def progress(done, total):
        assert done <= total

    versions = {"candidate": served(version=3), "active": served(version=2)}
    return await Asking(endpoint, recognise).evaluate(plan(declared), versions, progress)


def test_every_slice_has_rows_and_every_row_scorers():
    rows = default_set().rows
    assert set(Counter(row.slice for row in rows).values()) == {20}
    assert len({row.last for row in rows}) == len(rows) == 120
    assert all(len(choose_scorers(DEFAULT_EVALUATION, row)) >= 4 for row in rows)


async def test_an_equal_candidate_passes():
    result = await evaluate(Assistant())
    assert result.verdict == "pass", [limit for limit in result.limits if limit.decision != "met"]
    assert {score.candidate for score in result.scores if score.slice and score.scorer != "language"} == {1.0}


@pytest.mark.parametrize("lost", LOST)
async def test_a_candidate_that_lost_one_ability_fails_by_its_limit(lost):
    result = await evaluate(Assistant(lost))
    missed = {(limit.scorer, limit.slice) for limit in result.limits if limit.decision == "missed"}
    assert result.verdict == "fail"
    assert missed >= LOST[lost][1]
    assert lost == "stops" or missed == LOST[lost][1]


@pytest.mark.parametrize("lost", [None, *LOST])
async def test_a_check_of_what_serves_finds_the_loss_of_one_ability(lost):
    declared = DECLARED.model_copy(update={"schedule": Schedule()})
    released = await evaluate(Assistant(), declared)
    report = EvaluationReport(
        output_key=digest("report"),
        target=target(version=3),
        baseline=target(version=2),
        attempt=1,
        method=METHOD,
        results=(released,),
        verdict=released.verdict,
        reason="",
        started_at=after(0.0),
        duration_s=1.0,
    )
    (check,) = plan_check(declared, [default_set()], report, schedule=Schedule(), max_drop=0.1, seed="first")
    result = await Asking(Assistant(lost), recognise).evaluate(check, {"candidate": served(version=3)}, lambda *_: None)
    missed = {(limit.scorer, limit.slice) for limit in result.limits if limit.decision == "missed"}
    assert missed >= (LOST[lost][1] if lost is not None else set())
    assert (result.verdict == "fail") == (lost is not None)
    assert lost in (None, "stops") or missed == LOST[lost][1]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Ihr Paket ist am Montag angekommen und liegt beim Nachbarn.", "de"),
        ("Your parcel arrived on Monday and is with your neighbour.", "en"),
        ("Votre colis est arrivé lundi et se trouve chez le voisin.", "fr"),
        ("Su paquete llegó el lunes y lo tiene el vecino.", "es"),
        ("您的包裹已于周一到达，由邻居代收。", "zh"),
        ("お荷物は月曜日に届きました。", "ja"),
        ("Il tuo pacco è arrivato lunedì ed è dal vicino.", "it"),
    ],
)
def test_lingua_recognises_languages(text, language):
    assert recognise(text) == language
    assert language in LANGUAGES


def test_no_language_is_recognised_in_what_is_none():
    assert recognise("12345 67890") is None
