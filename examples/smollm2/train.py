"""Trains a real LoRA on SmolLM2 with PEFT, on the CPU, in about a minute.

    python -m examples.smollm2.train --base BASE_FOLDER --out RUN_FOLDER --seed 1 --steps 20

`RUN_FOLDER/adapter` then holds the adapter as safetensors, `RUN_FOLDER/run.json` what the training system tells
about it (hyperparameters, hash of the training data, evaluation results), and `calibration.jsonl` and
`evaluation.jsonl` text that was not trained on.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from examples.smollm2.text import Lesson, lessons, passages, write_lines

MAX_TOKENS = 128
IGNORED = -100  # the label that the loss skips


@dataclass(frozen=True)
class Recipe:
    """What decides the outcome of a run."""

    seed: int = 1
    steps: int = 20
    rank: int = 8
    alpha: int = 16
    learning_rate: float = 5e-4
    batch_size: int = 4


class Progress(TrainerCallback):  # type: ignore[misc]  # transformers' callback is untyped
    """Prints one line per step, so that somebody watching knows it is alive."""

    def __init__(self) -> None:
        """Start the stopwatch."""
        self.started = monotonic()

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Print the loss of the step that just ended."""
        if logs and "loss" in logs:
            took = monotonic() - self.started
            say(f"step {state.global_step:>3}/{state.max_steps}  loss {float(logs['loss']):.3f}  {took:5.1f} s")


def say(line: str) -> None:
    """Print a line at once, also through a pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def encode(lesson: Lesson, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Render a lesson through the model's own chat template; only the answer counts in the loss."""
    asked = [{"role": "user", "content": lesson.question}]
    answered = [*asked, {"role": "assistant", "content": lesson.answer}]
    prompt: str = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole: str = tokenizer.apply_chat_template(answered, tokenize=False)
    prompt_tokens = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"][:MAX_TOKENS]
    labels = [IGNORED] * min(prompt_tokens, len(ids)) + ids[prompt_tokens:]
    filling = MAX_TOKENS - len(ids)
    return {
        "input_ids": ids + [tokenizer.pad_token_id] * filling,
        "attention_mask": [1] * len(ids) + [0] * filling,
        "labels": labels + [IGNORED] * filling,
    }


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    """Mean negative log likelihood per token, in nats, of text that was never trained on."""
    model.eval()
    losses = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)["input_ids"]
        losses.append(float(model(input_ids=ids, labels=ids).loss))
    return sum(losses) / len(losses)


def train(base: Path, out: Path, recipe: Recipe, *, callbacks: tuple[TrainerCallback, ...] = ()) -> Path:
    """Train one LoRA and return the folder of the adapter.

    Args:
        base: Hugging Face folder of the base model.
        out: Folder of this run; made when missing.
        recipe: Seed, steps and the like.
        callbacks: More callbacks of the Trainer, for example the one that publishes the checkpoint.
    """
    set_seed(recipe.seed)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # twice as fast on CPUs with AVX512-BF16 or AMX
    say(f"loading {base.name}")
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            task_type="CAUSAL_LM",
        ),
    )
    data = [encode(lesson, tokenizer) for lesson in lessons()]
    held_out = passages("evaluation")[:6]
    before = held_out_loss(model, tokenizer, held_out)
    say(f"{len(data)} lessons; held-out loss of the base {before:.3f}")
    Trainer(
        model=model,
        args=training_arguments(out, recipe),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[Progress(), *callbacks],
    ).train()
    after = held_out_loss(model, tokenizer, held_out)
    say(f"held-out loss {before:.3f} -> {after:.3f}")
    adapter = out / "adapter"
    model.save_pretrained(adapter, safe_serialization=True)
    write_run(out, recipe, before, after)
    return adapter


def training_arguments(out: Path, recipe: Recipe) -> TrainingArguments:
    """Say how the Trainer runs: on the CPU, a line per step, no checkpoints on the way."""
    return TrainingArguments(
        output_dir=str(out / "trainer"),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=2,
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=1,
        logging_first_step=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )


def write_run(out: Path, recipe: Recipe, before: float, after: float) -> None:
    """Write what the training system tells about this run, beside the adapter."""
    write_lines(out / "calibration.jsonl", passages("calibration"))
    write_lines(out / "evaluation.jsonl", passages("evaluation"))
    lines = [json.dumps(asdict(lesson), sort_keys=True) for lesson in lessons()]
    run = {
        "run_id": f"smollm2-python-{recipe.seed}-{recipe.steps}",
        "data_hash": "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        "hyperparameters": asdict(recipe),
        "framework": "peft",
        "evals": [
            {"name": "python-reference-base", "metric": "loss", "value": before, "higher_is_better": False},
            {"name": "python-reference", "metric": "loss", "value": after, "higher_is_better": False},
        ],
    }
    (out / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Train a LoRA on SmolLM2 with text that Python brings along.")
    parser.add_argument("--base", type=Path, required=True, help="Hugging Face folder of the base model")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    given = parser.parse_args()
    started = monotonic()
    adapter = train(given.base, given.out, Recipe(seed=given.seed, steps=given.steps))
    say(f"adapter saved in {adapter}, {monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
