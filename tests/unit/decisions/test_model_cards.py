"""Model cards: parsed by huggingface_hub, complete, and without any markup of others."""

import dataclasses
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from contracts.facts import EvalResult
from decisions.releases.model_cards import inline, metadata, render_card, scalar, yaml_block
from testbed import factories
from tests.kit.histories import evaluation_report, history

HOSTILE = (
    "---\nbase_model: evil",
    "</td><script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/track.png)",
    "a | b | c",
    "`; rm -rf /`",
    "# heading\n\n- list",
    "http://evil.example",
    "www.evil.example",
    "\u202egpj.exe",
    "*bold* _it_ ~~no~~ $x$",
    "\\",
    "a\\|b",
    "<!-- comment -->",
    "@everyone",
    "\x00\x1b[31m",
    "&lt;b&gt;",
    "!!python/object/apply:os.system ['id']",
    "{{ x }}",
    "yes",
    "1e3",
    "",
    "\u0085\u2028",
    "\ud800",
    "🙂",
)


def card_of(text):
    """Return the card of a version in which every text from outside is this one."""
    training = factories.training().model_copy(
        update={"run_id": text, "framework": text or "-", "hyperparameters": {text: text, "n" * 81: [text]}}
    )
    base = factories.base().model_copy(update={"name": text, "revision": text})
    evals = (EvalResult(name="x", metric="y", value=1.0).model_copy(update={"name": text, "metric": text}),)
    made = history(training=training, base=base, evals=evals, release_id=text)
    approval = made.approvals[0].model_copy(update={"approved_by": text, "reason": text})
    rehearsal = made.rehearsals[0].model_copy(
        update={"completed": made.rehearsals[0].completed.model_copy(update={"reason": text})}
    )
    gates = tuple(gate.model_copy(update={"name": text, "reason": text}) for gate in made.benchmarks[0].gates)
    report = made.benchmarks[0].model_copy(update={"gates": gates})
    return render_card(
        type(made)(
            made.manifest,
            made.digest,
            (report,),
            (rehearsal,),
            (approval,),
            made.deployments,
            text or "-",
            (evaluation_report(slice=text or "-"),),
        )
    )


def structure(card):
    """Return the tokens of a card's Markdown without its texts, and the texts."""
    body = ModelCard(card).text
    tokens = MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(body)
    shape = [(token.type, token.tag, token.level) for token in tokens]
    inner = [child.type for token in tokens for child in token.children or ()]
    return shape, inner


PLAIN = structure(card_of("plain"))


def test_the_hub_reads_the_metadata():
    card = ModelCard(render_card(history()))
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card.data.library_name == "peft"
    assert card.data.model_name == "support-bot"
    results = {(each.dataset_name, each.metric_type): each.metric_value for each in card.data.eval_results}
    assert results["routing", "accuracy"] == 0.872
    assert results["basics, measured by Slipway", "length"] == 0.95
    assert results["held-out text, int8 against the merged model", "perplexity_ratio"] == 1.014


def test_it_says_what_the_version_was_made_of_how_it_did_and_how_to_verify_it():
    text = render_card(history())
    for expected in (
        "# support-bot v3",
        factories.digest("tickets-2026-11"),
        r"| learning\_rate | 0.0002 |",
        "| routing | accuracy | 0.872 | higher |",
        "| int8 | 135.0 MB | 0.510 | 1.0140 |",
        "### basics: pass",
        "| length | stops | 8 | 0.950 | 0.950 | -0.080 to +0.080 |",
        "### int8: pass",
        "| TTFT p95 (ms) | 232.8 |",
        "## Rehearsed rollback",
        "| int8 | pass | slow-first-token |",
        "slipway verify support-bot@v3 --files",
        "## Limits",
        "As stated by the publisher",
    ):
        assert expected in text, expected


def test_what_was_lost_since_the_anchor_has_a_figure():
    report = evaluation_report()
    lost = report.results[0].limits[0].model_copy(update={"kind": "max_drop_from_anchor", "value": 0.03, "rows": 40})
    result = report.results[0].model_copy(update={"limits": (lost,), "anchor": report.baseline})
    made = dataclasses.replace(history(), evaluations=(report.model_copy(update={"results": (result,)}),))
    assert "| length | all | 40 | 0.030 |" in render_card(made)


def test_the_same_history_gives_the_same_card():
    assert render_card(history()) == render_card(history())


def test_what_is_not_attested_is_not_there_and_named():
    bare = history()
    text = render_card(type(bare)(bare.manifest, bare.digest, problem="attestation 2 is not signed"))
    assert "No attested benchmark." in text
    assert "No attested rehearsal." in text
    assert "None yet." in text
    assert "attestation 2 is not signed" in text


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_others_changes_the_structure(text):
    shape, inner = structure(card_of(text))
    assert shape == PLAIN[0]
    assert set(inner) <= {"text", "code_inline", "text_special", "softbreak"}
    assert ModelCard(card_of(text)).data.base_model == yaml.safe_load(scalar(text))


@given(st.text(max_size=80))
def test_whatever_the_text_the_structure_stays(text):
    shape, inner = structure(card_of(text))
    assert shape == PLAIN[0]
    assert set(inner) <= {"text", "code_inline", "text_special", "softbreak"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=4))
def test_data_is_the_same_after_yaml(data):
    assert yaml.safe_load(yaml_block(data)) == data


@given(st.text())
def test_a_text_in_a_line_is_one_line_without_invisible_characters(text):
    shown = inline(text)
    assert "\n" not in shown
    assert not re.search(r"[\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", shown)
    shown.encode()


def test_a_long_text_is_cut():
    assert len(inline("x" * 10_000)) == 500


def test_the_metadata_names_the_relation_to_the_base_model():
    full = history(weights=factories.weights().model_copy(update={"kind": "full"}))
    assert (metadata(full)["base_model_relation"], metadata(full)["library_name"]) == ("finetune", "transformers")
