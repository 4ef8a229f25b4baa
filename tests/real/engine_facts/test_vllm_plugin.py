"""What the backend gives vLLM reaches it: its plugin, by metadata on the path of child processes, and its variables."""

import re

import pytest

from testbed.triton import ROOT
from testbed.vllm_server import SETTINGS

pytestmark = [pytest.mark.real, pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(300)]


def test_an_idle_engine_is_told_to_sleep_soon(facts):
    before, after = facts["idle_s"]
    assert before == 1.0, "vLLM changed its own: is the plugin still needed?"
    assert after == 0.005


def test_every_variable_that_the_backend_or_a_test_server_sets_is_one_of_vllm(facts):
    """vLLM only warns of others, and does without them."""
    text = (ROOT / "deploy/backends/slipway/engine_environment.py").read_text(encoding="utf-8")
    named = {*re.findall(r'"(VLLM_[A-Z0-9_]+)"', text), *SETTINGS}
    assert {name for name in named if name.startswith("VLLM_")} <= set(facts["variables"])
