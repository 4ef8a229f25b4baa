"""The long run of `slipway doctor`: it starts each server for a moment, and computes with torch and with vLLM."""

import pytest

from tests.integration.doctoring import doctor

pytestmark = [pytest.mark.real, pytest.mark.vllm, pytest.mark.timeout(400)]


def test_every_part_works_here_and_computes_correctly(tmp_path):
    code, findings = doctor("--state", str(tmp_path / "state"), timeout_s=360)
    assert code == 0, findings
    tried = ("nats", "s3", "triton", "numbers", "engine numbers")
    assert {name: findings[name]["state"] for name in tried} == dict.fromkeys(tried, "ok")
    assert not (tmp_path / "state").exists(), "looking changes nothing"
