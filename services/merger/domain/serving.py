"""Checks serving settings against the model: chat template, tool conversation and context length."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from contracts.vocabulary import Digest, ServingSettings, digest_of_json
from decisions.checkpoints.rejection import Rejection
from decisions.openai.fields import GIVEN_VARIABLES
from decisions.serving.engine_parsers import CALL_MARKERS
from services.merger.domain.checks import MODEL_CONFIG

RenderingCode = Literal["serving_invalid", "tools_not_rendered"]
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
DESCRIBING_FILES = (MODEL_CONFIG, TOKENIZER_CONFIG, TEMPLATE_FILE)

TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "find_parcel",
            "description": "Return the state of a parcel.",
            "parameters": {
                "type": "object",
                "properties": {"parcel": {"type": "string", "description": "The number of the parcel."}},
                "required": ["parcel"],
            },
        },
    },
)
TOOL_CONVERSATION = (
    {"role": "system", "content": "You answer questions about parcels."},
    {"role": "user", "content": "Where is my parcel?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "type": "function",
                "id": "call73011",
                "function": {"name": "find_parcel", "arguments": {"parcel": "K-9027"}},
            }
        ],
    },
    {"role": "tool", "name": "find_parcel", "tool_call_id": "call73011", "content": '{"state": "held at hub 5514"}'},
)
"""A tool conversation in the form that engines pass to templates: call arguments are an object."""
_MARKS = {
    "the tool": "Return the state of a parcel.",
    "the question": "Where is my parcel?",
    "the tool's call": "K-9027",
    "the tool's result": "held at hub 5514",
}
_CALLS = {
    "hermes": r'<tool_call>\s*\{"name": "find_parcel", "arguments": \{"parcel": "K-9027"\}\}\s*</tool_call>',
    "llama3_json": (
        r'<\|end_header_id\|>\s*\{"name": "find_parcel", "parameters": \{"parcel": "K-9027"\}\}\s*<\|eot_id\|>'
    ),
    "qwen3_coder": (
        r"<tool_call>\s*<function=find_parcel>\s*<parameter=parcel>\s*K-9027\s*</parameter>\s*</function>\s*</tool_call>"
    ),
}
"""Pattern of a rendered call, by the parser for it; other forms are ambiguous."""


@dataclass(frozen=True)
class ModelDescription:
    """Chat template, special tokens and context length in a model's files."""

    template: str | None = None
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    context_tokens: int | None = None


def describe_model(texts: Mapping[str, str]) -> ModelDescription:
    """Parse the texts of `DESCRIBING_FILES`; missing files are ignored."""
    config, tokenizer = _object(texts.get(MODEL_CONFIG)), _object(texts.get(TOKENIZER_CONFIG))
    template = texts.get(TEMPLATE_FILE) or tokenizer.get("chat_template")
    if isinstance(template, list):
        named = {str(item.get("name")): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("tool_use") or named.get("default")
    special = {name: _token(value) for name, value in tokenizer.items() if name.endswith("_token")}
    return ModelDescription(
        template=template if isinstance(template, str) and template else None,
        special_tokens={"bos_token": "", "eos_token": "", **{name: text for name, text in special.items() if text}},
        context_tokens=_context(config),
    )


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _token(value: Any) -> str:
    """Return a special token's text, stored as a string or as an object with `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _context(config: Mapping[str, Any]) -> int | None:
    """Return the context length of the model's position embeddings; None if scaled or not declared."""
    for part in (config, config.get("text_config")):
        if not isinstance(part, Mapping):
            continue
        scaling = part.get("rope_scaling") or part.get("rope_parameters") or {}
        kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, Mapping) else "unknown"
        tokens = part.get("max_position_embeddings")
        if isinstance(tokens, int) and not isinstance(tokens, bool):
            return tokens if kind in (None, "default") else None
    return None


def assess_context(settings: ServingSettings, model: ModelDescription) -> Rejection | None:
    """Reject a context longer than the model's."""
    asked, own = settings.context_tokens, model.context_tokens
    if asked is None or own is None or asked <= own:
        return None
    reason = f"context_tokens is {asked}; the limit is {own}, the context of the model ({MODEL_CONFIG})."
    return Rejection("serving_invalid", reason, {"setting": "context_tokens", "value": asked, "limit": own})


def assess_template(settings: ServingSettings, model: ModelDescription) -> Rejection | None:
    """Reject settings that need a chat template if the model has none."""
    if model.template is not None or not (settings.tool_parser or settings.template_options):
        return None
    name = "tool_parser" if settings.tool_parser else "template_options"
    reason = f"{name} is set, but the model has no chat template ({TEMPLATE_FILE} or {TOKENIZER_CONFIG})."
    return Rejection("tools_not_rendered" if settings.tool_parser else "serving_invalid", reason, {"setting": name})


def assess_variables(settings: ServingSettings, variables: Collection[str]) -> Rejection | None:
    """Reject template options that the chat template does not read, because engines would ignore them."""
    unknown = sorted(set(settings.template_options) - set(variables))
    if not unknown:
        return None
    own = ", ".join(sorted(set(variables) - GIVEN_VARIABLES)) or "none"
    reason = f"template_options may not set {unknown[0]}: the chat template does not read it; its variables are {own}."
    return Rejection("serving_invalid", reason[:2000], {"setting": f"template_options.{unknown[0]}"})


def assess_tool_rendering(text: str) -> Rejection | None:
    """Reject a rendered tool conversation with a missing part."""
    missing = [part for part, mark in _MARKS.items() if mark not in text]
    if not missing:
        return None
    reason = f"The chat template leaves {', '.join(missing)} out of a conversation with tools."
    return Rejection("tools_not_rendered", reason, {"missing": missing})


def assess_call_form(text: str, parser: str) -> Rejection | None:
    """Reject a rendered call that the chosen parser cannot read, as far as its format is known."""
    call = _call_of(text)
    markers = CALL_MARKERS.get(parser, ())
    other = parser in ("hermes", "qwen3_json") and "<function=" in call  # same tags, but no JSON inside
    if not markers or (any(marker in call for marker in markers) and not other):
        return None
    fitting = find_tool_parser(text)
    advice = f"Name {fitting}, which reads it." if fitting else "Name the parser of its form, or none."
    reason = (
        f"tool_parser {parser} reads calls with {' or '.join(markers)}{' and JSON' if other else ''}, but the chat "
        f"template writes {call.strip()[:300]!r}. {advice}"
    )
    return Rejection("tools_not_rendered", reason, {"setting": "tool_parser", "value": parser, "fitting": fitting})


def _call_of(text: str) -> str:
    """Return the text between question and tool result, where templates write the call; else the whole text.

    Tool instructions, which may show the format too, come before the question.
    """
    _, _, after = text.rpartition(_MARKS["the question"])
    call, result, _ = after.partition(_MARKS["the tool's result"])
    return call if result and _MARKS["the tool's call"] in call else text


def find_tool_parser(text: str) -> str | None:
    """Return the only parser that certainly fits a template's calls; None otherwise."""
    if assess_tool_rendering(text) is not None:
        return None
    matches = [parser for parser, pattern in _CALLS.items() if re.search(pattern, text)]
    return matches[0] if len(matches) == 1 else None


def plan_settings_key(merged: Digest, settings: ServingSettings | None) -> Digest:
    """Return the output key of a merged model with other serving settings.

    Args:
        merged: Output key of the merged model.
        settings: The version's settings; None if none remain.
    """
    serving = settings.model_dump(mode="json", exclude_none=True) if settings is not None else None
    return digest_of_json({"step": "settings", "merged": merged, "serving": serving})
