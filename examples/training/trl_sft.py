"""Fine-tunes a LoRA with TRL's SFTTrainer, and publishes its best checkpoint by SlipwayCallback.

    python examples/training/trl_sft.py --base BASE_FOLDER --out RUN_FOLDER --publish support-bot

Slipway's address and the job's credential are read from `SLIPWAY_*` variables: docs/guides/training.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from slipway_client import Run, SlipwayCallback, data_hash
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

DATA = Path(__file__).with_name("conversations.jsonl")
HELD_OUT = 4
"""Rows at the end of the data that are evaluated on, not trained on."""
EVERY = 2
"""Steps between two evaluations, each of them with a checkpoint."""


def train(options: argparse.Namespace) -> None:
    """Train, and publish the checkpoint with the lowest loss on held-out rows."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    training, held_out = Dataset.from_list(rows[:-HELD_OUT]), Dataset.from_list(rows[-HELD_OUT:])
    base = options.base.resolve()  # a relative path in adapter_config.json reads as a name on the Hub
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=arguments(options),
        train_dataset=training,
        eval_dataset=held_out,
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=lora,
    )

    def evaluate(_trained: torch.nn.Module) -> list[dict[str, Any]]:
        loss = trainer.state.best_metric
        named = {"name": "held-out", "metric": "loss", "higher_is_better": False}
        return [] if loss is None else [{**named, "value": loss}]

    callback = SlipwayCallback(
        model=options.publish,
        base=options.base_name,
        run=Run(
            run_id=options.out.name,
            data_hash=data_hash(training),
            hyperparameters={"r": lora.r, "lora_alpha": lora.lora_alpha},  # the callback adds those of SFTConfig
            framework="trl",
        ),
        evaluate=evaluate,
    )
    trainer.add_callback(callback)
    trainer.train()
    if trainer.is_world_process_zero():
        print(f"published {callback.published.event_id}")


def arguments(options: argparse.Namespace) -> SFTConfig:
    """Return how the Trainer runs: a few steps on the CPU; the best checkpoint is loaded at the end."""
    return SFTConfig(
        output_dir=str(options.out),
        max_steps=options.steps,
        per_device_train_batch_size=2,
        learning_rate=5e-3,
        lr_scheduler_type="constant",
        eval_strategy="steps",
        eval_steps=EVERY,
        save_strategy="steps",
        save_steps=EVERY,
        save_only_model=True,
        load_best_model_at_end=True,  # without it, the last step is published
        seed=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Fine-tune with TRL and publish the best checkpoint.")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model (transformers)")
    parser.add_argument("--base-name", default="smollm2-135m-instruct", help="name that it was imported under")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; its name is the run's id")
    parser.add_argument("--publish", metavar="MODEL", required=True, help="model that this is a checkpoint of")
    parser.add_argument("--steps", type=int, default=8)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
