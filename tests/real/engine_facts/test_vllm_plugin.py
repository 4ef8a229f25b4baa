"""The backend's plugin reaches vLLM as its child processes find it: by metadata on their path."""

import pytest

pytestmark = [pytest.mark.real, pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(300)]


def test_an_idle_engine_is_told_to_sleep_soon(facts):
    before, after = facts["idle_s"]
    assert before == 1.0, "vLLM changed its own: is the plugin still needed?"
    assert after == 0.005
