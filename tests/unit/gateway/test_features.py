"""What telemetry says about text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain import features, timing
from services.gateway.domain.timing import Arrival


def test_an_ordinary_answer():
    result = features.describe("How do I reset it?", "Press the button for 5 seconds.")
    assert (result.prompt_chars, result.output_chars, result.script) == (18, 31, "latin")
    assert (result.refusal, result.empty, result.repetition_ratio) == (False, False, 0.0)
    assert result.non_letter_ratio == pytest.approx(2 / 26)


def test_a_refusal_is_one_and_an_apology_is_none():
    assert features.describe("x", "I'm sorry, but I can't help.").refusal
    assert features.describe("x", "Dabei kann ich Ihnen leider nicht helfen.").refusal
    assert not features.describe(
        "x", "I'm sorry to hear that your parcel arrived damaged. I have refunded order 73."
    ).refusal


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_nothing_is_empty(text):
    result = features.describe("x", text)
    assert (result.empty, result.non_letter_ratio, result.repetition_ratio) == (True, 0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Grüße", "latin"),
        ("привет", "cyrillic"),
        ("你好", "cjk"),
        ("שלום", "hebrew"),
        ("12 34", "none"),
        ("ab привет", "cyrillic"),
    ],
)
def test_scripts(text, script):
    assert features.dominant_script(text) == script


def test_a_loop_repeats_also_at_the_end_of_a_long_answer():
    assert features.describe("x", "over and " * 100).repetition_ratio > 0.95
    assert (
        features.describe("x", "".join(map(chr, range(0x4E00, 0x9E00))) * 2 + "over and " * 300).repetition_ratio > 0.95
    )
    assert features.describe("x", "one two three four five six").repetition_ratio == 0.0


@given(st.text(max_size=500), st.text(max_size=500))
def test_every_text_has_features_within_their_bounds(prompt, output):
    result = features.describe(prompt, output)
    assert 0.0 <= result.non_letter_ratio <= 1.0
    assert 0.0 <= result.repetition_ratio <= 1.0


@given(st.text(alphabet="abcdefghij ", min_size=30, max_size=200))
def test_no_text_is_kept(output):
    assert output.strip() not in features.describe(output, output).model_dump_json() or not output.strip()


def test_first_token_skips_pieces_without_text():
    assert timing.first_token_ms([Arrival(0.1, 1, False), Arrival(0.25, 1, True)]) == 250.0
    assert timing.first_token_ms([Arrival(0.1, 1, False)]) is None


def test_inter_token_latency_is_last_minus_first_over_tokens_minus_one():
    result = timing.inter_token([Arrival(1.0, 1, True), Arrival(1.1, 1, True), Arrival(1.4, 2, True)])
    assert result.mean == pytest.approx(400 / 3)
    assert result.max == pytest.approx(150.0)
    assert result.p95 == pytest.approx(150.0)


def test_the_time_of_a_first_piece_of_several_tokens_is_not_shared_by_them():
    result = timing.inter_token([Arrival(1.0, 5, True), Arrival(1.5, 5, True)])
    assert (result.mean, result.max) == (pytest.approx(100.0), pytest.approx(100.0))


@pytest.mark.parametrize("arrivals", [[], [Arrival(1.0, 1, True)], [Arrival(1.0, 3, True)], [Arrival(1, 0, False)] * 3])
def test_no_inter_token_latency_without_two_pieces(arrivals):
    assert timing.inter_token(arrivals) is None
