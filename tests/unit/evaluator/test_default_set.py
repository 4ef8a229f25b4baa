"""The default set is 60 rows that its evaluation can score, and an equal candidate passes it."""

from collections import Counter

import pytest

from contracts.evaluations import Evaluations
from decisions.evaluations.fitting import choose_scorers
from decisions.evaluations.verdicts import list_limits
from decisions.scorers.answers import Answer
from decisions.scorers.languages import LANGUAGES
from services.evaluator.adapters.lingua_languages import recognise
from services.evaluator.app import default_set
from services.evaluator.domain.plan import plan_evaluation
from services.evaluator.evaluate import Asking
from testbed.factories import served

DECLARED = Evaluations.model_validate({"sets": [{"name": "basics", "rows": "default"}]})
DEFAULT_EVALUATION = DECLARED.sets[0]


class Parrot:
    """Answers with the question, except a version that repeats itself without end."""

    def __init__(self, looping=()):
        self.looping = looping

    async def ask(self, version, body, *, timeout_s):  # noqa: ARG002 - of the port
        question = body["messages"][-1]["content"]
        if version.target.version in self.looping:
            return Answer(question * 40, is_cut=True)
        return Answer(question)


def plan():
    rows, digest = default_set().rows, default_set().digest
    limits = len(list_limits(DEFAULT_EVALUATION, (row.slice for row in rows)))
    versions = [served(version=3), served(version=2)]
    return plan_evaluation(DECLARED, DEFAULT_EVALUATION, rows, rows_digest=digest, versions=versions, limits=limits)


async def evaluate(endpoint):
    async def progress(done, total):
        assert done <= total

    versions = {"candidate": served(version=3), "active": served(version=2)}
    return await Asking(endpoint, recognise_roughly).evaluate(plan(), versions, progress)


def recognise_roughly(text):
    return "zh" if any("\u4e00" <= char <= "\u9fff" for char in text) else "en"


def test_every_slice_has_rows_and_every_row_scorers():
    rows = default_set().rows
    assert len(rows) == 60
    assert min(Counter(row.slice for row in rows).values()) >= 6
    assert len({row.last for row in rows}) == 60
    assert all(len(choose_scorers(DEFAULT_EVALUATION, row)) >= 4 for row in rows)


async def test_an_equal_candidate_passes():
    result = await evaluate(Parrot())
    assert result.verdict == "pass", [limit for limit in result.limits if limit.decision != "met"]


async def test_a_candidate_that_never_stops_fails():
    result = await evaluate(Parrot(looping={3}))
    missed = {limit.scorer for limit in result.limits if limit.decision == "missed"}
    assert result.verdict == "fail"
    assert {"length", "repetition"} <= missed


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
