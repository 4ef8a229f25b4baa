"""Serving settings at merge: read from the checkpoint's files, combined with the event's, proved with the template."""

import json

import pytest

from contracts.vocabulary import ServingSettings
from decisions.serving.engine_parsers import CALL_MARKERS, TOOL_PARSERS
from services.merger.domain import serving
from shared.errors import Permanent, Transient
from testbed.factories import base
from tests.kit.checkpoints import opened
from tests.unit.merger.merging import REF, entry, merger, quiet

PLAIN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
HERMES = """\
{% if tools %}<|system|># Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}
{%- if enable_thinking is defined and not enable_thinking %}/no_think{% endif %}
{%- for m in messages %}<|{{ m.role }}|>{{ m.content }}
{%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}{% endfor %}
"""
LLAMA = HERMES.replace("<tool_call>\n{", "<|end_header_id|>\n\n{").replace('arguments": {{', 'parameters": {{')
LLAMA = LLAMA.replace("</tool_call>", "<|eot_id|>")
TOOLS = ServingSettings(tool_parser="hermes")
WITH_FILE = (entry("adapter_config.json"), entry("adapter_model.safetensors"), entry("serving.json"))


def order(settings=None):
    event = opened(base(), REF)
    return event.data.model_copy(update={"serving": settings})


def use_case(template=HERMES, *, config=None, file=None):
    texts = {"config.json": json.dumps(config or {}), "chat_template.jinja": template}
    if file is not None:
        texts["serving.json"] = json.dumps(file)
    return merger(texts={name: text for name, text in texts.items() if text}, checkpoint=WITH_FILE)


async def rejection(template, settings, **more):
    with pytest.raises(Permanent) as caught:
        await use_case(template, **more).merge(order(settings), quiet)
    return caught.value.code, caught.value.reason


async def test_the_settings_of_the_event_are_in_the_manifest_whose_digest_covers_them():
    world = use_case(PLAIN)
    without, _ = await world.merge(order(), quiet)
    assert (without.serving, without.settings_of) == (None, None)
    settings = ServingSettings(reasoning_parser="qwen3", context_tokens=512)
    manifest, _ = await world.merge(order(settings), quiet)
    assert manifest.serving == settings
    assert manifest.settings_of == REF
    assert (manifest.files, manifest.parity) == (without.files, without.parity)
    assert len({manifest.output_key, without.output_key}) == 2


async def test_other_settings_of_the_same_weights_merge_nothing_again():
    world = use_case()
    await world.merge(order(TOOLS), quiet)
    world.artifacts.log.clear()
    other = ServingSettings(tool_parser="hermes", context_tokens=128)
    first = await world.merge(order(other), quiet)
    assert world.artifacts.log == ["find", "find", "commit"]
    world.artifacts.log.clear()
    assert await world.merge(order(other), quiet) == first
    assert world.artifacts.log == ["find", "find"]


async def test_settings_of_the_checkpoints_file_hold_where_the_event_sets_none():
    world = use_case(
        file={"tool_parser": "hermes", "context_tokens": 256, "template_options": {"enable_thinking": False}}
    )
    manifest, _ = await world.merge(order(), quiet)
    assert manifest.serving == ServingSettings(
        tool_parser="hermes", context_tokens=256, template_options={"enable_thinking": False}
    )
    manifest, _ = await world.merge(order(ServingSettings(context_tokens=512)), quiet)
    assert (manifest.serving.tool_parser, manifest.serving.context_tokens) == ("hermes", 512)


@pytest.mark.parametrize(
    ("template", "parser"), [(HERMES, "hermes"), (LLAMA, "llama3_json"), (PLAIN, None), ("{{ tools[", None)]
)
async def test_a_template_that_writes_the_calls_of_a_known_family_sets_its_parser(template, parser):
    manifest, _ = await use_case(template).merge(order(), quiet)
    assert (manifest.serving.tool_parser if manifest.serving else None) == parser


async def test_a_template_that_writes_calls_in_two_forms_sets_no_parser():
    manifest, _ = await use_case(HERMES + LLAMA).merge(order(), quiet)
    assert manifest.serving is None


async def test_a_file_with_a_wrong_setting_rejects_the_checkpoint_before_the_merge():
    for file, sentence in (
        ({"tool_parser": "herms"}, "'herms' is not a parser of the engine; it has apertus"),
        ({"tool_praser": "hermes"}, "unknown field 'tool_praser'"),
    ):
        world = use_case(file=file)
        with pytest.raises(Permanent) as caught:
            await world.merge(order(), quiet)
        assert caught.value.code == "serving_invalid"
        assert sentence in caught.value.reason
        assert "merge" not in world.artifacts.log


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (PLAIN, "leaves the tool, the tool's call out of a conversation with tools."),
        (HERMES.replace("tool | tojson", "tool.function.name"), "leaves the tool out of"),
        ("{% if tools %}{{ raise_exception('no tools') }}{% endif %}", "cannot render a conversation with tools: "),
        (HERMES.replace("m.tool_calls or []", "m.tool_calls[0]"), "cannot render a conversation with tools: "),
        ("", "tool_parser is set, but the model has no chat template"),
    ],
)
async def test_a_tool_parser_needs_a_template_that_renders_tools(template, sentence):
    code, reason = await rejection(template, TOOLS)
    assert code == "tools_not_rendered"
    assert sentence in reason


async def test_a_template_that_rejects_a_system_turn_is_rendered_without():
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + HERMES
    manifest, _ = await use_case(strict).merge(order(TOOLS), quiet)
    assert manifest.serving == TOOLS


async def test_an_option_that_the_template_does_not_read_is_rejected_with_those_that_it_reads():
    settings = ServingSettings(template_options={"enable_thinkin": False})
    code, reason = await rejection(HERMES, settings)
    assert code == "serving_invalid"
    assert (
        "may not set enable_thinkin: the chat template does not read it; its variables are enable_thinking." in reason
    )
    code, reason = await rejection(PLAIN, settings)
    assert reason.endswith("its variables are none.")


async def test_options_are_applied_in_the_rendering():
    fails = "{% if enable_thinking %}{{ raise_exception('no thinking') }}{% endif %}" + HERMES
    allowed = ServingSettings(template_options={"enable_thinking": False})
    manifest, _ = await use_case(fails).merge(order(allowed), quiet)
    assert manifest.serving.template_options == {"enable_thinking": False}
    code, reason = await rejection(fails, ServingSettings(template_options={"enable_thinking": True}))
    assert code == "serving_invalid"
    assert "cannot render a conversation with these template_options: " in reason
    assert "no thinking" in reason


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({"max_position_embeddings": 4096}, True),
        ({"max_position_embeddings": 2048}, False),
        ({"text_config": {"max_position_embeddings": 2048}}, False),
        ({"max_position_embeddings": 2048, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, True),
        ({"max_position_embeddings": 2048, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, False),
        ({}, True),
    ],
)
async def test_a_context_is_no_longer_than_the_models(config, fits):
    settings = ServingSettings(context_tokens=4096)
    if fits:
        manifest, _ = await use_case(PLAIN, config=config).merge(order(settings), quiet)
        assert manifest.serving == settings
    else:
        code, reason = await rejection(PLAIN, settings, config=config)
        assert code == "serving_invalid"
        assert "context_tokens is 4096; the limit is 2048, the context of the model" in reason


def test_templates_and_tokens_are_read_in_every_form():
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    texts = {"tokenizer_config.json": json.dumps({"chat_template": named, "eos_token": {"content": "</s>"}})}
    model = serving.describe_model(texts)
    assert (model.template, model.special_tokens) == ("t", {"bos_token": "", "eos_token": "</s>"})
    assert serving.describe_model({**texts, "chat_template.jinja": "own"}).template == "own"
    assert serving.describe_model({"config.json": "[", "tokenizer_config.json": "7"}).template is None


async def test_an_event_declines_the_parser_that_the_template_is_written_for():
    world = use_case()
    detected, _ = await world.merge(order(), quiet)
    declined, _ = await world.merge(order(ServingSettings(tool_parser="none")), quiet)
    assert (detected.serving, declined.serving) == (TOOLS, None)
    assert declined.output_key != detected.output_key
    other = ServingSettings(tool_parser="none", context_tokens=64)
    assert (await world.merge(order(other), quiet))[0].serving == ServingSettings(context_tokens=64)


async def test_a_file_declines_a_parser_and_an_event_sets_it_again():
    world = use_case(file={"tool_parser": "none", "reasoning_parser": "none"})
    assert (await world.merge(order(), quiet))[0].serving is None
    assert (await world.merge(order(TOOLS), quiet))[0].serving == TOOLS
    manifest, _ = await use_case(PLAIN, file={"tool_parser": "none"}).merge(
        order(ServingSettings(tool_parser="none")), quiet
    )
    assert (manifest.serving, manifest.settings_of) == (None, None)


MISTRAL = HERMES.replace("<tool_call>\n{", "[TOOL_CALLS] [{").replace("</tool_call>", "]</s>")
QWEN = HERMES.replace(
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}',
    "<function={{ call.function.name }}><parameter=parcel>{{ call.function.arguments.parcel }}</parameter></function>",
)
TOLD = HERMES.replace("# Tools", "# Tools\nAnswer within <tool_call></tool_call> or [TOOL_CALLS].")


@pytest.mark.parametrize(
    ("template", "parser", "fits"),
    [
        (HERMES, "hermes", True),
        (HERMES, "qwen3_json", True),
        (HERMES, "mistral", False),
        (TOLD, "mistral", False),
        (HERMES, "qwen3_coder", False),
        (HERMES, "kimi_k2", False),
        (HERMES, "xlam", True),
        (MISTRAL, "mistral", True),
        (MISTRAL, "hermes", False),
        (QWEN, "qwen3_coder", True),
        (QWEN, "hermes", False),
        (LLAMA, "llama3_json", True),
        (LLAMA, "hermes", False),
        (TOLD.replace("<tool_call>\n{", "[TOOL_CALLS] [{"), "hermes", False),
    ],
)
async def test_a_parser_must_read_the_form_in_which_the_template_writes_calls(template, parser, fits):
    settings = ServingSettings(tool_parser=parser)
    if fits:
        assert (await use_case(template).merge(order(settings), quiet))[0].serving == settings
        return
    code, reason = await rejection(template, settings)
    assert code == "tools_not_rendered"
    assert f"tool_parser {parser} reads calls with " in reason


async def test_the_parser_that_fits_is_named():
    _, reason = await rejection(TOLD, ServingSettings(tool_parser="mistral"))
    assert "reads calls with [TOOL_CALLS], but the chat template writes '" in reason
    assert '<tool_call>\\n{"name": "find_parcel"' in reason
    assert reason.endswith("Name hermes, which reads it.")


def test_the_markers_are_of_parsers_that_the_engine_has():
    assert set(CALL_MARKERS) < TOOL_PARSERS


@pytest.mark.parametrize("settings", [None, TOOLS, ServingSettings(template_options={"enable_thinking": False})])
async def test_a_template_that_a_busy_machine_did_not_render_is_rendered_later(settings):
    """Neither is the checkpoint rejected, nor its parser missed for ever."""
    world = use_case(file={"tool_parser": "hermes"} if settings == TOOLS else None)
    world.proof.templates.busy = True
    with pytest.raises(Transient, match="busy"):
        await world.merge(order(settings), quiet)
    assert "commit" not in world.artifacts.log
    world.proof.templates.busy = False
    manifest, _ = await world.merge(order(settings), quiet)
    assert manifest.serving.tool_parser == "hermes"
