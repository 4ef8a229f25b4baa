"""A measurement needs one model in memory at a time, and its figures are those of both in float32."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from services.quantiser.adapters import evaluation
from services.quantiser.adapters.stored_scores import StoredScores
from testbed.models import tiny_base, tiny_qwen2

pytestmark = pytest.mark.real
WINDOWS = [[3 + (7 * n * n + 11 * n + shift) % 250 for n in range(60 + shift)] for shift in (0, 5)]


@pytest.fixture(scope="module", params=["llama", "qwen2 with biases", "float16"])
def merged(request, tmp_path_factory):
    config = tiny_qwen2() if request.param == "qwen2 with biases" else None
    dtype = torch.float16 if request.param == "float16" else torch.bfloat16
    return tiny_base(tmp_path_factory.mktemp("merged") / "model", config=config, dtype=dtype)


@torch.inference_mode()
def scores(model, window):
    return evaluation.log_probabilities(model, torch.tensor([window]))


def test_weights_in_16_bit_compute_as_the_same_ones_in_float32(merged):
    narrow, wide = evaluation.load_narrow(merged), evaluation.load_reference(merged)
    assert {weight.dtype for weight in narrow.parameters()} <= {torch.bfloat16, torch.float16}
    for window in WINDOWS:
        assert torch.equal(scores(narrow, window), scores(wide, window))


def test_stored_results_stand_in_for_the_model(merged, tmp_path):
    stored = StoredScores(tmp_path / "scores", lambda: evaluation.load_narrow(merged))
    reports = []
    stored.compute(WINDOWS, lambda *report: reports.append(report))
    assert reports == [(1, 2), (2, 2)]
    reference, candidate = evaluation.load_reference(merged), altered(merged)
    expected = evaluation.measure_quality(reference, candidate, WINDOWS, lambda *_: None)
    assert evaluation.measure_quality(stored, candidate, WINDOWS, lambda *_: None) == expected


def altered(merged):
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.01)
    return model
