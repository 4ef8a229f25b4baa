"""Every path and field of the installed vLLM's OpenAI API is judged: a newer vLLM fails here until its new ones are."""

import pytest

from decisions.openai.fields import ALLOWED_FIELDS, GIVEN_VARIABLES, REFUSED_FIELDS, WITHOUT_EFFECT
from decisions.openai.paths import PATHS, REFUSED_PATHS
from decisions.serving.engine_parsers import REASONING_PARSERS, TOOL_PARSERS

pytestmark = [pytest.mark.real, pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def api(facts):
    return facts["api"]


def test_every_path_of_the_application_is_judged(api):
    assert set(api["paths"]) == set(PATHS) | set(REFUSED_PATHS)
    assert all("POST" in api["paths"][path] for path in PATHS)


def test_every_field_of_a_body_is_judged(api):
    for path, kind in PATHS.items():
        known = set(api["fields"][path])
        assert known >= ALLOWED_FIELDS[kind], f"{path}: the engine does not know these"
        assert known <= ALLOWED_FIELDS[kind] | {*REFUSED_FIELDS, *WITHOUT_EFFECT}, f"{path}: these are not judged"


def test_every_parser_is_one_that_a_version_may_name(api):
    assert api["parsers"] == {"tool": sorted(TOOL_PARSERS), "reasoning": sorted(REASONING_PARSERS)}


def test_no_setting_or_request_may_set_what_the_engine_or_its_tokenizer_gives_a_chat_template(api):
    """`conversations` is an argument of the function that the tokenizer calls with all of them."""
    assert set(api["given"]) | {"conversations"} == GIVEN_VARIABLES
