"""Each kind of bad checkpoint, as real files, is refused with its code before any merge."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from decisions.checkpoints.architectures import CONVERTED_ARCHITECTURES
from shared.errors import Permanent
from testbed.models import ATTENTION, edit_json, tiny_base, tiny_full, tiny_lora, tiny_qwen3_moe
from tests.unit.merger.damaged import WEIGHTS, edit_weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def rejection(job) -> Permanent:
    with pytest.raises(Permanent) as caught:
        job.run()
    assert caught.value.reason.endswith(".")
    return caught.value


def test_a_pickle_is_refused_even_beside_safetensors(make_job):
    job = make_job()
    torch.save({"x": torch.ones(1)}, job.checkpoint / "adapter_model.bin")
    assert rejection(job).code == "pickle_refused"


def test_only_a_pickle_is_refused_as_a_pickle(make_job):
    job = make_job()
    torch.save(load_file(job.checkpoint / WEIGHTS), job.checkpoint / "adapter_model.bin")
    (job.checkpoint / WEIGHTS).unlink()
    assert rejection(job).code == "pickle_refused"


def test_missing_weights(make_job):
    job = make_job()
    (job.checkpoint / WEIGHTS).unlink()
    assert rejection(job).code == "artifact_not_found"


def test_weights_of_0_bytes(make_job):
    job = make_job()
    (job.checkpoint / WEIGHTS).write_bytes(b"")
    assert rejection(job).code == "truncated_weights"


@pytest.mark.parametrize("keep", [4, 8, 100, -1])
def test_truncated_weights(make_job, keep):
    job = make_job()
    data = (job.checkpoint / WEIGHTS).read_bytes()
    (job.checkpoint / WEIGHTS).write_bytes(data[:keep])
    error = rejection(job)
    assert error.code == "truncated_weights"
    assert error.details == {"path": WEIGHTS}


def test_noise_instead_of_weights(make_job):
    job = make_job()
    (job.checkpoint / WEIGHTS).write_bytes(b"\x10" + b"\x00" * 7 + b"not json at all!" * 4)
    assert rejection(job).code == "truncated_weights"


def test_configuration_that_is_no_json(make_job):
    job = make_job()
    (job.checkpoint / "adapter_config.json").write_text('{"peft_type": "LO')
    assert rejection(job).code == "truncated_weights"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_weights_name_the_tensor(make_job, value):
    job = make_job()
    name = next(iter(load_file(job.checkpoint / WEIGHTS)))

    def spoil(tensors):
        tensors[name][0, 0] = value

    edit_weights(job.checkpoint / WEIGHTS, spoil)
    error = rejection(job)
    assert error.code == "non_finite_weights"
    assert error.details["tensors"] == [name]


def test_wrong_shape(make_job):
    job = make_job()
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"

    def spoil(tensors):
        tensors[name] = tensors[name][:, :16]

    edit_weights(job.checkpoint / WEIGHTS, spoil)
    error = rejection(job)
    assert error.code == "shape_mismatch"
    assert error.details == {"tensor": name, "found": [4, 16], "expected": [4, 32]}


def test_adapter_of_a_wider_base(make_job, tmp_path):
    other = tiny_base(tmp_path / "wide", hidden=64)
    assert rejection(make_job(checkpoint=tiny_lora(other, tmp_path / "lora"))).code == "shape_mismatch"


def test_adapter_of_a_deeper_base(make_job, tmp_path):
    other = tiny_base(tmp_path / "deep", layers=4)
    error = rejection(make_job(checkpoint=tiny_lora(other, tmp_path / "lora")))
    assert error.code == "adapter_keys_mismatch"
    assert error.details["unexpected"]


def test_missing_and_renamed_tensors(make_job):
    job = make_job()
    edit_weights(job.checkpoint / WEIGHTS, lambda tensors: tensors.pop(next(iter(tensors))))
    error = rejection(job)
    assert error.code == "adapter_keys_mismatch"
    assert len(error.details["missing"]) == 1


def test_modules_that_the_base_does_not_have(make_job):
    job = make_job()
    edit_json(job.checkpoint / "adapter_config.json", target_modules=["c_attn"])
    assert rejection(job).code == "adapter_keys_mismatch"


def test_zero_adapter(made, make_job, tmp_path):
    assert (
        rejection(make_job(checkpoint=tiny_lora(made["base"], tmp_path / "zero", zero=True))).code == "adapter_is_zero"
    )


def test_one_idle_module_is_no_zero_adapter(make_job):
    job = make_job()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    edit_weights(job.checkpoint / WEIGHTS, lambda tensors: tensors[name].zero_())
    job.run()


def test_adapter_that_names_another_base(make_job):
    job = make_job()
    edit_json(job.checkpoint / "adapter_config.json", base_model_name_or_path="acme/other-llama")
    assert rejection(job).code == "base_mismatch"


def test_a_local_folder_says_nothing_about_the_base(make_job):
    job = make_job()
    edit_json(job.checkpoint / "adapter_config.json", base_model_name_or_path="/home/me/models/my-llama")
    job.run()


def test_initialisation_that_changed_the_base(make_job):
    job = make_job()
    edit_json(job.checkpoint / "adapter_config.json", init_lora_weights="pissa_niter_4")
    assert rejection(job).code == "base_mismatch"


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
def test_what_cannot_be_merged(make_job, changes):
    job = make_job()
    edit_json(job.checkpoint / "adapter_config.json", **changes)
    assert rejection(job).code == "unsupported_adapter"


def test_quantised_base_by_configuration(make_job):
    job = make_job()
    edit_json(job.base / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert rejection(job).code == "quantised_base"


def test_quantised_base_by_its_tensors(make_job):
    job = make_job()
    name = "model.layers.0.mlp.up_proj.weight"
    edit_weights(job.base / "model.safetensors", lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    error = rejection(job)
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
def test_lora_on_tied_embeddings(made, make_job, tmp_path, settings):
    adapter = tiny_lora(made["base"], tmp_path / "lora", **settings)
    assert rejection(make_job(checkpoint=adapter)).code == "tied_embedding_lora"


def test_base_with_a_weight_missing(make_job):
    job = make_job()
    edit_weights(job.base / "model.safetensors", lambda tensors: tensors.pop("model.norm.weight"))
    assert rejection(job).code == "unsupported_architecture"


def test_a_mixture_of_experts_is_refused_as_such(make_job, tmp_path):
    base = tiny_base(tmp_path / "moe", config=tiny_qwen3_moe())
    error = rejection(make_job(base=base))
    assert (error.code, error.details) == ("unsupported_architecture", {"architecture": "Qwen3MoeForCausalLM"})


def test_the_list_of_converted_architectures_is_that_of_transformers():
    """A renamed prefix alone is reversed on saving; all else leads to other tensors in the files."""
    converted = set()
    for model_type, architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        steps = get_checkpoint_conversion_mapping(model_type) or []
        if any(type(step).__name__ != "PrefixChange" for step in steps) and architecture.endswith("ForCausalLM"):
            converted.add(architecture)
    assert converted == CONVERTED_ARCHITECTURES


def test_base_of_an_unknown_architecture(make_job):
    job = make_job()
    edit_json(job.base / "config.json", model_type="no-such-model")
    assert rejection(job).code == "unsupported_architecture"


def test_checkpoint_with_another_tokenizer(make_job):
    job = make_job()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(job.base / name, job.checkpoint / name)
    tokenizer = json.loads((job.checkpoint / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (job.checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert rejection(job).code == "tokenizer_changed"


BROKEN_TEMPLATES = {
    "{{ raise_exception('no chat') }}": "rejects this conversation: no chat",
    "{% for %}": "TemplateSyntaxError",
    "{{ messages[0].nothing.at_all }}": "UndefinedError",
    "{{ 'x' * 3000000 }}": "characters",
}


@pytest.mark.parametrize(("template", "why"), BROKEN_TEMPLATES.items())
def test_chat_template_that_cannot_be_rendered_costs_no_merge(make_job, template, why):
    job = make_job()
    (job.base / "chat_template.jinja").write_text(template)
    job.put()
    before = job.store.keys("")
    error = rejection(job)
    assert error.code == "tokenizer_changed"
    assert why in error.reason
    assert job.store.keys("") == before  # nothing was written


def test_chat_template_that_never_ends(make_job, monkeypatch):
    monkeypatch.setattr("services.merger.adapters.rendering.LIMIT_S", 0.5)
    job = make_job()
    job.render = None  # its own process, with that limit
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (job.base / "chat_template.jinja").write_text(endless)
    error = rejection(job)
    assert error.code == "tokenizer_changed"
    assert "exceeded" in error.reason


def test_several_chat_templates_without_a_default(make_job):
    job = make_job()
    (job.base / "chat_template.jinja").unlink()
    named = [{"name": "tool_use", "template": "x"}, {"name": "rag", "template": "y"}]
    edit_json(job.base / "tokenizer_config.json", chat_template=named)
    assert rejection(job).code == "tokenizer_changed"


def test_chat_template_of_added_tokens_that_cannot_be_rendered(made, make_job, tmp_path):
    adapter = tiny_lora(made["base"], tmp_path / "lora", added_tokens=3, save_embeddings=True)
    (adapter / "chat_template.jinja").write_text("{{ 'x' * 3000000 }}")
    error = rejection(make_job(checkpoint=adapter))
    assert error.code == "tokenizer_changed"
    assert "characters" in error.reason


def test_checkpoint_with_the_bases_own_tokenizer_saved_again(make_job):
    job = make_job()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(job.base / name, job.checkpoint / name)
    tokenizer = json.loads((job.checkpoint / "tokenizer.json").read_text())
    (job.checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer, indent=None))
    job.run()


def test_lora_that_brings_changed_embeddings_of_the_base_along(made, make_job, tmp_path):
    adapter = tiny_lora(made["untied"], tmp_path / "lora", target_modules=[*ATTENTION, "embed_tokens"])
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    edit_weights(adapter / WEIGHTS, lambda tensors: tensors[name].add_(1.0))
    assert rejection(make_job(base="untied", checkpoint=adapter)).code == "base_mismatch"


def test_full_weights_of_another_depth(make_job, tmp_path):
    other = tiny_base(tmp_path / "deep", layers=4)
    job = make_job(checkpoint=tiny_full(other, tmp_path / "full"), kind="full")
    assert rejection(job).code == "base_mismatch"


def test_full_weights_without_a_tensor_name_it(make_job):
    job = make_job(checkpoint="full", kind="full")
    edit_weights(job.checkpoint / "model.safetensors", lambda tensors: tensors.pop("model.norm.weight"))
    error = rejection(job)
    assert error.code == "base_mismatch"
    assert "1 tensors of the base are missing" in error.reason
    assert "model.norm.weight" in error.reason


def other_values(tensors):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1


def other_shape(tensors):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].T


@pytest.mark.parametrize("change", [other_values, other_shape])
def test_full_weights_with_two_different_copies_of_one_tied_matrix(make_job, change):
    job = make_job(checkpoint="full", kind="full")
    edit_weights(job.checkpoint / "model.safetensors", change)
    error = rejection(job)
    assert error.code == "base_mismatch"
    assert "lm_head.weight and model.embed_tokens.weight" in error.reason
    assert "LoRA" not in error.sentence()


LINEAR_ROPE = {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"rope_parameters": LINEAR_ROPE}, ["rope_parameters"]),
        ({"num_key_value_heads": 4}, ["num_key_value_heads"]),
        ({"tie_word_embeddings": False}, ["tie_word_embeddings"]),
        ({"attn_implementation": "acme/kernels"}, ["attn_implementation"]),  # the library would load it from a hub
        ({"something_else": 1}, ["something_else"]),
    ],
)
def test_full_weights_with_other_settings(make_job, settings, keys):
    job = make_job(checkpoint="full", kind="full")
    edit_json(job.checkpoint / "config.json", **settings)
    error = rejection(job)
    assert error.code == "base_mismatch"
    assert error.details["keys"] == keys


def test_full_weights_that_are_quantised(make_job):
    job = make_job(checkpoint="full", kind="full")
    edit_json(job.checkpoint / "config.json", quantization_config={"quant_method": "gptq"})
    assert rejection(job).code == "quantised_base"


@pytest.mark.parametrize("settings", [{"model_type": "none-such"}, {"pad_token_id": 10_000}, {"hidden_size": "many"}])
def test_full_weights_whose_settings_build_no_model(make_job, settings):
    job = make_job(checkpoint="full", kind="full")
    edit_json(job.checkpoint / "config.json", **settings)
    error = rejection(job)
    assert error.code == "base_mismatch"
    assert "config.json cannot be used" in error.reason


def test_full_weights_whose_generation_config_is_none(make_job):
    job = make_job(checkpoint="full", kind="full")
    (job.checkpoint / "generation_config.json").write_text("[]")
    error = rejection(job)
    assert error.code == "truncated_weights"
    assert "generation_config.json" in error.reason


def test_lora_without_rank_or_alpha(make_job):
    for name in ("r", "lora_alpha"):
        job = make_job()
        config = json.loads((job.checkpoint / "adapter_config.json").read_text())
        del config[name]
        (job.checkpoint / "adapter_config.json").write_text(json.dumps(config))
        error = rejection(job)
        assert (error.code, error.details["setting"]) == ("hyperparameters_mismatch", name)
        shutil.rmtree(job.base)
        shutil.rmtree(job.checkpoint)


def test_alpha_that_was_changed_since_training(make_job):
    job = make_job(hyperparameters={"lora_r": 4, "alpha": 16, "lr": 1e-4})
    error = rejection(job)
    assert error.code == "hyperparameters_mismatch"
    assert error.details == {"setting": "lora_alpha", "adapter": 8, "recorded": 16}


def test_nan_in_the_lora_names_the_tensor(make_job):
    job = make_job()
    name = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"

    def spoil(tensors):
        tensors[name][0, 1] = float("inf")

    edit_weights(job.checkpoint / WEIGHTS, spoil)
    error = rejection(job)
    assert (error.code, error.details) == ("non_finite_weights", {"tensors": [name]})


def test_nan_in_the_base_names_the_tensor(make_job):
    job = make_job()
    name = "model.layers.1.mlp.down_proj.weight"

    def spoil(tensors):
        tensors[name][0, 1] = float("nan")

    edit_weights(job.base / "model.safetensors", spoil)
    error = rejection(job)
    assert (error.code, error.details) == ("non_finite_weights", {"tensors": [name]})


def test_two_different_copies_of_one_tied_matrix(made, make_job, tmp_path):
    adapter = tiny_lora(made["base"], tmp_path / "lora", added_tokens=3, save_embeddings=True)

    def spoil(tensors):
        tensors["base_model.model.lm_head.weight"] = tensors["base_model.model.model.embed_tokens.weight"].clone()
        tensors["base_model.model.lm_head.weight"][260] += 1

    edit_weights(adapter / WEIGHTS, spoil)
    assert rejection(make_job(checkpoint=adapter)).code == "tied_embedding_lora"


def test_resized_embeddings_without_a_tokenizer(made, make_job, tmp_path):
    adapter = tiny_lora(made["base"], tmp_path / "lora", added_tokens=3, save_embeddings=True)
    for path in adapter.glob("tokenizer*"):
        path.unlink()
    error = rejection(make_job(checkpoint=adapter))
    assert error.code == "vocabulary_mismatch"
    assert error.details == {"tokens": 259, "rows": 262, "base_rows": 259}


def test_added_tokens_without_resized_embeddings(made, make_job, tmp_path):
    adapter = tiny_lora(made["base"], tmp_path / "lora", added_tokens=3, save_embeddings=True)
    for path in adapter.glob("tokenizer*"):
        shutil.copy(path, tmp_path / path.name)
    job = make_job()
    for path in tmp_path.glob("tokenizer*"):
        shutil.copy(path, job.checkpoint / path.name)
    error = rejection(job)
    assert error.code == "vocabulary_mismatch"
    assert error.details["tokens"] == 262


def test_resized_embedding_of_another_base(made, make_job, tmp_path):
    adapter = tiny_lora(made["base"], tmp_path / "lora", added_tokens=3, save_embeddings=True)
    name = "base_model.model.model.embed_tokens.weight"
    edit_weights(adapter / WEIGHTS, lambda tensors: [tensors[job].add_(1.0) for job in tensors if "lora_" not in job])
    error = rejection(make_job(checkpoint=adapter))
    assert error.code == "base_mismatch"
    assert name.removeprefix("base_model.model.") in error.details["tensors"]


def test_embedding_that_grew_without_its_head(made, make_job, tmp_path):
    adapter = tiny_lora(made["untied"], tmp_path / "lora", added_tokens=3, save_embeddings=True)
    edit_weights(adapter / WEIGHTS, lambda tensors: tensors.pop("base_model.model.lm_head.weight"))
    error = rejection(make_job(base="untied", checkpoint=adapter))
    assert error.code == "vocabulary_mismatch"
    assert error.details == {"missing": ["lm_head.weight"]}


def test_full_weights_whose_configuration_names_another_vocabulary(make_job):
    job = make_job(checkpoint="full", kind="full")
    edit_json(job.checkpoint / "config.json", vocab_size=300)
    assert rejection(job).code == "vocabulary_mismatch"


def test_full_weights_with_nan(make_job):
    job = make_job(checkpoint="full", kind="full")

    def spoil(tensors):
        tensors["model.norm.weight"][3] = float("nan")

    edit_weights(job.checkpoint / "model.safetensors", spoil)
    job.put()
    before = job.store.keys("")
    error = rejection(job)
    assert error.code == "non_finite_weights"
    assert error.details["tensors"] == ["model.norm.weight"]
    assert job.store.keys("") == before  # nothing was written


def test_a_sum_that_overflows_the_saved_dtype(made, make_job, tmp_path):
    adapter = tiny_lora(made["base"], tmp_path / "lora", scale=300.0)
    job = make_job(checkpoint=adapter, dtype="float16")
    assert rejection(job).code == "non_finite_weights"
