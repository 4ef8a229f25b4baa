"""Each kind of bad checkpoint, as real files, is refused with its code before any merge."""

import json
import shutil

import pytest
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from decisions.checkpoints.architectures import CONVERTED_ARCHITECTURES
from shared.errors import Permanent
from testbed.models import ATTENTION, edit_json, tiny_base, tiny_full, tiny_lora, tiny_qwen3_moe
from tests.unit.merger.damaged import DAMAGES, WEIGHTS, edit_weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def rejection(job) -> Permanent:
    with pytest.raises(Permanent) as caught:
        job.run()
    assert caught.value.reason.endswith(".")
    return caught.value


@pytest.mark.parametrize(("kind", "damage", "code", "details"), DAMAGES.values(), ids=DAMAGES)
def test_it_is_refused_with_its_code_before_anything_is_written(make_job, kind, damage, code, details):
    job = make_job(checkpoint=kind, kind=kind)
    damage(job)
    job.put()
    before = job.store.keys("")
    error = rejection(job)
    assert (error.code, {name: error.details[name] for name in details}) == (code, details)
    assert job.store.keys("") == before


def test_adapter_of_a_wider_base(make_job, tmp_path):
    other = tiny_base(tmp_path / "wide", hidden=64)
    assert rejection(make_job(checkpoint=tiny_lora(other, tmp_path / "lora"))).code == "shape_mismatch"


def test_adapter_of_a_deeper_base(make_job, tmp_path):
    other = tiny_base(tmp_path / "deep", layers=4)
    error = rejection(make_job(checkpoint=tiny_lora(other, tmp_path / "lora")))
    assert error.code == "adapter_keys_mismatch"
    assert error.details["unexpected"]


def test_zero_adapter(made, make_job, tmp_path):
    assert (
        rejection(make_job(checkpoint=tiny_lora(made["base"], tmp_path / "zero", zero=True))).code == "adapter_is_zero"
    )


def test_one_idle_module_is_no_zero_adapter(make_job):
    job = make_job()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    edit_weights(job.checkpoint / WEIGHTS, lambda tensors: tensors[name].zero_())
    job.run()


def test_a_local_folder_says_nothing_about_the_base(make_job):
    job = make_job()
    edit_json(job.checkpoint / "adapter_config.json", base_model_name_or_path="/home/me/models/my-llama")
    job.run()


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


def test_checkpoint_with_another_tokenizer(make_job):
    job = make_job()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(job.base / name, job.checkpoint / name)
    tokenizer = json.loads((job.checkpoint / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (job.checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert rejection(job).code == "tokenizer_changed"


def test_chat_template_that_never_ends(make_job, monkeypatch):
    monkeypatch.setattr("services.merger.adapters.rendering.LIMIT_S", 0.5)
    job = make_job()
    job.render = None  # its own process, with that limit
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (job.base / "chat_template.jinja").write_text(endless)
    error = rejection(job)
    assert error.code == "tokenizer_changed"
    assert "exceeded" in error.reason


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


def test_a_sum_that_overflows_the_saved_dtype(made, make_job, tmp_path):
    adapter = tiny_lora(made["base"], tmp_path / "lora", scale=300.0)
    job = make_job(checkpoint=adapter, dtype="float16")
    assert rejection(job).code == "non_finite_weights"
