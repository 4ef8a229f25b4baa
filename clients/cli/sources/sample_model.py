"""A small Llama and LoRAs with random weights for a first release, made in seconds."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
CONTROL = ("<|pad|>", "<|start|>", "<|end|>")
TOKEN_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONTEXT_TOKENS = 512
ATTENTION = {"q_proj", "v_proj"}
RANK = 4
SCALE = 0.02
"""Scale of the weights of a LoRA: above the rounding of bfloat16, and too small to spoil a trained base."""


def save_tokenizer(folder: Path, *, chat_template: str | None = CHAT_TEMPLATE) -> None:
    """Save a byte-level tokenizer without merges: every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*CONTROL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    pad, start, end = CONTROL
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        eos_token=end,
        pad_token=pad,
        chat_template=chat_template,
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def small_llama(*, hidden: int = 32, **changes: Any) -> LlamaConfig:
    """Return the configuration of a Llama of two layers for this tokenizer."""
    sizes = {
        "vocab_size": len(CONTROL) + 256,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT_TOKENS,
        "tie_word_embeddings": True,
    }
    return LlamaConfig(**{**sizes, **TOKEN_IDS, **changes})


def save_base(folder: Path) -> None:
    """Save a Llama with reproducible random weights, its tokenizer and chat template.

    The head size of 32 is the minimum of vLLM's attention on the CPU.
    """
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small_llama(hidden=128))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)  # larger than the usual start, so that logits differ from one another
    model.generation_config = GenerationConfig(**TOKEN_IDS)
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder)


def save_lora(configuration: Path, folder: Path, *, base: str, seed: int) -> None:
    """Save a LoRA with random weights, as PEFT saves a trained one.

    Args:
        configuration: Folder with the config.json of the base; its weights are not needed.
        folder: The LoRA's folder; made when missing.
        base: The name of the base.
        seed: Seed of the weights.

    Raises:
        ValueError: PEFT or transformers does not know the architecture.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(configuration))
    named = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    targets = sorted(named & ATTENTION) or None  # PEFT knows some that are named otherwise
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets, task_type="CAUSAL_LM")
    tuned = get_peft_model(model, config, low_cpu_mem_usage=True)
    config.base_model_name_or_path, config.inference_mode = base, True
    random = torch.Generator().manual_seed(seed)
    weights = {
        name: SCALE * torch.randn(tensor.shape, generator=random)
        for name, tensor in get_peft_model_state_dict(tuned, save_embedding_layers=False).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))
