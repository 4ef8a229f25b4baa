"""Fine-tunes a LoRA with Lightning, and publishes its best checkpoint by a callback that calls publish_trained.

    python examples/training/lightning_module.py --base BASE_FOLDER --out RUN_FOLDER --publish support-bot

`--devices 2` trains in two processes (DDP). Slipway's address and the job's credential are read from `SLIPWAY_*`
variables: docs/guides/training.md. With the package `lightning`, import `lightning.pytorch` in place of
`pytorch_lightning`.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from peft import LoraConfig, get_peft_model
from pytorch_lightning.callbacks import ModelCheckpoint
from slipway_client import Run, data_hash, publish_trained
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

DATA = Path(__file__).with_name("conversations.jsonl")
HELD_OUT = 4
"""Rows at the end of the data that are evaluated on, not trained on."""
EVERY = 2
"""Steps between two evaluations."""
BATCH = 2
LEARNING_RATE = 5e-3


class Conversations(pl.LightningModule):
    """A causal language model, trained on whole conversations."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Wrap a model of transformers or PEFT."""
        super().__init__()
        self.model = model

    def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss of a batch."""
        return self.model(**batch).loss

    def validation_step(self, batch: dict[str, torch.Tensor]) -> None:
        """Log the loss on held-out rows, the mean of all processes."""
        self.log("held_out_loss", self.model(**batch).loss, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer of what is trained: the LoRA."""
        return torch.optim.AdamW((each for each in self.parameters() if each.requires_grad), lr=LEARNING_RATE)


class Publish(pl.Callback):
    """Publishes the best checkpoint after training.

    Lightning calls it in every process, as publish_trained must be; the first process publishes, the others wait.
    """

    def __init__(self, run: Run, *, model: str, base: str) -> None:
        """Publish as a checkpoint of this model."""
        self.run, self.options = run, {"model": model, "base": base}

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Conversations) -> None:
        """Load what ModelCheckpoint kept, and publish it."""
        kept = trainer.checkpoint_callback
        best = torch.load(kept.best_model_path, map_location="cpu", weights_only=True)
        pl_module.load_state_dict(best["state_dict"])
        value = float(kept.best_model_score)
        published = publish_trained(
            pl_module.model,  # not the LightningModule: what has save_pretrained
            run=replace(
                self.run,
                hyperparameters={**self.run.hyperparameters, "best_step": best["global_step"]},
                evals=[{"name": "held-out", "metric": "loss", "value": value, "higher_is_better": False}],
            ),
            kept_in=trainer.default_root_dir,
            **self.options,
        )
        if trainer.is_global_zero:
            print(f"published {published.event_id}")


def batch_of(rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """Return conversations as one batch; what fills up the shorter ones has no label."""
    messages = [row["messages"] for row in rows]
    batch = tokenizer.apply_chat_template(messages, padding=True, return_dict=True, return_tensors="pt")
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def train(options: argparse.Namespace) -> None:
    """Train, and publish the checkpoint with the lowest loss on held-out rows."""
    pl.seed_everything(1)
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    training, held_out = rows[:-HELD_OUT], rows[-HELD_OUT:]
    base = options.base.resolve()  # a relative path in adapter_config.json reads as a name on the Hub
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora)
    recorded = {"r": lora.r, "lora_alpha": lora.lora_alpha, "learning_rate": LEARNING_RATE, "steps": options.steps}
    run = Run(options.out.name, data_hash(training), hyperparameters=recorded, framework="lightning")
    best = ModelCheckpoint(options.out / "checkpoints", monitor="held_out_loss", save_weights_only=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",
        max_steps=options.steps,
        val_check_interval=min(EVERY, options.steps),
        check_val_every_n_epoch=None,  # the interval counts steps, not those of an epoch
        default_root_dir=options.out,
        callbacks=[best, Publish(run, model=options.publish, base=options.base_name)],
        logger=False,
    )
    collate = partial(batch_of, tokenizer=AutoTokenizer.from_pretrained(base))
    loader = partial(DataLoader, batch_size=BATCH, collate_fn=collate)
    trainer.fit(Conversations(model), loader(training, shuffle=True), loader(held_out))


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Fine-tune with Lightning and publish the best checkpoint.")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model (transformers)")
    parser.add_argument("--base-name", default="smollm2-135m-instruct", help="name that it was imported under")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; its name is the run's id")
    parser.add_argument("--publish", metavar="MODEL", required=True, help="model that this is a checkpoint of")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--devices", type=int, default=1, help="processes")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
