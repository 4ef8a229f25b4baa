"""Where an error of the OpenAI API came from: the request, the template, the settings or a part of the target."""

import sys
from pathlib import Path

import jinja2
import pytest

BACKEND = Path(__file__).resolve().parents[3] / "deploy" / "backends" / "slipway"


class VLLMClientError(Exception):
    """As vLLM's: a caller's mistake."""


class EngineDeadError(Exception):
    """As vLLM's."""


@pytest.fixture
def error_source(monkeypatch):
    monkeypatch.syspath_prepend(str(BACKEND))
    import error_source

    yield error_source
    sys.modules.pop("error_source", None)


def raise_exception(message):
    raise jinja2.TemplateError(message)


def render(source):
    """Render a template as transformers does; vLLM raises a ValueError from what it raises."""
    environment = jinja2.Environment(autoescape=False)
    environment.globals["raise_exception"] = raise_exception
    try:
        environment.from_string(source).render(messages=[])
    except Exception as error:
        raise ValueError(str(error)) from error


def caught(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
        return error
    raise AssertionError(arguments)


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("template", "source"),
    [
        ("{{ raise_exception('roles must alternate') }}", "template_refused"),
        ("{{ 1 / 0 }}", "template"),
        ("{{ messages[0].content }}", "template"),
        ("{% if %}", "template"),
    ],
)
def test_a_template_that_rejects_messages_is_no_template_that_fails(error_source, template, source):
    assert error_source.find_source(caught(render, template), started=False) == source


@pytest.mark.parametrize(
    ("error", "source"),
    [
        (ValueError('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser'), "settings"),
        (VLLMClientError("thinking_token_budget is set but reasoning_config is not configured."), "settings"),
        (NotImplementedError("The model does not support Chat Completions API"), "settings"),
        (VLLMClientError('bad value: "auto" tool choice requires --enable'), "validation"),
        (VLLMClientError("max_tokens is too large"), "validation"),
        (ValueError("n must be 1"), "validation"),
        (EngineDeadError("EngineCore encountered an issue"), "engine"),
        (KeyError("a"), "application"),
    ],
)
def test_an_error_has_its_source(error_source, error, source):
    assert error_source.find_source(caught(fail, error), started=False) == source


def test_the_cause_of_an_error_counts(error_source):
    def fail_with_cause():
        try:
            fail(EngineDeadError("dead"))
        except EngineDeadError as error:
            raise ValueError("failed") from error

    assert error_source.find_source(caught(fail_with_cause), started=True) == "engine"
