"""The checkpoint of `helm test`: libraries read it as what it is, and each run is judged by the release's own steps."""

import json

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer, pre_tokenizers

from contracts.policy import ReleasePolicy
from deploy.helm.canned import HIDDEN, LAYERS, POLICY, RANK, TEMPLATE, alphabet, write_base, write_lora
from deploy.helm.smoke import PROVEN, NotProven, assess


def shapes(path):
    with safe_open(path, "np") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - no mapping


def test_the_tokenizer_is_byte_level_and_loses_nothing(tmp_path):
    tokenizer = Tokenizer.from_file(str(write_base(tmp_path) / "tokenizer.json"))
    text = "a question, \u00fc and \u4e16\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert alphabet() == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert tokenizer.token_to_id("<|end|>") == 2


def test_the_weights_have_the_shapes_that_the_configuration_names(tmp_path):
    base, lora = shapes(write_base(tmp_path / "b") / "model.safetensors"), write_lora(tmp_path / "l", "b")
    config = json.loads((tmp_path / "b/config.json").read_text())
    assert base["model.embed_tokens.weight"] == [config["vocab_size"], config["hidden_size"]]
    assert len(base) == 2 + 9 * LAYERS
    pairs = shapes(lora / "adapter_model.safetensors")
    assert len(pairs) == 8 * LAYERS
    assert pairs["base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"] == [RANK, HIDDEN]


def test_it_is_the_same_each_time(tmp_path):
    first, second = (write_base(tmp_path / name) / "model.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_the_policy_is_valid_and_lets_nothing_into_production():
    assert ReleasePolicy.model_validate(POLICY).promotion.mode == "manual"
    assert "{% for message in messages %}" in TEMPLATE


def release(states, **fields):
    steps = [{"name": name, "state": state} for name, state in states.items()]
    return {"outcome": None, "code": None, "reason": "", "steps": steps, **fields}


def test_it_is_proven_when_all_is_done_and_the_approval_is_awaited():
    done = dict.fromkeys(PROVEN, "done")
    assert assess(release({**done, "approved": "running"}))
    assert not assess(release({**done, "benchmarked": "running"}))
    assert not assess(release({"merged": "running"}))


def test_a_release_that_ended_is_a_failure_with_its_reason():
    with pytest.raises(NotProven, match="ended as rejected \\(merge_failed\\): no parity"):
        assess(release({}, outcome="rejected", code="merge_failed", reason="no parity"))
