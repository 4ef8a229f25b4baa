"""Which versions are written, which aliases are set, and the tags of a version."""

import posixpath
import re

from hypothesis import given
from hypothesis import strategies as st

from contracts.facts import EvalResult
from services.mirror.domain.plan import Mirrored, fingerprint, plan_aliases, plan_writes
from services.mirror.domain.schedule import Schedule
from services.mirror.domain.summary import CHARS, summarise
from services.mirror.domain.tags import KEY_CHARS, VALUE_CHARS, version_tags
from testbed import factories
from tests.kit.histories import history

ACCEPTED = re.compile(r"[A-Za-z0-9_. -]+")
"""MLflow takes these as the name of a tag, and some more."""


@given(
    st.dictionaries(st.integers(1, 50), st.sampled_from("abc")),
    st.dictionaries(st.integers(1, 50), st.sampled_from("abc")),
)
def test_exactly_what_lacks_or_differs_is_written_ascending(stored, there):
    mirrored = [Mirrored(version, state, str(900 - version)) for version, state in there.items()]
    writes = plan_writes(stored, mirrored)
    assert writes == sorted(writes)
    assert set(writes) == {version for version in stored if there.get(version) != stored[version]}


def test_a_state_is_the_set_of_objects_whatever_their_order():
    assert fingerprint(["a", "b"]) == fingerprint(["b", "a"])
    assert len({fingerprint(["a"]), fingerprint(["b"]), fingerprint(["a", "b"]), fingerprint([])}) == 4


def test_an_aborted_canary_and_the_base_model_have_no_alias():
    canary = {"served": factories.served(3), "weight_ratio": 0.0}
    route = factories.route(active=factories.served(2), previous=factories.served(0), canary=canary)
    assert plan_aliases(route) == {"champion": 2}
    assert plan_aliases(None) == {}


def test_the_tags_name_what_the_version_was_made_of_and_how_it_did():
    tags = version_tags(history())
    expected = {
        "slipway.version": "3",
        "slipway.base": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "slipway.training_data_hash": factories.digest("tickets-2026-11"),
        "slipway.training_run": "support-2026-11-24-2231",
        "slipway.hyperparameter.learning_rate": "0.0002",
        "slipway.hyperparameter.target_modules": '["q_proj", "v_proj"]',
        "slipway.eval.routing.accuracy": "0.872",
        "slipway.manifest_digest": factories.digest("manifest"),
        "slipway.variant.int8.digest": factories.ref("int8").digest,
        "slipway.benchmark.int8.verdict": "pass",
        "slipway.evaluation.basics.verdict": "pass",
        "slipway.evaluation.basics.score.length": "0.95",
        "slipway.evaluation.basics.active.length": "0.95",
        "slipway.rehearsal.int8": "pass",
        "slipway.first_deployed_at": "2026-11-24T12:00:00+00:00",
        "slipway.deployment_count": "1",
        "slipway.release": "support-bot-3",
        "slipway.made_by": "slipway 0.1.0",
    }
    assert {name: tags.get(name) for name in expected} == expected


@given(
    st.dictionaries(st.text(max_size=300), st.text(max_size=6000), max_size=4),
    st.text(max_size=200),
    st.text(max_size=200),
)
def test_tags_stay_within_what_mlflow_takes_and_names_stay_apart(hyperparameters, name, metric):
    training = factories.training().model_copy(update={"hyperparameters": hyperparameters})
    evals = (EvalResult(name=name, metric=metric, value=1.0),)
    tags = version_tags(history(training=training, evals=evals))
    for key, value in tags.items():
        assert ACCEPTED.fullmatch(key), key
        assert posixpath.normpath(key) == key
        assert len(key) <= KEY_CHARS
        assert len(value) <= VALUE_CHARS
        assert value.encode()
    assert sum(key.startswith("slipway.hyperparameter.") for key in tags) == len(hyperparameters)


def test_the_summary_fits_and_holds_no_markup_of_others():
    training = factories.training().model_copy(update={"run_id": "[x](http://evil.example) <script>"})
    text = summarise(history(training=training))
    assert len(text) <= CHARS
    assert "<script>" not in text
    assert r"\[x\](http&#58;//evil.example)" in text
    assert "slipway verify support-bot@v3" in text
    assert "length 0.950 (active 0.950)" in text


def test_a_whole_outage_is_tried_with_one_model():
    schedule = Schedule(2.0, 300.0)
    schedule.note_changed(["a", "b", "c"], now=0.0)
    assert schedule.due(0.0) == ["a", "b", "c"]
    assert schedule.begin("a", 0.0)
    schedule.note_failed("a", 0.0, whole=True)
    assert not schedule.begin("b", 0.0)
    assert schedule.due(1.9) == []
    assert len(schedule.due(2.0)) == 1
    assert schedule.begin("b", 2.0)
    schedule.note_done("b")
    assert schedule.due(2.0) == ["c", "a"]
