"""Fine-tunes a LoRA in a loop of plain PyTorch, keeps its best checkpoint, and publishes that by publish_trained.

    python examples/training/plain_pytorch.py --base BASE_FOLDER --out RUN_FOLDER --publish support-bot

Slipway's address and the job's credential are read from `SLIPWAY_*` variables: docs/guides/training.md.
"""

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from slipway_client import Run, data_hash, publish_trained
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

DATA = Path(__file__).with_name("conversations.jsonl")
HELD_OUT = 4
"""Rows at the end of the data that are evaluated on, not trained on."""
EVERY = 2
"""Steps between two evaluations."""
BATCH = 2
LEARNING_RATE = 5e-3
Rows = list[dict[str, Any]]


class Best:
    """The weights with the lowest loss on held-out rows, in a file."""

    def __init__(self, path: Path) -> None:
        """Begin without any."""
        self.path, self.loss, self.step = path, math.inf, 0

    def keep(self, model: torch.nn.Module, step: int, loss: float) -> None:
        """Save the weights if their loss is the lowest so far."""
        if loss < self.loss:
            self.loss, self.step = loss, step
            save_file(get_peft_model_state_dict(model), self.path)


def batch_of(rows: Rows, tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """Return conversations as one batch; what fills up the shorter ones has no label."""
    messages = [row["messages"] for row in rows]
    batch = tokenizer.apply_chat_template(messages, padding=True, return_dict=True, return_tensors="pt")
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def fit(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    training: Rows,
    held_out: Rows,
    *,
    steps: int,
    best: Best,
) -> None:
    """Train for so many steps; keep the best weights."""
    optimizer = torch.optim.AdamW((each for each in model.parameters() if each.requires_grad), lr=LEARNING_RATE)
    order = random.Random(1)
    for step in range(1, steps + 1):
        model.train()
        loss = model(**batch_of(order.sample(training, BATCH), tokenizer)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % EVERY == 0 or step == steps:
            model.eval()
            with torch.no_grad():
                value = float(model(**batch_of(held_out, tokenizer)).loss)
            print(f"step {step}/{steps}  loss {float(loss):.3f}  held out {value:.3f}")
            best.keep(model, step, value)


def train(options: argparse.Namespace) -> None:
    """Train, and publish the weights with the lowest loss on held-out rows."""
    torch.manual_seed(1)
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    training, held_out = rows[:-HELD_OUT], rows[-HELD_OUT:]
    base = options.base.resolve()  # a relative path in adapter_config.json reads as a name on the Hub
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora)
    options.out.mkdir(parents=True, exist_ok=True)
    best = Best(options.out / "best.safetensors")
    fit(model, AutoTokenizer.from_pretrained(base), training, held_out, steps=options.steps, best=best)

    set_peft_model_state_dict(model, load_file(best.path))
    published = publish_trained(  # with several processes: in each of them
        model,
        model=options.publish,
        base=options.base_name,
        run=Run(
            run_id=options.out.name,
            data_hash=data_hash(training),
            hyperparameters={
                "r": lora.r,
                "lora_alpha": lora.lora_alpha,
                "learning_rate": LEARNING_RATE,
                "steps": options.steps,
                "best_step": best.step,
            },
            framework="pytorch",
            evals=[{"name": "held-out", "metric": "loss", "value": best.loss, "higher_is_better": False}],
        ),
        kept_in=options.out,
    )
    print(f"published {published.event_id}")


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Fine-tune in a loop and publish the best checkpoint.")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model (transformers)")
    parser.add_argument("--base-name", default="smollm2-135m-instruct", help="name that it was imported under")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; its name is the run's id")
    parser.add_argument("--publish", metavar="MODEL", required=True, help="model that this is a checkpoint of")
    parser.add_argument("--steps", type=int, default=8)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
