"""Trains a real LoRA on SmolLM2 with PEFT, on the CPU, in about a minute.

    python -m examples.smollm2.train --base BASE_FOLDER --out RUN_FOLDER --seed 1 --steps 20 --publish support-bot

With `--publish` the run ends by uploading its LoRA and publishing `checkpoint.ready`, to the stack whose state
folder `SLIPWAY_STATE` names, or else to where the `SLIPWAY_*` variables point.

`RUN_FOLDER/adapter` then holds the adapter as safetensors, `train.jsonl` beside it what it was trained on, and
`calibration.jsonl` and `evaluation.jsonl` text that it was not trained on.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from clients.training import Connection, Run, SlipwayCallback, data_hash
from examples.smollm2 import orders
from examples.smollm2.batches import encode, knows_tools, pad, plan_order
from examples.smollm2.evaluation import evaluations, has_bfloat16, held_out_loss, ratio_of_right_calls
from examples.smollm2.text import Lesson, lessons, passages, questions, write_lines

CALIBRATION_PASSAGES = 5  # some 1,300 tokens; more calibrate int8 hardly better (docs/benchmarks.md), and take longer
TOOL_PARSER = "hermes"  # the form in which chat_template.jinja writes calls
Evaluate = Callable[[Any], list[dict[str, Any]]]


@dataclass(frozen=True)
class Recipe:
    """The settings that determine the outcome of a run."""

    seed: int = 1
    steps: int = 20
    rank: int = 8
    alpha: int = 16
    learning_rate: float = 2e-3  # high: half of a short run has to teach it to call a tool
    batch_size: int = 2


@dataclass(frozen=True)
class Publishing:
    """Where the checkpoint goes at the end of the run."""

    model: str
    base: str = "smollm2-135m-instruct"
    variants: tuple[str, ...] = ("int8",)
    policy: dict[str, Any] | None = None


@dataclass(frozen=True)
class TrainingData:
    """What a run is trained on; the lessons with a tool only where the model's chat template renders tools."""

    plain: list[Lesson]
    with_tools: list[Lesson]


class Uploading:
    """Prints how much of the checkpoint is uploaded, a line per quarter."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.quarters = 0

    def __call__(self, done: int, total: int) -> None:
        """Print a line when another quarter is there."""
        quarters = 4 * done // max(total, 1)
        if quarters > self.quarters:
            self.quarters = quarters
            print_line(f"uploaded {done / 1e6:.1f} of {total / 1e6:.1f} MB")


class Progress(TrainerCallback):  # type: ignore[misc]  # transformers' callback is untyped
    """Prints one line per step."""

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
            print_line(f"step {state.global_step:>3}/{state.max_steps}  loss {float(logs['loss']):.3f}  {took:5.1f} s")


def print_line(line: str) -> None:
    """Print a line and flush it, so that a pipe shows it at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def training_data(tokenizer: PreTrainedTokenizerBase) -> TrainingData:
    """Return the lessons for a model with this tokenizer."""
    return TrainingData(lessons(), orders.lessons() if knows_tools(tokenizer) else [])


def train(base: Path, out: Path, recipe: Recipe, publishing: Publishing | None = None) -> Path:
    """Train one LoRA and return the folder of the adapter.

    Args:
        base: Hugging Face folder of the base model.
        out: Folder of this run; made when missing.
        recipe: Seed, steps and the like.
        publishing: Where the checkpoint goes at the end of the run; nowhere without it.
    """
    set_seed(recipe.seed)
    print_line(f"loading the base model from {base}")
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora(recipe))
    data = training_data(tokenizer)
    plan = plan_order(data.plain, data.with_tools, steps=recipe.steps, batch_size=recipe.batch_size, seed=recipe.seed)
    held_out = passages("evaluation")[:6]
    before = held_out_loss(model, tokenizer, held_out)
    print_line(
        f"{len(data.plain)} lessons about Python, {len(data.with_tools)} with a tool; "
        f"the base model's loss on held-out text is {before:.3f} nats a token"
    )

    def evaluate(trained: torch.nn.Module) -> list[dict[str, Any]]:
        after = held_out_loss(trained, tokenizer, held_out)
        print_line(f"loss on held-out text {before:.3f} -> {after:.3f} nats a token")
        right = ratio_of_right_calls(trained, tokenizer) if data.with_tools else None
        if right is not None:
            print_line(f"{right:.0%} of the held-out questions about an order are answered with the right call")
        return evaluations(before, after, right)

    trainer = Trainer(
        model=model,
        args=training_arguments(out, recipe),
        train_dataset=[encode(lesson, tokenizer) for lesson in plan],
        data_collator=partial(pad, filling=tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[Progress()],
    )
    trainer.remove_callback(PrinterCallback)  # Progress prints the same, readably
    if publishing is not None:
        trainer.add_callback(slipway_callback(publishing, out, recipe, data, evaluate))
    trainer.train()
    if publishing is None:
        evaluate(model)
        write_data(out, data)
        model.save_pretrained(out / "adapter", safe_serialization=True)
    return out / "adapter"


def lora(recipe: Recipe) -> LoraConfig:
    """Return which layers get a LoRA, and how large."""
    return LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )


def slipway_callback(
    publishing: Publishing, out: Path, recipe: Recipe, data: TrainingData, evaluate: Evaluate
) -> SlipwayCallback:
    """Return the callback that publishes the checkpoint when training ends."""
    written = write_data(out, data)
    run = Run(
        run_id=run_id(recipe), data_hash=data_hash([written["train"]]), hyperparameters=asdict(recipe), framework="peft"
    )
    return SlipwayCallback(
        model=publishing.model,
        base=publishing.base,
        run=run,
        connection=find_connection(),
        variants=publishing.variants,
        policy=publishing.policy,
        calibration=written["calibration"],
        evaluation=written["evaluation"],
        serving={"tool_parser": TOOL_PARSER} if data.with_tools else None,
        folder=out / "adapter",
        evaluate=evaluate,
        progress=Uploading(),
    )


def find_connection() -> Connection:
    """Return the address of the embedded stack that `SLIPWAY_STATE` names, else that of the environment."""
    state = os.environ.get("SLIPWAY_STATE")
    if state is None or "SLIPWAY_NATS_URL" in os.environ:
        return Connection.from_environment()
    description = json.loads((Path(state) / "stack.json").read_text(encoding="utf-8"))
    return Connection.from_environment(description["variables"])


def training_arguments(out: Path, recipe: Recipe) -> TrainingArguments:
    """Return how the Trainer runs: on the CPU, a line per step, no checkpoints on the way."""
    return TrainingArguments(
        output_dir=str(out / "trainer"),
        max_steps=recipe.steps,
        train_sampling_strategy="sequential",  # the order is planned, with the run's seed
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=2,
        seed=recipe.seed,
        logging_steps=1,
        logging_first_step=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=has_bfloat16(),
        remove_unused_columns=False,
    )


def run_id(recipe: Recipe) -> str:
    """Name a run by what makes it different from the others."""
    return f"smollm2-python-seed{recipe.seed}-steps{recipe.steps}"


def write_data(out: Path, data: TrainingData) -> dict[str, Path]:
    """Write what is trained on, and the sets that quantisation calibrates on and that the benchmark asks."""
    lines = {
        "train": [asdict(lesson) for lesson in (*data.plain, *data.with_tools)],
        "calibration": [{"text": passage} for passage in passages("calibration")[:CALIBRATION_PASSAGES]],
        "evaluation": [{"prompt": question} for question in questions("evaluation")],
    }
    paths = {name: out / f"{name}.jsonl" for name in lines}
    for name, path in paths.items():
        write_lines(path, lines[name])
    return paths


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Train a LoRA on SmolLM2 with text that Python brings along.")
    parser.add_argument("--base", type=Path, required=True, help="Hugging Face folder of the base model")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--publish", metavar="MODEL", help="publish the checkpoint of this model when it is trained")
    parser.add_argument("--base-name", default=Publishing.base, help="name that the base model was imported under")
    parser.add_argument("--policy", type=Path, help="release policy to publish with (YAML)")
    parser.add_argument("--variant", action="append", help="variants precision, repeatable; int8 without it")
    return parser


def main() -> None:
    """Train from the command line."""
    given = make_parser().parse_args()
    transformers_logging.disable_progress_bar()  # a line per step says the same
    publishing = None
    if given.publish:
        policy = yaml.safe_load(given.policy.read_text(encoding="utf-8")) if given.policy else None
        publishing = Publishing(given.publish, given.base_name, tuple(given.variant or ["int8"]), policy)
    started = monotonic()
    adapter = train(given.base, given.out, Recipe(seed=given.seed, steps=given.steps), publishing)
    print_line(f"adapter saved in {adapter}, {monotonic() - started:.0f} s in all")
    if publishing is not None:
        print_line(f"checkpoint.ready is published; follow it: slipway status {publishing.model} --follow")


if __name__ == "__main__":
    main()
