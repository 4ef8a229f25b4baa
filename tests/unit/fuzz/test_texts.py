"""Hostile JSON of a checkpoint's small files that our own code reads: texts, serving settings, tokenizer settings."""

import json
import random

from contracts.evaluations.text_sets import evaluation_records, read_text_records
from contracts.vocabulary import ServingSettings
from decisions.serving.settings import SettingsRefused, assess_settings, combine, parse_settings, settle
from services.merger.domain import MODEL_CONFIG, serving
from tests.kit.mutation import attack, damage, hostile_json

RECORDS = [
    {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Where is order 7?"}]},
    {"prompt": "Where is it?", "completion": "On its way."},
    {"text": "Order 7 was sent on Tuesday."},
    "a plain text",
]
SETTINGS = [
    {"tool_parser": "hermes", "context_tokens": 2048, "template_options": {"enable_thinking": False}},
    {"reasoning_parser": "qwen3", "engine_args": {"max_num_seqs": 4}},
]
TOKENIZERS = [
    {"chat_template": "{{ messages }}", "eos_token": {"content": "</s>"}, "bos_token": "<s>"},
    {"chat_template": [{"name": "default", "template": "{{ a }}"}, {"name": "tool_use", "template": "{{ b }}"}]},
]
CONFIGS = [
    {"max_position_embeddings": 2048, "rope_scaling": {"rope_type": "yarn", "factor": 4}},
    {"text_config": {"max_position_embeddings": 512, "rope_parameters": None}},
]


def test_hostile_text_sets_are_read_or_refused_with_a_line():
    draw_record = hostile_json(RECORDS)
    lines = b"\n".join(json.dumps(record).encode() for record in RECORDS)

    def draw(random_: random.Random) -> bytes:
        if random_.randrange(3):
            return b"\n".join([draw_record(random_), lines])
        return damage(random_, lines)

    def take(data: bytes) -> str:
        for number, record in read_text_records(data):
            assert number >= 1
            assert isinstance(record, str) or all(isinstance(turn, str) for turn in record.turns)
        try:
            records = evaluation_records(data)
        except ValueError:
            return "refused"
        json.dumps([record.turns for record in records], ensure_ascii=False).encode()
        return "read"

    outcome = attack(draw, take, inputs=1_000)
    assert min(outcome.counts["read"], outcome.counts["refused"]) > 50


def test_hostile_serving_settings_are_read_or_refused_with_a_reason():
    def take(data: bytes) -> str:
        settings = parse_settings(data.decode("utf-8", "replace"))
        refused = settings if isinstance(settings, SettingsRefused) else assess_settings(settings)
        if refused is not None:
            assert 0 < len(refused.reason) < 2_000
            json.dumps(refused.details, allow_nan=False)
            return refused.code
        assert isinstance(settings, ServingSettings)
        settled = settle(combine(None, settings))
        assert settled is None or settled.model_dump_json()
        return "read"

    outcome = attack(hostile_json(SETTINGS), take, inputs=1_000)
    assert outcome.counts["read"] > 20
    assert outcome.counts["serving_invalid"] > 300


def test_hostile_settings_of_a_model_are_described():
    draw_tokenizer, draw_config = hostile_json(TOKENIZERS), hostile_json(CONFIGS)

    def draw(random_: random.Random) -> bytes:
        return draw_tokenizer(random_) + b"\x1e" + draw_config(random_)

    def take(data: bytes) -> str:
        tokenizer, _, config = data.decode("utf-8", "replace").partition("\x1e")
        files = {serving.TOKENIZER_CONFIG: tokenizer, MODEL_CONFIG: config}
        model = serving.describe_model(files)
        settings = ServingSettings(tool_parser="hermes", context_tokens=4096)
        refused = serving.assess_context(settings, model) or serving.assess_template(settings, model)
        return refused.code if refused else "read"

    outcome = attack(draw, take, inputs=1_000)
    assert outcome.counts["read"] > 20
