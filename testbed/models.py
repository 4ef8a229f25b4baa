"""Tiny real models and LoRAs: the same classes as the large ones, made in a second."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    PreTrainedConfig,
    Qwen2Config,
)

from clients.cli.sources.sample_model import save_tokenizer, small_llama

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
HIDDEN = 32


def tiny_qwen2() -> Qwen2Config:
    """Biases on q, k and v; embedding and head are two matrices. Its kind of tokenizer has a token of its own."""
    return Qwen2Config(
        vocab_size=260,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def tiny_gemma3() -> PreTrainedConfig:
    """Norms around both blocks, with an offset of one; local and global attention; tied."""
    return tiny_config_of("gemma3_text", layer_types=["sliding_attention", "full_attention"], tie_word_embeddings=True)


def tiny_qwen3_5() -> PreTrainedConfig:
    """A layer of linear attention and one of full attention."""
    return tiny_config_of(
        "qwen3_5_text",
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    )


def tiny_qwen3_moe() -> PreTrainedConfig:
    """Four experts a layer."""
    return tiny_config_of("qwen3_moe", num_experts=4, moe_intermediate_size=HIDDEN)


def tiny_config_of(kind: str, **settings: Any) -> PreTrainedConfig:
    """Return the configuration of a small model of a type of transformers."""
    sizes = {
        "vocab_size": 260,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return AutoConfig.for_model(kind, **sizes, **settings)


def tiny_gpt2() -> GPT2Config:
    """Conv1D, whose weights are transposed, with biases; tied."""
    return GPT2Config(
        vocab_size=259,
        n_embd=HIDDEN,
        n_layer=2,
        n_head=4,
        n_positions=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def tiny_base(
    folder: Path,
    *,
    config: PreTrainedConfig | None = None,
    seed: int = 0,
    tied: bool = True,
    layers: int = 2,
    hidden: int = HIDDEN,
    dtype: torch.dtype = torch.bfloat16,
    shard_size: str = "5GB",
) -> Path:
    """Save a model with random weights, a Llama unless `config` says otherwise, its tokenizer and chat template."""
    torch.manual_seed(seed)
    config = config or small_llama(hidden=hidden, tie_word_embeddings=tied, num_hidden_layers=layers)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)  # larger than the usual start, so that logits differ from one another
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    save_tokenizer(folder)
    return folder


def tiny_lora(
    base: Path,
    folder: Path,
    *,
    seed: int = 1,
    scale: float = 0.05,
    zero: bool = False,
    added_tokens: int = 0,
    save_embeddings: bool = False,
    dtype: torch.dtype = torch.float32,
    **settings,
) -> Path:
    """Save a LoRA on a tiny base; as trained: neither A nor B is zero.

    With `added_tokens`, its embedding is resized, and a tokenizer with those tokens is stored beside it.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if added_tokens:
        tokenizer = AutoTokenizer.from_pretrained(base)
        tokenizer.add_tokens([f"<|extra{number}|>" for number in range(added_tokens)])
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        tokenizer.save_pretrained(folder)
    targets = ["c_attn"] if model.config.model_type == "gpt2" else ATTENTION
    options = {"r": 4, "lora_alpha": 8, "target_modules": targets, "task_type": "CAUSAL_LM", **settings}
    model = get_peft_model(model, LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not zero:
                parameter.add_(scale * torch.randn_like(parameter))
            if zero and "lora_B" in name:
                parameter.zero_()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.save_pretrained(folder, save_embedding_layers=True if save_embeddings else "auto")
    edit_json(folder / "adapter_config.json", base_model_name_or_path="acme/tiny-llama")
    return folder


def tiny_full(
    base: Path, folder: Path, *, seed: int = 3, dtype: torch.dtype = torch.bfloat16, added_tokens: int = 0
) -> Path:
    """Save full weights that were trained from a tiny base; with `added_tokens`, embedding and tokenizer have grown."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if added_tokens:
        tokenizer = AutoTokenizer.from_pretrained(base)
        tokenizer.add_tokens([f"<|extra{number}|>" for number in range(added_tokens)])
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        tokenizer.save_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
