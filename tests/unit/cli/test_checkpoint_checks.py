"""What `slipway publish` refuses by a checkpoint's configuration, before anything is uploaded."""

import json
from pathlib import Path

import pytest

from clients.cli.commands.publish import hash_of
from clients.cli.output import CommandError
from clients.cli.sources.checkpoint_checks import Base, check_checkpoint
from clients.training import data_hash
from contracts.facts import BaseModelRef

LORA = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": "acme/tiny"}
QLORA = {**LORA, "base_model_name_or_path": "unsloth/tiny-unsloth-bnb-4bit"}
REF = BaseModelRef(name="acme/tiny", revision="1", uri="s3://slipway/x", digest="sha256:" + "0" * 64)


def checkpoint(folder: Path, config: dict, name: str = "adapter_config.json") -> Path:
    (folder / name).write_text(json.dumps(config))
    (folder / ("adapter_model.safetensors" if name.startswith("adapter") else "model.safetensors")).write_bytes(b"x")
    return folder


def check(folder, architecture="LlamaForCausalLM", variants=("int8",), serve="merged", **recorded):
    return check_checkpoint(
        folder, base_of=lambda: Base(REF, architecture), variants=variants, hyperparameters=recorded, serve=serve
    )


def refusal(*arguments, **given) -> str:
    with pytest.raises(CommandError) as caught:
        check(*arguments, **given)
    return caught.value.name


def test_a_lora_of_a_quantised_copy_passes_with_a_note(tmp_path):
    assert check(checkpoint(tmp_path, LORA)).note == ""
    assert "unsloth/tiny-unsloth-bnb-4bit" in check(checkpoint(tmp_path, QLORA)).note
    assert "load_in_4bit" in check(checkpoint(tmp_path, LORA), load_in_4bit=True).note


def test_what_the_merger_would_refuse_is_refused_with_its_code(tmp_path):
    lora = checkpoint(tmp_path, LORA)
    assert refusal(lora, r=16) == "hyperparameters_mismatch"
    assert refusal(lora, "Qwen3MoeForCausalLM") == "unsupported_architecture"
    assert refusal(checkpoint(tmp_path, {**LORA, "target_parameters": ["experts.down_proj"]})) == "unsupported_adapter"
    assert refusal(checkpoint(tmp_path, {**LORA, "base_model_name_or_path": "acme/other"})) == "base_mismatch"


def test_a_lora_that_no_engine_serves_as_an_adapter_is_refused_where_its_policy_asks_for_one(tmp_path):
    assert check(checkpoint(tmp_path, LORA), serve="adapter").note == ""
    for parts in ({"modules_to_save": ["lm_head"]}, {"use_dora": True}):
        lora = checkpoint(tmp_path, {**LORA, **parts})
        assert check(lora).note == ""
        assert refusal(lora, serve="adapter") == "unsupported_adapter"


def test_a_precision_that_cannot_be_made_of_the_base_is_refused(tmp_path):
    lora = checkpoint(tmp_path, LORA)
    assert refusal(lora, "GPT2LMHeadModel") == "unsupported_architecture"
    assert check(lora, "GPT2LMHeadModel", variants=("bf16",)).base == REF
    both = check(lora, "GPT2LMHeadModel", variants=("int8", "bf16"))
    assert (both.base, "int8" in both.note) == (REF, True), "the release goes on with the other"


def test_full_weights_of_a_quantised_training_are_not_called_a_lora(tmp_path):
    assert check(checkpoint(tmp_path, {}, "config.json"), load_in_4bit=True).note == ""


def test_full_weights_that_are_quantised_are_refused(tmp_path):
    full = checkpoint(tmp_path, {"quantization_config": {"quant_method": "bitsandbytes"}}, "config.json")
    assert refusal(full) == "quantised_base"


def test_a_configuration_that_is_no_object_is_refused_with_its_file(tmp_path):
    folder = checkpoint(tmp_path, LORA)
    (folder / "adapter_config.json").write_text("[1]")
    with pytest.raises(CommandError, match=r"adapter_config\.json"):
        check(folder)


def test_training_data_is_hashed_as_the_client_does(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text('{"text": "x"}\n')
    assert hash_of([file], None) == data_hash([file])
    assert hash_of(None, "sha256:1") == "sha256:1"
    with pytest.raises(CommandError):
        hash_of([file], "sha256:1")
    with pytest.raises(CommandError):
        hash_of([tmp_path / "none"], None)
