"""The small model of `slipway doctor` is near float64 in each precision, and a known defect moves it far enough."""

import json

import pytest
import torch
from safetensors.torch import load_file

from clients.cli.doctor.assess import MAX_ENGINE_NATS, MAX_KL_NATS
from services.quantiser.adapters import self_check


class RoundedAngles(torch.nn.Module):
    """A rotary embedding that rounds its factors to bfloat16, as a switch of the process does on CPUs with AMX."""

    def __init__(self, usual: torch.nn.Module) -> None:
        super().__init__()
        self.usual = usual

    def forward(self, hidden, position_ids):
        frequencies = self.usual.inv_freq.bfloat16().float()
        angles = position_ids[:, :, None].bfloat16().float() * frequencies
        angles = torch.cat((angles, angles), -1)
        return angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)


@pytest.fixture(scope="module")
def model():
    return self_check.make_model()


@pytest.fixture(scope="module")
def exact(model):
    return self_check.exact_log_probabilities(model, self_check.make_tokens())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_model_is_near_float64(model, exact, precision):
    assert self_check.mean_kl(model, self_check.make_tokens(), exact, precision) <= MAX_KL_NATS[precision]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rounded_rotary_angles_are_found(exact, precision):
    model = self_check.make_model()
    model.model.rotary_emb = RoundedAngles(model.model.rotary_emb)
    divergence = self_check.mean_kl(model, self_check.make_tokens(), exact, precision)
    assert divergence > 20 * MAX_KL_NATS[precision]


def test_the_model_is_the_same_each_time_and_its_weights_fit_bfloat16(model):
    again = self_check.make_model()
    for ours, theirs in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(ours, ours.bfloat16().float())


def test_expectations_are_those_of_the_tokens_that_follow(exact, tmp_path):
    ids = self_check.make_tokens()
    self_check.write_expected(tmp_path / "expected.json", ids, exact)
    expected = json.loads((tmp_path / "expected.json").read_text())
    assert len(expected["log_probabilities"]) == len(expected["token_ids"]) - 1 == self_check.TOKENS - 1
    assert expected["log_probabilities"][5] == pytest.approx(float(exact[5, ids[0, 6]]))


def differs(model, exact):
    """Return the mean difference of the log-probabilities of the tokens that follow, as the engine's check has it."""
    ids = self_check.make_tokens()
    computed = self_check.exact_log_probabilities(model, ids)
    following = ids[0, 1:, None]
    return float((computed.gather(1, following) - exact.gather(1, following)).abs().mean())


def test_in_int8_the_model_is_near_itself(model, exact, tmp_path):
    self_check.write_int8(tmp_path / "int8", model)
    tensors = load_file(tmp_path / "int8/model.safetensors")
    again, linear = self_check.make_model(), 0
    for name, weight in again.state_dict().items():
        stored, scale = tensors[name], tensors.get(f"{name}_scale")
        if scale is not None:
            assert stored.dtype == torch.int8
            linear += 1
        weight.copy_(stored.float() * (1 if scale is None else scale.float()))
    assert linear == 7 * self_check.CONFIG["num_hidden_layers"]
    assert 0 < differs(again, exact) < MAX_ENGINE_NATS["int8"] / 2


def test_the_limits_of_an_engine_find_a_rotation_that_is_rounded(exact):
    model = self_check.make_model()
    ids = self_check.make_tokens()
    model.model.rotary_emb = RoundedAngles(model.model.rotary_emb)
    with torch.inference_mode():
        computed = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    following = ids[0, 1:, None]
    assert float((computed - exact).gather(1, following).abs().mean()) > MAX_ENGINE_NATS["int8"]
