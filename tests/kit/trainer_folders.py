"""Folders as TRL, Unsloth and axolotl leave them, of small models with the architectures of Llama 3.2 and Qwen 2.5."""

import json
import shutil
from pathlib import Path

from testbed.models import edit_json, tiny_base, tiny_lora, tiny_qwen2

LLAMA, QWEN = "models/Llama-3.2-1B-Instruct", "models/Qwen2.5-0.5B-Instruct"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OWN_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}: {{ message['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant: {% endif %}"
)
QUANTISED = {"load_in_4bit": True, "quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4"}


def make_trl(folder: Path) -> None:
    """Write what `SFTTrainer.save_model` leaves in `outputs`, beside the base and the training data."""
    out = _lora(tiny_base(folder / LLAMA), folder / "outputs", name="meta-llama/Llama-3.2-1B-Instruct")
    (out / "training_args.bin").write_bytes(b"\x80\x04.")


def make_unsloth(folder: Path) -> None:
    """Write what `save_pretrained` of Unsloth leaves in `lora_model`: a LoRA on the quantised copy of the base."""
    out = _lora(
        tiny_base(folder / LLAMA),
        folder / "lora_model",
        name="unsloth/llama-3.2-1b-instruct-unsloth-bnb-4bit",
        lora_dropout=0,
    )
    parent = "transformers.models.llama.modeling_llama"
    mapping = {"base_model_class": "LlamaForCausalLM", "parent_library": parent, "unsloth_fixed": True}
    edit_json(out / "adapter_config.json", auto_mapping=mapping)


def make_axolotl(folder: Path) -> None:
    """Write what axolotl's QLoRA leaves in `outputs/lora-out`: with the quantised base's configuration beside it."""
    base = tiny_base(folder / QWEN, config=tiny_qwen2())
    out = _lora(base, folder / "outputs/lora-out", name="Qwen/Qwen2.5-0.5B-Instruct")
    shutil.copy(base / "config.json", out)
    edit_json(out / "config.json", quantization_config=QUANTISED, use_cache=False)
    (out / "debug.log").write_text("training\n")


MAKERS = {"TRL": make_trl, "Unsloth": make_unsloth, "axolotl": make_axolotl}


def _lora(base: Path, out: Path, *, name: str, **settings: object) -> Path:
    """Save a LoRA with tokenizer, its own chat template and an earlier checkpoint; and training data."""
    tiny_lora(base, out, target_modules=LINEAR, **settings)
    edit_json(out / "adapter_config.json", base_model_name_or_path=name)
    for path in base.glob("*token*"):
        shutil.copy(path, out)
    (out / "chat_template.jinja").write_text(OWN_TEMPLATE)
    (out / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    shutil.copytree(out, out / "checkpoint-2")
    (out / "checkpoint-2/optimizer.pt").write_bytes(b"\x80\x04.")
    conversation = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    (base.parents[1] / "train.jsonl").write_text(json.dumps({"messages": conversation}) + "\n")
    return out
