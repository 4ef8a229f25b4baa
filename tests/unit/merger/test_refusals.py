"""Each kind of bad checkpoint, as real files, is refused with its code before any merge."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.errors import Permanent
from tests.kit.models import ATTENTION, edit_json, tiny_base, tiny_full, tiny_lora

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
WEIGHTS = "adapter_model.safetensors"


def refusal(order) -> Permanent:
    with pytest.raises(Permanent) as caught:
        order.make()
    assert caught.value.reason.endswith(".")
    return caught.value


def edit_weights(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def test_a_pickle_is_refused_even_beside_safetensors(order):
    one = order()
    torch.save({"x": torch.ones(1)}, one.checkpoint / "adapter_model.bin")
    assert refusal(one).code == "pickle_refused"


def test_only_a_pickle_is_refused_as_a_pickle(order):
    one = order()
    torch.save(load_file(one.checkpoint / WEIGHTS), one.checkpoint / "adapter_model.bin")
    (one.checkpoint / WEIGHTS).unlink()
    assert refusal(one).code == "pickle_refused"


def test_missing_weights(order):
    one = order()
    (one.checkpoint / WEIGHTS).unlink()
    assert refusal(one).code == "artifact_not_found"


def test_weights_of_0_bytes(order):
    one = order()
    (one.checkpoint / WEIGHTS).write_bytes(b"")
    assert refusal(one).code == "truncated_weights"


@pytest.mark.parametrize("keep", [4, 8, 100, -1])
def test_truncated_weights(order, keep):
    one = order()
    data = (one.checkpoint / WEIGHTS).read_bytes()
    (one.checkpoint / WEIGHTS).write_bytes(data[:keep])
    error = refusal(one)
    assert error.code == "truncated_weights"
    assert error.details == {"path": WEIGHTS}


def test_noise_instead_of_weights(order):
    one = order()
    (one.checkpoint / WEIGHTS).write_bytes(b"\x10" + b"\x00" * 7 + b"not json at all!" * 4)
    assert refusal(one).code == "truncated_weights"


def test_configuration_that_is_no_json(order):
    one = order()
    (one.checkpoint / "adapter_config.json").write_text('{"peft_type": "LO')
    assert refusal(one).code == "truncated_weights"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_weights_name_the_tensor(order, value):
    one = order()
    name = next(iter(load_file(one.checkpoint / WEIGHTS)))

    def spoil(tensors):
        tensors[name][0, 0] = value

    edit_weights(one.checkpoint / WEIGHTS, spoil)
    error = refusal(one)
    assert error.code == "non_finite_weights"
    assert error.details["tensors"] == [name]


def test_wrong_shape(order):
    one = order()
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"

    def spoil(tensors):
        tensors[name] = tensors[name][:, :16]

    edit_weights(one.checkpoint / WEIGHTS, spoil)
    error = refusal(one)
    assert error.code == "shape_mismatch"
    assert error.details == {"tensor": name, "found": [4, 16], "expected": [4, 32]}


def test_adapter_of_a_wider_base(order, tmp_path):
    other = tiny_base(tmp_path / "wide", hidden=64)
    assert refusal(order(checkpoint=tiny_lora(other, tmp_path / "lora"))).code == "shape_mismatch"


def test_adapter_of_a_deeper_base(order, tmp_path):
    other = tiny_base(tmp_path / "deep", layers=4)
    error = refusal(order(checkpoint=tiny_lora(other, tmp_path / "lora")))
    assert error.code == "adapter_keys_mismatch"
    assert error.details["unexpected"]


def test_missing_and_renamed_tensors(order):
    one = order()
    edit_weights(one.checkpoint / WEIGHTS, lambda tensors: tensors.pop(next(iter(tensors))))
    error = refusal(one)
    assert error.code == "adapter_keys_mismatch"
    assert len(error.details["missing"]) == 1


def test_modules_that_the_base_does_not_have(order):
    one = order()
    edit_json(one.checkpoint / "adapter_config.json", target_modules=["c_attn"])
    assert refusal(one).code == "adapter_keys_mismatch"


def test_zero_adapter(made, order, tmp_path):
    assert refusal(order(checkpoint=tiny_lora(made["base"], tmp_path / "zero", zero=True))).code == "adapter_is_zero"


def test_one_idle_module_is_no_zero_adapter(order):
    one = order()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    edit_weights(one.checkpoint / WEIGHTS, lambda tensors: tensors[name].zero_())
    one.make()


def test_adapter_that_names_another_base(order):
    one = order()
    edit_json(one.checkpoint / "adapter_config.json", base_model_name_or_path="acme/other-llama")
    assert refusal(one).code == "base_mismatch"


def test_a_local_folder_says_nothing_about_the_base(order):
    one = order()
    edit_json(one.checkpoint / "adapter_config.json", base_model_name_or_path="/home/me/models/my-llama")
    one.make()


def test_initialisation_that_changed_the_base(order):
    one = order()
    edit_json(one.checkpoint / "adapter_config.json", init_lora_weights="pissa_niter_4")
    assert refusal(one).code == "base_mismatch"


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "IA3"},
        {"peft_type": None},
        {"bias": "all"},
        {"lora_bias": True},
        {"trainable_token_indices": [1, 2]},
        {"layer_replication": [[0, 2]]},
    ],
)
def test_what_cannot_be_merged(order, changes):
    one = order()
    edit_json(one.checkpoint / "adapter_config.json", **changes)
    assert refusal(one).code == "unsupported_adapter"


def test_quantised_base_by_configuration(order):
    one = order()
    edit_json(one.base / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert refusal(one).code == "quantised_base"


def test_quantised_base_by_its_tensors(order):
    one = order()
    name = "model.layers.0.mlp.up_proj.weight"
    edit_weights(one.base / "model.safetensors", lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    error = refusal(one)
    assert error.code == "quantised_base"
    assert error.details["tensor"] == name


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": [*ATTENTION, "embed_tokens"]},
        {"target_modules": [*ATTENTION, "lm_head"]},
        {"target_modules": r".*(q_proj|embed_tokens)"},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
    ],
)
def test_lora_on_tied_embeddings(made, order, tmp_path, settings):
    adapter = tiny_lora(made["base"], tmp_path / "lora", **settings)
    assert refusal(order(checkpoint=adapter)).code == "tied_embedding_lora"


def test_base_with_a_weight_missing(order):
    one = order()
    edit_weights(one.base / "model.safetensors", lambda tensors: tensors.pop("model.norm.weight"))
    assert refusal(one).code == "unsupported_architecture"


def test_base_of_an_unknown_architecture(order):
    one = order()
    edit_json(one.base / "config.json", model_type="no-such-model")
    assert refusal(one).code == "unsupported_architecture"


def test_checkpoint_with_another_chat_template(order):
    one = order()
    (one.checkpoint / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert refusal(one).code == "tokenizer_changed"


def test_checkpoint_with_another_tokenizer(order):
    one = order()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(one.base / name, one.checkpoint / name)
    tokenizer = json.loads((one.checkpoint / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (one.checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert refusal(one).code == "tokenizer_changed"


BROKEN_TEMPLATES = {
    "{{ raise_exception('no chat') }}": "refuses this conversation: no chat",
    "{% for %}": "TemplateSyntaxError",
    "{{ messages[0].nothing.at_all }}": "UndefinedError",
    "{{ 'x' * 3000000 }}": "characters",
}


@pytest.mark.parametrize(("template", "why"), BROKEN_TEMPLATES.items())
def test_chat_template_that_cannot_be_rendered_costs_no_merge(order, template, why):
    one = order()
    (one.base / "chat_template.jinja").write_text(template)
    one.put()
    before = one.store.keys("")
    error = refusal(one)
    assert error.code == "tokenizer_changed"
    assert why in error.reason
    assert one.store.keys("") == before  # nothing was written


def test_chat_template_that_never_ends(order, monkeypatch):
    monkeypatch.setattr("services.merger.adapters.tokenizers.TEMPLATE_LIMIT_S", 0.5)
    one = order()
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (one.base / "chat_template.jinja").write_text(endless)
    error = refusal(one)
    assert error.code == "tokenizer_changed"
    assert "took more than" in error.reason


def test_several_chat_templates_without_a_default(order):
    one = order()
    (one.base / "chat_template.jinja").unlink()
    named = [{"name": "tool_use", "template": "x"}, {"name": "rag", "template": "y"}]
    edit_json(one.base / "tokenizer_config.json", chat_template=named)
    assert refusal(one).code == "tokenizer_changed"


def test_chat_template_of_added_tokens_that_cannot_be_rendered(made, order, tmp_path):
    adapter = tiny_lora(made["base"], tmp_path / "lora", added_tokens=3, save_embeddings=True)
    (adapter / "chat_template.jinja").write_text("{{ 'x' * 3000000 }}")
    error = refusal(order(checkpoint=adapter))
    assert error.code == "tokenizer_changed"
    assert "characters" in error.reason


def test_checkpoint_with_the_bases_own_tokenizer_saved_again(order):
    one = order()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(one.base / name, one.checkpoint / name)
    tokenizer = json.loads((one.checkpoint / "tokenizer.json").read_text())
    (one.checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer, indent=None))
    one.make()


def test_lora_that_brings_changed_embeddings_of_the_base_along(made, order, tmp_path):
    adapter = tiny_lora(made["untied"], tmp_path / "lora", target_modules=[*ATTENTION, "embed_tokens"])
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    edit_weights(adapter / WEIGHTS, lambda tensors: tensors[name].add_(1.0))
    assert refusal(order(base="untied", checkpoint=adapter)).code == "base_mismatch"


def test_full_weights_of_another_depth(order, tmp_path):
    other = tiny_base(tmp_path / "deep", layers=4)
    one = order(checkpoint=tiny_full(other, tmp_path / "full"), kind="full")
    assert refusal(one).code == "base_mismatch"


LINEAR_ROPE = {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"rope_parameters": LINEAR_ROPE}, ["rope_parameters"]),
        ({"num_key_value_heads": 4}, ["num_key_value_heads"]),
        ({"tie_word_embeddings": False}, ["tie_word_embeddings"]),
        ({"quantization_config": {"quant_method": "gptq"}}, ["quantization_config"]),
        ({"attn_implementation": "acme/kernels"}, ["attn_implementation"]),  # the library would load it from a hub
        ({"something_else": 1}, ["something_else"]),
    ],
)
def test_full_weights_with_other_settings(order, settings, keys):
    one = order(checkpoint="full", kind="full")
    edit_json(one.checkpoint / "config.json", **settings)
    error = refusal(one)
    assert error.code == "base_mismatch"
    assert error.details["keys"] == keys


@pytest.mark.parametrize("settings", [{"model_type": "none-such"}, {"pad_token_id": 10_000}, {"hidden_size": "many"}])
def test_full_weights_whose_settings_build_no_model(order, settings):
    one = order(checkpoint="full", kind="full")
    edit_json(one.checkpoint / "config.json", **settings)
    error = refusal(one)
    assert error.code == "base_mismatch"
    assert "config.json cannot be used" in error.reason


def test_full_weights_whose_generation_config_is_none(order):
    one = order(checkpoint="full", kind="full")
    (one.checkpoint / "generation_config.json").write_text("[]")
    error = refusal(one)
    assert error.code == "truncated_weights"
    assert "generation_config.json" in error.reason


def test_lora_without_rank_or_alpha(order):
    for name in ("r", "lora_alpha"):
        one = order()
        config = json.loads((one.checkpoint / "adapter_config.json").read_text())
        del config[name]
        (one.checkpoint / "adapter_config.json").write_text(json.dumps(config))
        error = refusal(one)
        assert (error.code, error.details["setting"]) == ("hyperparameters_mismatch", name)
        shutil.rmtree(one.base)
        shutil.rmtree(one.checkpoint)


def test_alpha_that_was_changed_since_training(order):
    one = order(hyperparameters={"lora_r": 4, "alpha": 16, "lr": 1e-4})
    error = refusal(one)
    assert error.code == "hyperparameters_mismatch"
    assert error.details == {"setting": "lora_alpha", "adapter": 8, "recorded": 16}


def test_nan_in_the_lora_names_the_tensor(order):
    one = order()
    name = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"

    def spoil(tensors):
        tensors[name][0, 1] = float("inf")

    edit_weights(one.checkpoint / WEIGHTS, spoil)
    error = refusal(one)
    assert (error.code, error.details) == ("non_finite_weights", {"tensors": [name]})


def test_nan_in_the_base_names_the_tensor(order):
    one = order()
    name = "model.layers.1.mlp.down_proj.weight"

    def spoil(tensors):
        tensors[name][0, 1] = float("nan")

    edit_weights(one.base / "model.safetensors", spoil)
    error = refusal(one)
    assert (error.code, error.details) == ("non_finite_weights", {"tensors": [name]})


def test_two_different_copies_of_one_tied_matrix(made, order, tmp_path):
    adapter = tiny_lora(made["base"], tmp_path / "lora", added_tokens=3, save_embeddings=True)

    def spoil(tensors):
        tensors["base_model.model.lm_head.weight"] = tensors["base_model.model.model.embed_tokens.weight"].clone()
        tensors["base_model.model.lm_head.weight"][260] += 1

    edit_weights(adapter / WEIGHTS, spoil)
    assert refusal(order(checkpoint=adapter)).code == "tied_embedding_lora"


def test_resized_embeddings_without_a_tokenizer(made, order, tmp_path):
    adapter = tiny_lora(made["base"], tmp_path / "lora", added_tokens=3, save_embeddings=True)
    for path in adapter.glob("tokenizer*"):
        path.unlink()
    error = refusal(order(checkpoint=adapter))
    assert error.code == "vocabulary_mismatch"
    assert error.details == {"tokens": 259, "rows": 262, "base_rows": 259}


def test_added_tokens_without_resized_embeddings(made, order, tmp_path):
    adapter = tiny_lora(made["base"], tmp_path / "lora", added_tokens=3, save_embeddings=True)
    for path in adapter.glob("tokenizer*"):
        shutil.copy(path, tmp_path / path.name)
    one = order()
    for path in tmp_path.glob("tokenizer*"):
        shutil.copy(path, one.checkpoint / path.name)
    error = refusal(one)
    assert error.code == "vocabulary_mismatch"
    assert error.details["tokens"] == 262


def test_resized_embedding_of_another_base(made, order, tmp_path):
    adapter = tiny_lora(made["base"], tmp_path / "lora", added_tokens=3, save_embeddings=True)
    name = "base_model.model.model.embed_tokens.weight"
    edit_weights(adapter / WEIGHTS, lambda tensors: [tensors[one].add_(1.0) for one in tensors if "lora_" not in one])
    error = refusal(order(checkpoint=adapter))
    assert error.code == "base_mismatch"
    assert name.removeprefix("base_model.model.") in error.details["tensors"]


def test_embedding_that_grew_without_its_head(made, order, tmp_path):
    adapter = tiny_lora(made["untied"], tmp_path / "lora", added_tokens=3, save_embeddings=True)
    edit_weights(adapter / WEIGHTS, lambda tensors: tensors.pop("base_model.model.lm_head.weight"))
    error = refusal(order(base="untied", checkpoint=adapter))
    assert error.code == "vocabulary_mismatch"
    assert error.details == {"missing": ["lm_head.weight"]}


def test_full_weights_whose_configuration_names_another_vocabulary(order):
    one = order(checkpoint="full", kind="full")
    edit_json(one.checkpoint / "config.json", vocab_size=300)
    assert refusal(one).code == "vocabulary_mismatch"


def test_full_weights_with_nan(order):
    one = order(checkpoint="full", kind="full")

    def spoil(tensors):
        tensors["model.norm.weight"][3] = float("nan")

    edit_weights(one.checkpoint / "model.safetensors", spoil)
    one.put()
    before = one.store.keys("")
    error = refusal(one)
    assert error.code == "non_finite_weights"
    assert error.details["tensors"] == ["model.norm.weight"]
    assert one.store.keys("") == before  # nothing was written


def test_a_sum_that_overflows_the_saved_dtype(made, order, tmp_path):
    adapter = tiny_lora(made["base"], tmp_path / "lora", scale=300.0)
    one = order(checkpoint=adapter, dtype="float16")
    assert refusal(one).code == "non_finite_weights"
