"""A tiny base model and a LoRA on it: the checkpoint that `helm test` publishes. Needs the standard library only.

A Llama of two layers with random weights; every byte is a token. It says nothing, but a release can do with it all that
a release does. The same bytes each time.
"""

import json
import math
import random
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

HIDDEN: Final = 128
HEADS: Final = 2
"""64 numbers a head: the least that engines have kernels for."""
LAYERS: Final = 2
RANK: Final = 4
CONTROL: Final = ("<|pad|>", "<|start|>", "<|end|>")
PROJECTIONS: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
TEMPLATE: Final = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
POLICY: Final = {
    "gates": [{"metric": "error_ratio", "max_value": 0.5}],
    "load": {"requests": 6, "rate_rps": 6.0, "output_tokens": 8, "warmup_requests": 1},
    "rehearsal": "not_required",
    "promotion": {"mode": "manual"},
    "triggers": [{"name": "errors", "metric": "error_ratio", "threshold": 0.5, "action": "manual"}],
}
"""Nothing of it goes to production: an approval is required, and none is given."""


def alphabet() -> list[str]:
    """Return one character for each byte, as byte-level tokenizers of the GPT-2 family write them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return sorted([*map(chr, printable), *(chr(256 + number) for number in range(len(others)))])


VOCABULARY: Final = {token: number for number, token in enumerate([*CONTROL, *alphabet()])}


def _normal(shape: Sequence[int], scale: float, generator: random.Random) -> list[float]:
    return [generator.gauss(0.0, scale) for _ in range(math.prod(shape))]


def _save(path: Path, dtype: str, tensors: Iterable[tuple[str, Sequence[int], list[float]]]) -> None:
    """Write tensors as safetensors; `BF16` keeps the upper half of each float."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = bytearray()
    for name, shape, values in tensors:
        data = struct.pack(f"<{len(values)}f", *values)
        if dtype == "BF16":
            data = b"".join(data[start + 2 : start + 4] for start in range(0, len(data), 4))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def _write(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1, sort_keys=True))


def _tokenizer() -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": token, **plain} for number, token in enumerate(CONTROL)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "vocab": VOCABULARY, "merges": []},
    }


def write_base(folder: Path) -> Path:
    """Write the base model."""
    marks = {"bos_token": CONTROL[1], "eos_token": CONTROL[2], "pad_token": CONTROL[0]}
    _write(
        folder,
        {
            "config.json": {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "vocab_size": len(VOCABULARY),
                "hidden_size": HIDDEN,
                "intermediate_size": 2 * HIDDEN,
                "num_hidden_layers": LAYERS,
                "num_attention_heads": HEADS,
                "num_key_value_heads": HEADS,
                "head_dim": HIDDEN // HEADS,
                "hidden_act": "silu",
                "max_position_embeddings": 512,
                "rms_norm_eps": 1e-6,
                "rope_theta": 10000.0,
                "tie_word_embeddings": True,
                "torch_dtype": "bfloat16",
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
            "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
            "tokenizer.json": _tokenizer(),
            "tokenizer_config.json": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "chat_template": TEMPLATE,
                "model_max_length": 512,
                "clean_up_tokenization_spaces": False,
                **marks,
            },
        },
    )
    generator = random.Random(0)  # noqa: S311 - weights, not secrets
    ones = [1.0] * HIDDEN
    tensors: list[tuple[str, Sequence[int], list[float]]] = []

    def add(name: str, *shape: int) -> None:
        tensors.append((f"model.{name}.weight", shape, _normal(shape, 0.12, generator)))

    add("embed_tokens", len(VOCABULARY), HIDDEN)
    for layer in range(LAYERS):
        for projection in PROJECTIONS:
            add(f"layers.{layer}.self_attn.{projection}", HIDDEN, HIDDEN)
        for projection in ("gate_proj", "up_proj"):
            add(f"layers.{layer}.mlp.{projection}", 2 * HIDDEN, HIDDEN)
        add(f"layers.{layer}.mlp.down_proj", HIDDEN, 2 * HIDDEN)
        tensors += [
            (f"model.layers.{layer}.{norm}.weight", (HIDDEN,), ones)
            for norm in ("input_layernorm", "post_attention_layernorm")
        ]
    _save(folder / "model.safetensors", "BF16", [*tensors, ("model.norm.weight", (HIDDEN,), ones)])
    return folder


def write_lora(folder: Path, base: str) -> Path:
    """Write a LoRA on the base model, as PEFT saves it; neither A nor B is zero."""
    _write(
        folder,
        {
            "adapter_config.json": {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": base,
                "r": RANK,
                "lora_alpha": 2 * RANK,
                "lora_dropout": 0.0,
                "bias": "none",
                "fan_in_fan_out": False,
                "inference_mode": True,
                "target_modules": sorted(PROJECTIONS),
            }
        },
    )
    generator = random.Random(1)  # noqa: S311 - weights, not secrets
    tensors: list[tuple[str, Sequence[int], list[float]]] = []
    for layer in range(LAYERS):
        for projection in PROJECTIONS:
            for part, shape in (("A", (RANK, HIDDEN)), ("B", (HIDDEN, RANK))):
                name = f"base_model.model.model.layers.{layer}.self_attn.{projection}.lora_{part}.weight"
                tensors.append((name, shape, _normal(shape, 0.02, generator)))
    _save(folder / "adapter_model.safetensors", "F32", tensors)
    return folder
