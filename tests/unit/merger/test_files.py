"""Which files and tensors of a folder count, and what a library raises over them: all refused before anything is written."""

import errno
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.merger.adapters import torch_checks
from shared.errors import Permanent
from testbed.models import edit_json, tiny_base, tiny_lora
from tests.unit.merger.damaged import WEIGHTS, edit_weights
from tests.unit.merger.peft_results import assert_same_bits, load_all, peft_merge

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
INDEX = "model.safetensors.index.json"


def rejection(job) -> Permanent:
    """Return the refusal; nothing may have been written."""
    job.put()
    before = job.store.keys("")
    with pytest.raises(Permanent) as caught:
        job.run()
    assert job.store.keys("") == before
    assert caught.value.reason.endswith(".")
    return caught.value


def sharded(made, tmp_path):
    """Return a base in several shards and a LoRA on it."""
    base = tiny_base(tmp_path / "sharded", shard_size="20KB")
    return base, made["lora"]


# -- a LoRA's files -------------------------------------------------------------------------------------------------------


def test_other_weights_beside_a_lora_are_not_the_loras(made, make_job):
    job = make_job()
    (job.checkpoint / "checkpoint-500").mkdir()
    (job.checkpoint / "checkpoint-500" / WEIGHTS).write_bytes(b"cut off")
    shutil.copy(made["base"] / "model.safetensors", job.checkpoint / "model.safetensors")
    job.run()
    assert_same_bits(load_all(job.out), peft_merge(made["base"], made["lora"]))


def test_a_lora_in_float64_is_merged(make_job):
    job = make_job()
    edit_weights(job.checkpoint / WEIGHTS, lambda weights: weights.update({n: t.double() for n, t in weights.items()}))
    job.run()


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"type": "Newest", "vocab": {}}},
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "X", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            }
        },
    ],
    ids=["unknown to the library", "over which it panics"],
)
def test_a_tokenizer_that_the_library_cannot_use(make_job, changes):
    job = make_job()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(job.base / name, job.checkpoint / name)
    edit_json(job.checkpoint / "tokenizer.json", **changes)
    error = rejection(job)
    assert error.code == "tokenizer_changed"
    assert "Exception" in error.reason


# -- a base's files -------------------------------------------------------------------------------------------------------


def test_another_precision_beside_the_weights_is_not_the_models(made, make_job):
    job = make_job()
    shutil.copy(job.base / "model.safetensors", job.base / "model.fp16.safetensors")
    job.run()
    assert_same_bits(load_all(job.out), peft_merge(made["base"], made["lora"]))


def test_the_original_layout_beside_the_shards_is_not_the_models(made, make_job, tmp_path):
    base, lora = sharded(made, tmp_path)
    job = make_job(base=base, checkpoint=lora)
    foreign = {"layers.0.attention.wq.weight": torch.ones(32, 32), "norm.weight": torch.full((32,), float("nan"))}
    save_file(foreign, job.base / "consolidated.safetensors")
    job.run()
    assert_same_bits(load_all(job.out), peft_merge(base, lora))


def test_full_weights_are_the_files_that_transformers_loads(made, make_job):
    job = make_job(checkpoint="full", kind="full")
    save_file({"model.norm.weight": torch.zeros(32)}, job.checkpoint / "model-00001-of-00001.safetensors")
    job.run()
    assert_same_bits(load_all(job.out), load_all(made["full"]))


def test_an_index_must_name_files_that_are_there(made, make_job, tmp_path):
    base, lora = sharded(made, tmp_path)
    job = make_job(base=base, checkpoint=lora)
    gone = sorted(job.base.glob("*.safetensors"))[1]
    gone.unlink()
    error = rejection(job)
    assert (error.code, error.details) == ("artifact_not_found", {"missing": gone.name})
    (job.base / INDEX).write_text('{"weight_map": {"model.norm.weight": 3}}')
    assert rejection(job).code == "truncated_weights"
    (job.base / INDEX).unlink()
    assert rejection(job).code == "artifact_not_found"


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_tensor_in_two_files_is_refused(made, make_job, tmp_path, kind):
    base, lora = sharded(made, tmp_path)
    job = make_job(base=base, checkpoint=lora if kind == "lora" else base, kind=kind)
    folder = job.base if kind == "lora" else job.checkpoint
    first, second, *_ = sorted(folder.glob("*.safetensors"))
    name = min(load_file(first))
    edit_weights(second, lambda weights: weights.update({name: load_file(first)[name]}))
    error = rejection(job)
    assert error.code == "truncated_weights"
    assert error.details == {"tensor": name, "paths": [first.name, second.name]}


BUFFERS = {"base": "model.layers.0.self_attn.rotary_emb.inv_freq", "gpt2": "transformer.h.0.attn.bias"}


@pytest.mark.parametrize(("base", "buffer"), [*BUFFERS.items(), ("gpt2", "transformer.h.0.attn.masked_bias")])
def test_buffers_that_older_versions_saved_are_left_out(made, make_job, tmp_path, base, buffer):
    adapter = tiny_lora(made[base], tmp_path / "lora")
    job = make_job(base=base, checkpoint=adapter)
    edit_weights(job.base / "model.safetensors", lambda weights: weights.update({buffer: torch.ones(4)}))
    job.run()
    assert_same_bits(load_all(job.out), peft_merge(made[base], adapter))


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_full_weights_may_bring_such_buffers(made, make_job, value):
    job = make_job(checkpoint="full", kind="full")
    edit_weights(
        job.checkpoint / "model.safetensors", lambda weights: weights.update({BUFFERS["base"]: torch.full((4,), value)})
    )
    job.run()
    assert_same_bits(load_all(job.out), load_all(made["full"]))


def test_a_base_with_another_shape_than_its_configuration_says(make_job):
    job = make_job()
    edit_json(job.base / "config.json", intermediate_size=96)
    error = rejection(job)
    assert error.code == "shape_mismatch"
    assert error.details["expected"] == [32, 96]
    assert "config.json" in error.reason


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint64])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_weights_that_are_not_floating_point(make_job, kind, dtype):
    job = make_job(checkpoint=kind, kind=kind)
    folder = job.base if kind == "lora" else job.checkpoint
    edit_weights(folder / "model.safetensors", lambda weights: weights.update({Q_PROJ: weights[Q_PROJ].to(dtype)}))
    error = rejection(job)
    assert (error.code, error.details["tensor"]) == ("quantised_base", Q_PROJ)


# -- what a library raises ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        OSError(errno.ENOSPC, "full"),
        Permanent("pickle_refused", "It is."),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_what_a_checkpoint_did_not_cause_is_not_attributed_to_it(error):
    with pytest.raises(type(error)) as caught, torch_checks.library_errors_as("base_mismatch", "It does not fit"):
        raise error
    assert caught.value is error


def test_a_refusal_names_the_kind_of_what_a_library_raised():
    with pytest.raises(Permanent) as caught, torch_checks.library_errors_as("base_mismatch", "It does not fit"):
        raise torch.cuda.OutOfMemoryError("no\nmore")
    assert caught.value.reason == "It does not fit: OutOfMemoryError: no."
