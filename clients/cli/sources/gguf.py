"""Convert the GGUF file of a Llama-like model into a Hugging Face folder.

`transformers` reads such a file but cannot save the result, so the weights are copied into a fresh model. The
tokenizer is built from the vocabulary in the file: the conversion of `transformers` loses the pre-tokenizer and the
control tokens.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

CONTROL_TOKEN = 3  # the value of `tokenizer.ggml.token_type` that marks a control token


def find_packaged_gguf(package: str) -> Path:
    """Return the path of the only GGUF file of an installed distribution, without importing it.

    The package's own runtime dependencies need not be installed.

    Raises:
        FileNotFoundError: the distribution is not installed, or holds no GGUF file or several.
    """
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        message = f"the package {package} is not installed: install it, or pass a model folder instead"
        raise FileNotFoundError(message) from error
    files = [file for file in distribution.files or [] if file.suffix == ".gguf"]
    if len(files) != 1:
        message = f"the package {package} holds {len(files)} GGUF files, expected 1: pass a model folder instead"
        raise FileNotFoundError(message)
    return Path(str(distribution.locate_file(files[0])))


def convert_gguf(
    source: Path, folder: Path, *, dtype: torch.dtype = torch.bfloat16, chat_template: str | None = None
) -> None:
    """Write `source` as a Hugging Face model folder with safetensors and its tokenizer.

    Args:
        source: The GGUF file.
        folder: The model folder; made when missing.
        dtype: What the weights are saved as.
        chat_template: A chat template instead of the one in the file.

    Raises:
        ValueError: the file does not hold a Llama with a byte-level BPE vocabulary.
    """
    transformers_logging.disable_progress_bar()  # the command shows its own status
    fields = {name: field.contents() for name, field in GGUFReader(str(source)).fields.items()}
    require_llama(fields)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(fields)
    tokenizer.chat_template = chat_template or tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    build_model(source, fields, dtype).save_pretrained(folder, safe_serialization=True)
    complete_config(folder / "config.json", fields, dtype)


def require_llama(fields: dict[str, Any]) -> None:
    """Raise ValueError for an architecture or tokenizer that this conversion was not tested with."""
    kind = (fields["general.architecture"], fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"])
    if kind != ("llama", "gpt2", "smollm"):
        message = f"cannot convert architecture {kind[0]} with tokenizer {kind[1]}/{kind[2]}: only SmolLM-like"
        raise ValueError(message)


def build_tokenizer(fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Return the byte-level BPE tokenizer, with its control tokens as special tokens."""
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    kinds: list[int] = fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    bpe = models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges)
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    end = tokens[fields["tokenizer.ggml.eos_token_id"]]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=end,
        pad_token=end,
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        additional_special_tokens=control,
        chat_template=fields["tokenizer.chat_template"],
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )


def build_model(source: Path, fields: dict[str, Any], dtype: torch.dtype) -> LlamaForCausalLM:
    """Return a fresh model in `dtype` that holds the dequantised weights."""
    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=fields["llama.vocab_size"],
            hidden_size=fields["llama.embedding_length"],
            intermediate_size=fields["llama.feed_forward_length"],
            num_hidden_layers=fields["llama.block_count"],
            num_attention_heads=fields["llama.attention.head_count"],
            num_key_value_heads=fields["llama.attention.head_count_kv"],
            max_position_embeddings=fields["llama.context_length"],
            rms_norm_eps=1e-5,  # the file's float32 prints as 9.999999747378752e-06
            rope_theta=fields["llama.rope.freq_base"],
            tie_word_embeddings=True,
            bos_token_id=fields["tokenizer.ggml.bos_token_id"],
            eos_token_id=fields["tokenizer.ggml.eos_token_id"],
            pad_token_id=fields["tokenizer.ggml.padding_token_id"],
        )
    )
    model.load_state_dict(read.state_dict(), strict=True)
    model.tie_weights()
    model = model.to(dtype)
    end = fields["tokenizer.ggml.eos_token_id"]
    start = fields["tokenizer.ggml.bos_token_id"]
    model.generation_config = GenerationConfig(bos_token_id=start, eos_token_id=end, pad_token_id=end)
    return model


def complete_config(path: Path, fields: dict[str, Any], dtype: torch.dtype) -> None:
    """Add the configuration keys that engines with an older `transformers` read."""
    config = json.loads(path.read_text())
    config["rope_theta"] = float(fields["llama.rope.freq_base"])
    config["torch_dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
