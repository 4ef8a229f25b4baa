"""A training job of several processes, as `accelerate launch` starts it: runs scenarios, each process writes what it saw.

accelerate launch --cpu --num_processes 2 tests/kit/training_job.py JOB_FILE SCENARIO …
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

from clients.training import Connection, PublishError, Run, SlipwayCallback, publish_trained

RUN = Run(run_id="run-1", data_hash="sha256:" + "a" * 64)
ROWS = [{"input_ids": list(range(8)), "labels": list(range(8))}] * 16


class Job:
    """One process's view of the job."""

    def __init__(self, described: dict[str, Any]) -> None:
        self.folder = Path(described["folder"])
        self.base = described["base"]
        self.connection = Connection(**described["connection"])
        self.rank = int(os.environ.get("RANK", "0"))

    def lora(self) -> Any:
        torch.manual_seed(1)
        base = LlamaForCausalLM.from_pretrained(self.base).float()
        return get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))

    def train(
        self, name: str, callback: SlipwayCallback | None, *, resume: bool = False, model: Any = None, **more: Any
    ) -> Any:
        arguments = TrainingArguments(
            output_dir=str(self.folder / name),
            **{
                "max_steps": 2,
                "use_cpu": True,
                "label_names": ["labels"],  # older Trainers do not find them behind PEFT, and measure no loss
                "report_to": [],
                "disable_tqdm": True,
                "save_strategy": "no",
                "learning_rate": 0.01,
                "lr_scheduler_type": "constant",
                **more,
            },
        )
        trainer = Trainer(
            model=model or self.lora(),
            args=arguments,
            train_dataset=ROWS,
            eval_dataset=ROWS,
            callbacks=[callback] if callback else [],
        )
        trainer.train(resume_from_checkpoint=resume or None)
        return trainer

    def callback(self, model: str, **more: Any) -> SlipwayCallback:
        return SlipwayCallback(
            model=model,
            base="acme/tiny-llama",
            run=RUN,
            **{"connection": self.connection, "variants": ["bf16"], **more},
        )

    # -- scenarios --------------------------------------------------------------------------------------------------

    def plain(self) -> Any:
        """Train with a replica in each process; the best checkpoint is published, then the run is resumed at its end, and publishes again."""
        callback = self.callback("plain-bot", evaluate=lambda _trained: [result(self.rank)])
        options = {
            "save_strategy": "steps",
            "eval_strategy": "steps",
            "save_steps": 1,
            "eval_steps": 1,
            "save_only_model": True,  # the state of an optimizer on `cpu:0` is not loaded by torch
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": True,  # the first step's
        }
        trainer = self.train("plain", callback, **options)
        again = self.callback("plain-bot", evaluate=lambda _trained: [result(7)])
        self.train("plain", again, resume=True, **options)
        weights = {name: value.tolist() for name, value in trainer.model.state_dict().items() if "lora_B" in name}
        return {**summary(callback), "again": summary(again), "weights": weights}

    def resumed(self) -> Any:
        """Stop a run in the middle, and resume it: it is published once, at its end."""
        self.train("resumed", None, save_strategy="steps", save_steps=1, save_only_model=True, max_steps=1)
        second = self.callback("resumed-bot")
        self.train("resumed", second, resume=True, save_strategy="no")
        return summary(second)

    def no_bus(self) -> Any:
        """Publish where no bus is."""
        nowhere = replace(self.connection, nats_url="nats://127.0.0.1:9")
        return failure(lambda: self.train("failing", self.callback("plain-bot", connection=nowhere)))

    def failing_evaluation(self) -> Any:
        """Fail in the evaluation of one process."""

        def evaluate(_trained: Any) -> list[dict[str, Any]]:
            if self.rank == 1:
                raise ValueError("no such metric")
            return [result(1)]

        return failure(lambda: self.train("failing", self.callback("plain-bot", evaluate=evaluate)))

    def fsdp1(self) -> Any:
        """Train full weights and a LoRA in shards, by the first version of PyTorch's FSDP."""
        from torch.distributed.fsdp import FullyShardedDataParallel

        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        cpu = torch.device("cpu")
        whole = FullyShardedDataParallel(self.whole_model(), device_id=cpu, use_orig_params=True)
        lora = FullyShardedDataParallel(self.lora(), device_id=cpu, use_orig_params=True)
        return [self.step_and_publish("fsdp1-bot", whole), self.step_and_publish("fsdp1-lora-bot", lora)]

    def fsdp2(self) -> Any:
        """Train full weights and a LoRA in shards, by the second version of PyTorch's FSDP."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        whole = fully_shard(self.whole_model(), mesh=mesh)
        lora = fully_shard(self.lora(), mesh=mesh)
        return [self.step_and_publish("fsdp2-bot", whole), self.step_and_publish("fsdp2-lora-bot", lora)]

    def zero3(self) -> Any:
        """Train full weights and a LoRA with the Trainer and DeepSpeed ZeRO-3; it must be installed."""
        seen = []
        for name in ("zero3-bot", "zero3-lora-bot"):
            callback = self.callback(name)
            model = None if "lora" in name else self.whole_model()
            self.train(name, callback, model=model, deepspeed=ZERO3)
            seen.append(summary(callback))
        return seen

    def whole_model(self) -> Any:
        torch.manual_seed(1)
        return LlamaForCausalLM.from_pretrained(self.base).float()

    def step_and_publish(self, name: str, model: Any) -> Any:
        """Make one step of SGD on the same row in every process, so that the result is that of one process."""
        optimizer = torch.optim.SGD((each for each in model.parameters() if each.requires_grad), lr=0.1)
        row = torch.arange(8).unsqueeze(0)
        model(input_ids=row, labels=row).loss.backward()
        optimizer.step()
        published = publish_trained(
            model, model=name, base="acme/tiny-llama", run=RUN, connection=self.connection, variants=["bf16"]
        )
        return {"event_id": published.event_id, "digest": published.weights.digest}


ZERO3 = {
    "zero_optimization": {"stage": 3},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "zero_force_ds_cpu_optimizer": False,
    "zero_allow_untested_optimizer": True,
}


def result(value: float) -> dict[str, Any]:
    return {"name": "held-out", "metric": "loss", "value": float(value), "higher_is_better": False}


def summary(callback: SlipwayCallback) -> dict[str, Any]:
    published = callback.published
    return {"event_id": published.event_id, "digest": published.weights.digest}


def failure(run: Any) -> str:
    try:
        run()
    except (PublishError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "no failure"


def main() -> None:
    job = Job(json.loads(Path(sys.argv[1]).read_text()))
    for scenario in sys.argv[2:]:
        seen = getattr(job, scenario)()
        (job.folder / f"{scenario}.{job.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
