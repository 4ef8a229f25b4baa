"""When a record of an answer goes out without bytes: at the first token, and then every half second."""

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BACKEND = Path(__file__).resolve().parents[3] / "deploy" / "backends" / "slipway"


class Watch:
    """A clock that a test sets, and the records that were asked for."""

    def __init__(self):
        self.reading_s = 100.0
        self.reports = []

    def read_seconds(self):
        return self.reading_s

    def note_report(self):
        self.reports.append(self.reading_s)


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def recorder(monkeypatch, watch):
    monkeypatch.syspath_prepend(str(BACKEND))
    import openai_record

    yield openai_record.Recorder(watch.read_seconds, watch.note_report)
    for name in ("openai_record", "error_source", "schema_check"):
        sys.modules.pop(name, None)


def step(recorder, watch, seconds):
    watch.reading_s = seconds
    recorder.note_step(1, None)
    recorder.report_progress()


def test_the_first_token_is_reported_at_once_and_then_every_half_second(recorder, watch):
    for number in range(21):
        step(recorder, watch, 102.0 + number * 0.1)
    assert watch.reports == pytest.approx([102.0, 102.5, 103.0, 103.5, 104.0])


def test_a_record_with_bytes_counts(recorder, watch):
    recorder.note_step(1, None)
    recorder.take()
    step(recorder, watch, 100.4)
    recorder.take()
    step(recorder, watch, 100.8)
    assert not watch.reports
    step(recorder, watch, 100.95)
    assert watch.reports == [100.95]


def test_bytes_before_the_first_token_do_not_report_it(recorder, watch):
    recorder.take()
    step(recorder, watch, 100.01)
    assert watch.reports == [100.01]


def test_a_step_without_tokens_is_reported_by_time_only(recorder, watch):
    for seconds in (100.1, 100.3, 100.6):
        watch.reading_s = seconds
        recorder.note_step(0, None)
        recorder.report_progress()
    assert watch.reports == [100.6]


class Stats:
    """vLLM's figures of an answer."""

    first_token_ts = 0.0

    def __init__(self, *, is_corrupted):
        self.is_corrupted = is_corrupted


@pytest.mark.parametrize(
    ("variable", "seen", "noted"),
    [
        (None, False, {}),
        ("0", False, {}),
        ("1", False, {"nan_logits": False}),
        ("1", True, {"nan_logits": True}),
    ],
)
def test_nan_logits_are_noted_only_where_the_engine_counts_them(recorder, monkeypatch, variable, seen, noted):
    if variable is None:
        monkeypatch.delenv("VLLM_COMPUTE_NANS_IN_LOGITS", raising=False)
    else:
        monkeypatch.setenv("VLLM_COMPUTE_NANS_IN_LOGITS", variable)
    assert "nan_logits" not in recorder.take()
    recorder.note_step(1, Stats(is_corrupted=seen))
    recorder.note_step(1, Stats(is_corrupted=False))
    record = recorder.take()
    assert {name: record[name] for name in record if name == "nan_logits"} == noted


def test_without_the_engines_figures_nothing_is_known_of_nan(recorder, monkeypatch):
    monkeypatch.setenv("VLLM_COMPUTE_NANS_IN_LOGITS", "1")
    recorder.note_step(1, None)
    assert "nan_logits" not in recorder.take()


def test_tokens_of_the_cache_are_counted_over_all_prompts_of_a_request(recorder):
    assert "cached_tokens" not in recorder.take()
    for answer, cached in ((0, None), (0, 16), (0, 16), (1, 0)):
        recorder.note_output(answer, SimpleNamespace(outputs=(), num_cached_tokens=cached))
    assert recorder.take()["cached_tokens"] == 16


class Engine:
    """Answers with the prompt that it got, as an engine's two methods do."""

    def __init__(self):
        self.output_processor = self

    async def encode(self, prompt, *_, **_options):
        yield prompt

    async def generate(self, prompt, *_, **_options):
        yield prompt


@pytest.fixture
def engine(recorder, monkeypatch):
    import openai_record

    monkeypatch.setattr(openai_record, "_record_steps", lambda kind: kind)
    monkeypatch.setattr(openai_record.Recorder, "note_output", lambda *_: None)
    made = openai_record.record_outputs(Engine)()
    token = openai_record.current.set(recorder)
    yield made
    openai_record.current.reset(token)


CALLS = {"encode": {"pooling_params": None}, "generate": {"sampling_params": None}}


def ask(engine, method, prompt):
    """Return the prompt as it reaches the engine."""

    async def first():
        outputs = getattr(engine, method)(prompt=prompt, request_id="a", **CALLS[method])
        try:
            return await anext(outputs)
        finally:
            await outputs.aclose()

    return asyncio.run(first())


@pytest.mark.parametrize("method", CALLS)
def test_prompts_are_kept_apart_by_salt_or_refused(recorder, engine, method):
    tokens = {"prompt_token_ids": [1]}
    assert ask(engine, method, tokens) == tokens
    assert ask(engine, method, "text") == "text"
    recorder.cache_salt = "team"
    assert ask(engine, method, {**tokens, "cache_salt": "mine"}) == {**tokens, "cache_salt": "team"}
    for prompt in ("text", [1], object(), {"encoder_prompt": tokens, "decoder_prompt": None}):
        with pytest.raises(ValueError, match="cache"):
            ask(engine, method, prompt)
