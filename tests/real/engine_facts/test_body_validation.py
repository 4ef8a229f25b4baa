"""Large bodies are validated by vLLM's classes in a thread, once each, and with the same outcome."""

import json

import pytest

from decisions.openai.paths import PATHS

pytestmark = [pytest.mark.real, pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def printed(facts):
    return facts["validation"]


def test_the_body_of_every_path_is_validated_in_the_thread_and_not_again(printed):
    assert printed["threads"] == {path: ["judging_0"] for path in PATHS}


def test_a_body_that_is_not_valid_is_answered_as_without_the_thread(printed):
    with_thread, without = printed["invalid"][:2], printed["invalid"][2:]
    assert all(json.loads(answer)["error"]["message"] for answer in with_thread)
    assert with_thread == without
