"""Serving settings: what a version may set, and how the settings of an event and of files combine."""

import json

import pytest

from contracts.vocabulary import ServingSettings
from decisions.serving.engine_parsers import REASONING_PARSERS, TOOL_PARSERS
from decisions.serving.settings import (
    ENGINE_OPTIONS,
    NO_PARSER,
    SettingsRefused,
    api_settings,
    assess_settings,
    combine,
    describe_settings,
    engine_arguments,
    find_departure,
    parse_settings,
    settle,
)
from shared.errors import Permanent

FULL = ServingSettings(
    tool_parser="hermes",
    reasoning_parser="qwen3",
    template_options={"enable_thinking": False},
    context_tokens=4096,
    tensor_parallel_size=2,
    options={"max_num_seqs": 8, "kv_cache_dtype": "fp8"},
)


def test_settings_that_the_engine_takes_are_accepted():
    assert assess_settings(ServingSettings()) is None
    assert assess_settings(FULL) is None
    assert assess_settings(ServingSettings(runtime="vllm-0.12-next")) is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"tool_parser": "herms"}, "tool_parser 'herms' is not a parser of the engine; it has apertus, "),
        ({"tool_parser": ""}, "tool_parser '' is not a parser"),
        ({"reasoning_parser": "hermes"}, "reasoning_parser 'hermes' is not a parser of the engine; it has cohere"),
        ({"context_tokens": 10**9}, "context_tokens is 1000000000; the limit is 16777216."),
        ({"tensor_parallel_size": 4096}, "tensor_parallel_size is 4096; the limit is 1024."),
        ({"options": {"dtype": "float32"}}, "options may not set 'dtype'; a version may set enable_chunked_prefill"),
        ({"options": {"max_model_len": 1}}, "options may not set 'max_model_len'"),
        (
            {"options": {"max_num_seqs": True}},
            "options.max_num_seqs is true; it must be a whole number from 1 to 1048576.",
        ),
        ({"options": {"enable_prefix_caching": "yes"}}, 'options.enable_prefix_caching is "yes"; it must be true or'),
        ({"options": {"kv_cache_dtype": ["fp8"]}}, "it must be one of auto, bfloat16, fp8"),
        ({"template_options": {"tools": []}}, "template_options may not set tools: the engine or its tokenizer"),
        ({"template_options": {"a b": 1}}, "template_options may not set 'a b'; use the name of a variable"),
        ({"runtime": "Next"}, "runtime 'Next' is not valid: use 1 to 40 lower-case letters, digits and inner dots"),
        ({"runtime": "../x"}, "runtime '../x' is not valid"),
        ({"runtime": ""}, "runtime '' is not valid"),
        ({"runtime": "x" * 41}, "is not valid: use 1 to 40"),
        ({"runtime": "default"}, "runtime 'default' is not valid: leave it out for the fleet's default runtime."),
        ({"template_options": {"text": "x" * 9000}}, "serving.template_options has 9,012 bytes as JSON; the limit is"),
    ],
)
def test_what_the_engine_does_not_take_is_refused_with_what_it_takes(fields, sentence):
    refused = assess_settings(ServingSettings(**fields))
    assert sentence in refused.reason
    assert refused.code == "serving_invalid"


def test_every_parser_that_a_sentence_names_is_valid():
    assert {"hermes", "llama3_json", "mistral"} <= TOOL_PARSERS
    assert {"qwen3", "deepseek_r1"} <= REASONING_PARSERS
    assert all(assess_settings(ServingSettings(tool_parser=name)) is None for name in TOOL_PARSERS)


def test_a_file_of_settings_is_read():
    assert parse_settings(FULL.model_dump_json()) == FULL
    assert parse_settings("{}") == ServingSettings()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "serving.json is not a JSON object."),
        ("{", "serving.json is not a JSON object."),
        ("[" * 100_000, "serving.json is not a JSON object."),
        ('{"runtime": "next"}', "serving.json may not name a runtime: it is chosen when a checkpoint is published."),
        ('{"tool_praser": "hermes"}', "serving.json has the unknown field 'tool_praser'; it may have context_tokens, "),
        ('{"context_tokens": 0}', "serving.json: context_tokens is not valid: Input should be greater than"),
    ],
)
def test_a_file_with_anything_else_is_refused(text, sentence):
    refused = parse_settings(text)
    assert isinstance(refused, SettingsRefused)
    assert sentence in refused.reason


def test_a_setting_of_the_event_replaces_that_of_the_files():
    files = ServingSettings(tool_parser="hermes", template_options={"a": 1}, context_tokens=512)
    event = ServingSettings(template_options={"b": 2}, context_tokens=1024)
    assert combine(event, files) == ServingSettings(
        tool_parser="hermes", template_options={"b": 2}, context_tokens=1024
    )
    assert combine(None, files) == files
    assert combine(event, None) == event
    assert combine(None, None) is combine(ServingSettings(), ServingSettings()) is None


def test_settings_become_arguments_of_the_engine_and_of_its_api():
    assert engine_arguments(FULL) == {
        "max_model_len": 4096,
        "tensor_parallel_size": 2,
        "max_num_seqs": 8,
        "kv_cache_dtype": "fp8",
    }
    assert api_settings(FULL) == {
        "tool_parser": "hermes",
        "reasoning_parser": "qwen3",
        "template_options": {"enable_thinking": False},
    }
    assert engine_arguments(None) == api_settings(None) == api_settings(ServingSettings()) == {}


def test_settings_are_described_in_one_line():
    assert describe_settings(None) == describe_settings(ServingSettings()) == ""
    assert describe_settings(FULL) == (
        'context_tokens 4096, tensor_parallel_size 2, options.max_num_seqs 8, options.kv_cache_dtype "fp8", '
        "tool_parser hermes, reasoning_parser qwen3, template_options.enable_thinking false"
    )


def test_the_options_are_plain_names():
    assert all(name.isidentifier() for name in ENGINE_OPTIONS)
    assert json.dumps(sorted(ENGINE_OPTIONS))


DEEP = '{"template_options": {"a": ' + "[" * 260 + "]" * 260 + "}}"


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        '{"template_options": {"a": "\\ud800"}}',
        '{"template_options": {"\\ud800": 1}}',
        '{"options": {"\\ud800": 1}}',
        '{"template_options": {"a": NaN}}',
        '{"template_options": {"a": [-Infinity]}}',
        '{"template_options": {"a": 1' + "0" * 40 + "}}",
        '{"options": {"max_num_seqs": 1' + "0" * 4000 + "}}",
        '{"tool_parser": "\\ud800"}',
        '{"context_tokens": 1' + "0" * 4000 + "}",
        '{"tensor_parallel_size": 1' + "0" * 4000 + "}",
    ],
)
def test_what_no_manifest_can_store_is_refused_with_a_reason_that_can_be_published(text):
    settings = parse_settings(text)
    refused = settings if isinstance(settings, SettingsRefused) else assess_settings(settings)
    assert refused.code == "serving_invalid"
    error = Permanent(refused.code, refused.reason, **refused.details)
    assert 0 < len(error.reason.encode()) < 2_000
    assert json.dumps(error.details, ensure_ascii=False).encode()


def test_a_parser_can_be_declined():
    declined = ServingSettings(tool_parser="none", reasoning_parser="none")
    assert assess_settings(declined) is None
    assert NO_PARSER not in TOOL_PARSERS | REASONING_PARSERS
    files = ServingSettings(tool_parser="hermes", reasoning_parser="qwen3", context_tokens=512)
    assert settle(combine(declined, files)) == ServingSettings(context_tokens=512)
    assert settle(declined) is settle(None) is None
    assert settle(FULL) == FULL


@pytest.mark.parametrize(
    ("asked", "proved", "departure"),
    [
        (None, None, None),
        (None, FULL, None),
        (ServingSettings(), FULL, None),
        (FULL, FULL, None),
        (FULL, None, "context_tokens"),
        (ServingSettings(tool_parser="hermes"), FULL, None),
        (ServingSettings(tool_parser="mistral"), FULL, "tool_parser"),
        (ServingSettings(tool_parser="none"), FULL, "tool_parser"),
        (ServingSettings(tool_parser="none"), ServingSettings(context_tokens=8), None),
        (ServingSettings(tool_parser="none"), None, None),
        (ServingSettings(options={"max_num_seqs": 9}), FULL, "options"),
        (ServingSettings(options={"max_num_seqs": 8}), FULL, "options"),
        (ServingSettings(options={"kv_cache_dtype": "fp8", "max_num_seqs": 8}), FULL, None),
        (ServingSettings(template_options={"a": 1}), ServingSettings(template_options={"a": True}), "template_options"),
    ],
)
def test_a_version_has_the_settings_that_its_event_asked_for(asked, proved, departure):
    assert find_departure(asked, proved) == departure


@pytest.mark.parametrize("name", ["truncation", "pad_token", "self", "conversations", "strftime_now", "return_dict"])
def test_what_the_tokenizer_takes_as_an_argument_is_no_option_of_a_template(name):
    refused = assess_settings(ServingSettings(template_options={name: 1}))
    assert refused.reason == (
        f"template_options may not set {name}: the engine or its tokenizer sets it for each request."
    )
