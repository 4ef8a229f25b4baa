"""What is bfloat16 in a fast measurement and what is not, on bare tensors; and the check of one window."""

import math
import types

import pytest
import torch
from compressed_tensors.quantization import preset_name_to_scheme

from contracts.precisions import PRECISIONS
from services.quantiser.adapters import evaluation
from services.quantiser.adapters.fast_linear import linear_layers
from services.quantiser.adapters.processor import this_processor
from tests.kit.process_settings import left_behind, process_settings

SEED, WIDTH, VOCABULARY, LENGTH = 0, 32, 50, 2000
linear = torch.nn.functional.linear


@pytest.fixture
def operands():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return torch.randn(5, WIDTH), torch.randn(7, WIDTH), torch.randn(7)


def test_linear_is_the_product_of_bfloat16_operands_and_comes_back_in_float32(operands):
    x, weight, bias = operands
    expected = linear(x.bfloat16(), weight.bfloat16()).float()
    with linear_layers("bfloat16"):
        assert torch.equal(linear(x, weight), expected)
        assert torch.equal(linear(x, weight, bias), expected + bias)
        assert torch.equal(linear(input=x, weight=weight, bias=bias), expected + bias)
        layer = torch.nn.Linear(WIDTH, 7)
        assert layer(x).dtype == torch.float32
        assert torch.equal(layer(x), linear(x.bfloat16(), layer.weight.bfloat16()).float() + layer.bias)
    assert torch.equal(linear(x, weight), x @ weight.T), "afterwards everything is as before"


def test_other_products_and_named_weights_and_other_tensors_stay_as_they_are(operands):
    x, weight, _ = operands
    exact = x @ weight.T
    with linear_layers("bfloat16", (weight,)):
        assert torch.equal(linear(x, weight), exact)
        assert torch.equal(x @ weight.T, exact)
        assert torch.equal(torch.matmul(x, weight.T), exact)
        assert torch.equal(torch.nn.functional.linear(x.double(), weight.double()), x.double() @ weight.double().T)
        assert linear(x.to("meta"), weight.to("meta")).device.type == "meta"
    with linear_layers("float32"):
        assert torch.equal(linear(x, weight), exact)


def test_rotary_angles_are_those_of_float64(operands):
    """On a CPU with AMX a switch of the process rounds this product; the result is off by more than a radian."""
    inverse = 10000.0 ** -(torch.arange(0, WIDTH, 2, dtype=torch.float64) / WIDTH)
    positions = torch.arange(8192)[None]
    with linear_layers("bfloat16"):  # as transformers computes it
        angles = inverse.float()[None, :, None] @ positions[:, None, :].float()
    exact = inverse[:, None] * positions.double()
    assert float((angles[0].double() - exact).abs().max()) < 1e-3, "float32 has steps of 0.0005 at 8192"


def test_nothing_is_left_behind(operands):
    x, weight, _ = operands
    before = process_settings()
    with linear_layers("bfloat16"):
        linear(x, weight)
        assert left_behind(before, process_settings()) == ["torch.function_modes was 0 and is 1"]
    assert left_behind(before, process_settings()) == []


def test_what_is_left_behind_is_named(monkeypatch):
    before = process_settings()
    switch, threads = "torch.backends.mkldnn.matmul.fp32_precision", torch.get_num_threads()
    assert switch in before, "what the test is about"
    assert left_behind(before, {**before, switch: "bf16"}) == [f"{switch} was 'none' and is 'bf16'"]
    changes = left_behind(before, {**before, "torch.threads": threads + 1})
    assert changes == [f"torch.threads was {threads} and is {threads + 1}"]
    without_torch = {name: value for name, value in before.items() if not name.startswith("torch")}
    assert left_behind(without_torch, before) == [], "torch as it is imported"
    assert len(left_behind(without_torch, {**before, switch: "bf16"})) == 1, (
        "torch that was loaded meanwhile is no excuse"
    )
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert left_behind(before, process_settings()) == ["environment ONEDNN_MAX_CPU_ISA was None and is 'AVX2'"]
    monkeypatch.undo()


def test_processor_is_what_torch_computes_with():
    processor = this_processor()
    assert processor.threads == torch.get_num_threads()
    assert processor.capability == torch.backends.cpu.get_cpu_capability()
    if processor.device == "cpu":
        assert processor.amx == ("AMX" in processor.instruction_set)


class Positional(torch.nn.Module):
    """A model whose next token depends on the token before and on the position, as an angle.

    `careful`: the angle is a plain product. Otherwise it is computed by `linear`, so that bfloat16 ruins it far out.
    """

    def __init__(self, *, careful=True, error=None, noise=0.0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self.embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
            self.head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
            self.head.weight.data += noise * torch.randn(VOCABULARY, WIDTH)
        self.careful, self.error = careful, error

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, use_cache):
        assert not use_cache
        third = linear(torch.ones(1, 1), torch.full((1, 1), 1 / 3))
        if self.error is not None and float(third) == float(torch.tensor(1 / 3)):
            raise self.error  # only where `linear` is exact: float32 is what does not fit
        positions = torch.arange(input_ids.shape[1], dtype=torch.float32)[:, None]
        weight = torch.ones(WIDTH, 1)
        angles = positions @ weight.T if self.careful else linear(positions, weight)
        hidden = self.embedding(input_ids) + 3 * (angles + torch.arange(WIDTH)).sin()
        return types.SimpleNamespace(logits=self.head(hidden))


WINDOWS = [[(7 * n * n + 11 * n) % VOCABULARY for n in range(length)] for length in (64, LENGTH, 100)]


def test_check_takes_the_longest_window_and_agrees():
    model, variant = Positional(), Positional(noise=0.01)
    check = evaluation.check_precision(model, variant, WINDOWS)
    assert check.verdict == "agreed", check.reason
    assert check.exact.tokens == check.fast.tokens == LENGTH - 1
    assert check.exact.mean_kl > 0


def test_check_notices_positions_that_are_wrong_far_out():
    model = Positional(careful=False)
    check = evaluation.check_precision(model, model, WINDOWS)
    assert check.verdict == "differed", check
    assert abs(check.fast.perplexity / check.exact.perplexity - 1) > 0.005
    short = [window[:100] for window in WINDOWS]
    assert evaluation.check_precision(model, model, short).verdict == "agreed", "short windows do not show it"


@pytest.mark.parametrize(
    "error", [MemoryError("no more"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")]
)
def test_without_memory_for_float32_the_check_is_inconclusive_not_skipped(error):
    model = Positional(error=error)
    check = evaluation.check_precision(model, model, WINDOWS)
    assert check.verdict == "inconclusive"
    assert f"does not fit the memory for a window of {LENGTH} tokens: {error}" in check.reason


def test_any_other_error_of_float32_is_an_error():
    model = Positional(error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        evaluation.check_precision(model, model, WINDOWS)


def test_the_same_model_has_no_kl_in_either_precision():
    model = Positional()
    for precision in ("float32", "bfloat16"):
        quality, windows = evaluation.measure_quality(model, model, WINDOWS, lambda *_: None, precision)
        assert (quality.mean_kl, quality.perplexity_ratio) == (0.0, 1.0)
        assert [window.nll for window in windows] == [window.reference_nll for window in windows]


def test_a_window_is_recorded_token_by_token_so_that_its_beginning_can_be_scored():
    model = Positional()
    _, windows = evaluation.measure_quality(model, model, WINDOWS, lambda *_: None)
    _, beginnings = evaluation.measure_quality(model, model, [ids[:3] for ids in WINDOWS], lambda *_: None)
    for window, beginning in zip(windows, beginnings, strict=True):
        for nll, by_token in ((window.nll, window.token_nlls), (window.reference_nll, window.reference_token_nlls)):
            assert len(by_token) == len(window.token_ids) - 1
            assert math.fsum(by_token) == pytest.approx(nll, abs=1e-4)
            assert math.fsum(by_token[:2]) == pytest.approx(beginning.nll, abs=1e-4)


@pytest.mark.parametrize("precision", [precision for precision in PRECISIONS.values() if precision.scheme])
def test_a_precision_says_whether_its_scheme_quantises_activations(precision):
    scheme = preset_name_to_scheme(precision.scheme, ["Linear"])
    assert precision.activations == (scheme.input_activations is not None)
