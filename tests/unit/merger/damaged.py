"""Checkpoints and bases that are damaged, each with the code of its refusal."""

import json

import torch
from safetensors.torch import load_file, save_file

from testbed.models import edit_json

WEIGHTS = "adapter_model.safetensors"


def edit_weights(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


LORA, FULL = "lora", "full"
SETTINGS, MODEL = "adapter_config.json", "config.json"
A_TENSOR = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
A_BASE_TENSOR, UNKNOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_norm.weight"
INFINITE = float("inf")
LINEAR_ROPE = {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}


def damaged(change, *, of="checkpoint", name=WEIGHTS):
    """Return what changes the tensors of a file."""
    return lambda job: edit_weights(getattr(job, of) / name, change)


def in_full(change):
    return damaged(change, name="model.safetensors")


def in_base(change):
    return damaged(change, of="base", name="model.safetensors")


def written(file, content, *, of="checkpoint"):
    """Return what writes another content into a file, or a part of its own."""
    return lambda job: (getattr(job, of) / file).write_bytes(
        content if isinstance(content, bytes) else (getattr(job, of) / file).read_bytes()[content]
    )


def configured(file, *, of="checkpoint", **changes):
    """Return what changes a configuration."""
    return lambda job: edit_json(getattr(job, of) / file, **changes)


def headed(change):
    """Return what changes the header of the LoRA's weights, which keep their bytes."""

    def damage(job):
        data = (job.checkpoint / WEIGHTS).read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        text = change(data[8:end])
        (job.checkpoint / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + data[end:])

    return damage


def with_header(change):
    def text(old):
        header = {name: entry for name, entry in json.loads(old).items() if name != "__metadata__"}
        change(header)
        return json.dumps(header).encode()

    return headed(text)


def cast(dtype):
    return lambda tensors: tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})


def spoilt(name, value):
    return lambda tensors: tensors[name][0].fill_(value)


DAMAGES = {
    "a pickle beside the weights": (
        LORA, lambda job: torch.save({"x": torch.ones(1)}, job.checkpoint / "adapter_model.bin"), "pickle_refused", {},
    ),
    "only a pickle": (
        LORA,
        lambda job: (torch.save({}, job.checkpoint / "adapter_model.bin"), (job.checkpoint / WEIGHTS).unlink()),
        "pickle_refused", {},
    ),
    "no weights": (LORA, lambda job: (job.checkpoint / WEIGHTS).unlink(), "artifact_not_found", {}),
    **{
        f"weights cut at {keep}": (LORA, written(WEIGHTS, slice(keep)), "truncated_weights", {"path": WEIGHTS})
        for keep in (0, 4, 8, 100, -1)
    },
    "noise": (LORA, written(WEIGHTS, b"\x10" + b"\x00" * 7 + b"not json at all!" * 4), "truncated_weights", {}),
    "a configuration cut off": (LORA, written(SETTINGS, b'{"peft_type": "LO'), "truncated_weights", {}),
    "a configuration without an end": (LORA, written(SETTINGS, b"[" * 200_000), "truncated_weights", {}),
    "a tokenizer's configuration without an end": (
        LORA, written("tokenizer_config.json", b"[" * 200_000), "tokenizer_changed", {},
    ),
    **{
        f"{value} in the LoRA": (
            LORA, damaged(spoilt(A_TENSOR, value)), "non_finite_weights", {"tensors": [A_TENSOR]},
        )
        for value in (float("nan"), INFINITE, -INFINITE)
    },
    "nan in the base": (
        LORA, in_base(spoilt(A_BASE_TENSOR, float("nan"))), "non_finite_weights", {"tensors": [A_BASE_TENSOR]},
    ),
    "nan in full weights": (
        FULL, in_full(spoilt("model.norm.weight", float("nan"))), "non_finite_weights",
        {"tensors": ["model.norm.weight"]},
    ),
    "another shape": (
        LORA, damaged(lambda tensors: tensors.update({A_TENSOR: tensors[A_TENSOR][:, :16]})), "shape_mismatch",
        {"tensor": A_TENSOR, "found": [4, 16], "expected": [4, 32]},
    ),
    "a tensor is missing": (
        LORA, damaged(lambda tensors: tensors.pop(A_TENSOR)), "adapter_keys_mismatch", {"missing": [A_TENSOR]},
    ),
    "modules that the base lacks": (LORA, configured(SETTINGS, target_modules=["c_attn"]), "adapter_keys_mismatch", {}),
    "a pattern of modules that is none": (
        LORA, configured(SETTINGS, target_modules="(q_proj"), "adapter_keys_mismatch", {},
    ),
    "another base": (LORA, configured(SETTINGS, base_model_name_or_path="acme/other-llama"), "base_mismatch", {}),
    "an initialisation that changed the base": (
        LORA, configured(SETTINGS, init_lora_weights="pissa_niter_4"), "base_mismatch", {},
    ),
    **{
        f"{name}={value}": (LORA, configured(SETTINGS, **{name: value}), "unsupported_adapter", {})
        for name, value in (
            ("peft_type", "IA3"), ("peft_type", None), ("bias", "all"), ("lora_bias", True),
            ("trainable_token_indices", [1, 2]), ("layer_replication", [[0, 2]]),
        )
    },
    **{
        f"a LoRA in {dtype}": (LORA, damaged(cast(dtype)), "unsupported_adapter", {})
        for dtype in (torch.bool, torch.int32, torch.uint64, torch.float8_e4m3fn)
    },
    **{
        f"no {name}": (LORA, configured(SETTINGS, **{name: None}), "hyperparameters_mismatch", {"setting": name})
        for name in ("r", "lora_alpha")
    },
    "metadata that is no text": (
        LORA, with_header(lambda header: header.update(__metadata__={"step": 500})), "truncated_weights",
        {"path": WEIGHTS},
    ),
    "an infinite shape": (
        LORA, with_header(lambda header: header[min(header)].update(shape=[INFINITE])), "truncated_weights",
        {"path": WEIGHTS},
    ),
    "offsets that are no whole numbers": (
        LORA,
        with_header(
            lambda header: header[min(header)].update(data_offsets=[*map(float, header[min(header)]["data_offsets"])])
        ),
        "truncated_weights", {"path": WEIGHTS},
    ),
    "a header that only the library refuses": (
        LORA, headed(lambda old: old.replace(b'"dtype"', b'"dtype":"F32","dtype"', 1)), "truncated_weights", {},
    ),
    "a quantised base": (
        LORA, configured(MODEL, of="base", quantization_config={"quant_method": "bitsandbytes"}), "quantised_base", {},
    ),
    "a base with quantised tensors": (
        LORA,
        in_base(lambda tensors: tensors.update({A_BASE_TENSOR: tensors[A_BASE_TENSOR].to(torch.int8)})),
        "quantised_base", {"tensor": A_BASE_TENSOR},
    ),
    "a base without a weight": (
        LORA, in_base(lambda tensors: tensors.pop("model.norm.weight")), "unsupported_architecture", {},
    ),
    "a base with an unknown tensor": (
        LORA,
        in_base(lambda tensors: tensors.update({UNKNOWN: torch.ones(8)})),
        "unsupported_architecture", {"unexpected": [UNKNOWN]},
    ),
    **{
        f"a base with {name}={value}": (
            LORA, configured(MODEL, of="base", **{name: value}), "unsupported_architecture", {},
        )
        for name, value in (
            ("model_type", "no-such-model"), ("num_attention_heads", 0), ("hidden_size", "wide"), ("vocab_size", -1),
            ("transformers_weights", "tokenizer.safetensors"),
        )
    },
    "several chat templates without a default": (
        LORA,
        lambda job: (
            (job.base / "chat_template.jinja").unlink(),
            edit_json(job.base / "tokenizer_config.json", chat_template=[{"name": "rag", "template": "y"}]),
        ),
        "tokenizer_changed", {},
    ),
    **{
        f"the template {template[:40]}": (
            LORA, written("chat_template.jinja", template.encode(), of="base"), "tokenizer_changed", {},
        )
        for template in (
            "{{ raise_exception('no chat') }}", "{% for %}", "{{ messages[0].nothing.at_all }}", "{{ 'x' * 3000000 }}",
        )
    },
    "quantised full weights": (
        FULL, configured(MODEL, quantization_config={"quant_method": "gptq"}), "quantised_base", {},
    ),
    **{
        f"full weights with {name}={value}": (
            FULL, configured(MODEL, **{name: value}), "base_mismatch", {"keys": [name]},
        )
        for name, value in (
            ("rope_parameters", LINEAR_ROPE), ("num_key_value_heads", 4), ("tie_word_embeddings", False),
            ("attn_implementation", "acme/kernels"),  # the library would load it from a hub
            ("something_else", 1),
        )
    },
    **{
        f"full weights with {name}={value}": (FULL, configured(MODEL, **{name: value}), "base_mismatch", {})
        for name, value in (("model_type", "none-such"), ("pad_token_id", 10_000), ("hidden_size", "many"))
    },
    "no generation configuration": (FULL, written("generation_config.json", b"[]"), "truncated_weights", {}),
    "another vocabulary": (FULL, configured(MODEL, vocab_size=300), "vocabulary_mismatch", {}),
    "full weights without a tensor": (
        FULL, in_full(lambda tensors: tensors.pop("model.norm.weight")), "base_mismatch", {},
    ),
    **{
        f"two copies of a tied matrix, {number}": (FULL, in_full(change), "base_mismatch", {})
        for number, change in enumerate(
            (
                lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}),
                lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].T}),
            )
        )
    },
}  # fmt: skip
