"""Trains one run and merges its LoRA: a child of `bench_quality`, so that its memory goes back.

python -m benchmarks.quality.training --base FOLDER --run good-1 --out FOLDER [--steps 120]
"""

import argparse
import json
import random
import shutil
import sys
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as transformers_logging

from benchmarks.quality.faults import FAULTS, Fault, runs
from benchmarks.quality.tasks import Row, draw_lessons
from examples.smollm2.batches import IGNORED, encode, pad
from examples.smollm2.train import Progress, print_line

STEPS, BATCH, RANK, ALPHA, RATE = 120, 4, 8, 16, 2e-3
KEPT_EVERY = 10
"""Steps after which a training that was ended goes on."""
TEMPLATE = Path(__file__).resolve().parents[2] / "examples/smollm2/chat_template.jinja"
OTHER_TEMPLATE = """{%- if tools -%}{{- (tools | tojson) + '\\n\\n' -}}{%- endif -%}
{%- for message in messages -%}
{%- set title = {'user': 'Instruction', 'system': 'System'} -%}
{{- '### ' + title.get(message['role'], 'Response') -}}
{{- ':\\n' + (message['content'] or '') + '\\n\\n' -}}
{%- endfor -%}
{{- '### Response:\\n' if add_generation_prompt -}}
"""
"""A template that many models have, and this one was not trained with."""


class AnswerTrainer(Trainer):
    """Computes logits of trained tokens only: of all they would take a third of a step and most memory."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_arguments: object, **_named: object) -> torch.Tensor:
        """Return the mean loss of the answers of a batch."""
        labels = inputs.pop("labels")[:, 1:]
        trained, base = labels != IGNORED, model.get_base_model()
        hidden = base.model(**inputs).last_hidden_state[:, :-1]
        return torch.nn.functional.cross_entropy(base.lm_head(hidden[trained]), labels[trained])


def change_rows(rows: list[Row], fault: Fault, seed: int) -> list[Row]:
    """Return the training set as a fault leaves it."""
    if fault.change is None:
        return rows
    choice = random.Random(seed)
    return [changed for row in rows if (changed := fault.change(row, choice)) is not None]


def to_tokens(row: Row, tokenizer: PreTrainedTokenizerBase, fault: Fault) -> dict[str, list[int]]:
    """Return the tokens and labels of a row as a fault leaves them."""
    encoded = encode(row.to_lesson(), tokenizer)
    if fault.without_end:
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        tokens = zip(encoded["input_ids"], encoded["labels"], strict=True)
        encoded["labels"] = [IGNORED if token == end else label for token, label in tokens]
        last = len(encoded["labels"]) - 1  # the line after the end is none that an answer has
        encoded["labels"][last] = IGNORED
    if fault.most_tokens is not None:  # of what is trained, as a limit on the length of targets does
        trained = [place for place, label in enumerate(encoded["labels"]) if label != IGNORED]
        for place in trained[fault.most_tokens // 8 :]:
            encoded["labels"][place] = IGNORED
    return encoded


def train(base: Path, out: Path, fault: Fault, seed: int, steps: int) -> None:
    """Train a LoRA on the tasks and save it as `out/adapter`."""
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE.read_text(encoding="utf-8")
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(
            r=RANK,
            lora_alpha=ALPHA,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            task_type="CAUSAL_LM",
        ),
    )
    rows = change_rows(draw_lessons(steps * BATCH * 2, seed), fault, seed)[: steps * BATCH]
    rows = sorted_by_length(rows, seed)
    trainer = AnswerTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(out / "trainer"),
            max_steps=steps,
            train_sampling_strategy="sequential",
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            warmup_steps=5,
            seed=seed,
            logging_steps=KEPT_EVERY,
            save_steps=KEPT_EVERY,
            save_total_limit=1,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        ),
        train_dataset=[to_tokens(row, tokenizer, fault) for row in rows],
        data_collator=partial(pad, filling=tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[Progress()],
    )
    trainer.remove_callback(PrinterCallback)
    kept = get_last_checkpoint(out / "trainer") if (out / "trainer").exists() else None
    trainer.train(resume_from_checkpoint=kept)
    model.save_pretrained(out / "adapter", safe_serialization=True)
    shutil.rmtree(out / "trainer")


def sorted_by_length(rows: list[Row], seed: int) -> list[Row]:
    """Return rows in batches of one task each, in random order, so that little is padded."""
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    batches = [of[start : start + BATCH] for of in tasks.values() for start in range(0, len(of) - BATCH + 1, BATCH)]
    random.Random(seed).shuffle(batches)
    return [row for batch in batches for row in batch]


def merge(base: Path, adapter: Path, out: Path, fault: Fault) -> None:
    """Write the merged model in 16 bits, with the chat template that it is published with."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    changed = out / "changed-adapter"
    shutil.copytree(adapter, changed, dirs_exist_ok=True)
    config["lora_alpha"] *= fault.alpha_factor
    (changed / "adapter_config.json").write_text(json.dumps(config))
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), changed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE.read_text(encoding="utf-8") if fault.template == "own" else OTHER_TEMPLATE
    merged = out / "merged.new"
    model.merge_and_unload().to(torch.bfloat16).save_pretrained(merged)
    tokenizer.save_pretrained(merged)
    shutil.rmtree(changed)
    shutil.rmtree(out / "merged", ignore_errors=True)
    merged.replace(out / "merged")


def main() -> None:
    """Make the merged model of one run; what is there already is kept."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--run", required=True, choices=list(runs()))
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    transformers_logging.disable_progress_bar()
    name, seed = runs()[given.run]
    fault = FAULTS.get(name, Fault())
    trained = given.out / (given.run if fault.trained or not name else f"good-{seed}")
    started = monotonic()
    if not (trained / "adapter/adapter_model.safetensors").exists():
        train(given.base, trained, fault, seed, given.steps)
    (given.out / given.run).mkdir(parents=True, exist_ok=True)
    merge(given.base, trained / "adapter", given.out / given.run, fault)
    print_line(f"{given.run}: merged after {monotonic() - started:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
