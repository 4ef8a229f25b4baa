"""A callback for the transformers Trainer that saves, uploads and publishes the checkpoint when training ends."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clients.training.connection import Connection
from clients.training.publish import Published, Run, publish_checkpoint
from clients.training.upload import Progress

RECORDED = (
    "learning_rate",
    "lr_scheduler_type",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "seed",
    "weight_decay",
    "warmup_steps",
)


class SlipwayCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed for mypy here
    """Publishes the trained model at the end of training, once, from the main process only.

    `published` holds the published checkpoint. If publishing fails, `Trainer.train` ends with a PublishError after
    the model was trained; `publish_checkpoint` can then be called again.

    Args:
        evaluate: Called with the trained model before publishing; returns the evaluation results to publish.
        folder: Folder to save the checkpoint in (default: a temporary folder).
    """

    def __init__(
        self,
        *,
        model: str,
        base: str,
        run: Run,
        connection: Connection | None = None,
        variants: Sequence[str] = ("int8",),
        policy: Mapping[str, Any] | None = None,
        calibration: Path | None = None,
        evaluation: Path | None = None,
        serving: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        evaluate: Callable[[Any], Sequence[Mapping[str, Any]]] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.published: Published | None = None
        self._run = run
        self._folder = folder
        self._evaluate = evaluate
        self._options: dict[str, Any] = {
            "model": model,
            "base": base,
            "connection": connection,
            "variants": variants,
            "policy": policy,
            "calibration": calibration,
            "evaluation": evaluation,
            "serving": serving,
            "progress": progress,
        }

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 - the Trainer's signature
        model: Any = None,
        **_: Any,
    ) -> None:
        """Save, upload and publish the trained model."""
        if not state.is_world_process_zero:
            return
        evals = tuple(self._evaluate(model)) if self._evaluate is not None else tuple(self._run.evals)
        run = replace(
            self._run,
            hyperparameters={**recorded(args), **self._run.hyperparameters, "steps_done": state.global_step},
            framework=self._run.framework or type(model).__module__.partition(".")[0],
            finished_at=self._run.finished_at or datetime.now(UTC),  # noqa: TID251 - no shared.runtime.clock here
            evals=evals,
        )
        with tempfile.TemporaryDirectory() as temporary:
            folder = self._folder or Path(temporary)
            model.save_pretrained(folder, safe_serialization=True)
            self.published = publish_checkpoint(folder, run=run, **self._options)


def recorded(args: TrainingArguments) -> dict[str, Any]:
    """Return the hyperparameters that determine a run, as plain JSON values."""
    values = {name: getattr(args, name, None) for name in RECORDED}
    return {
        name: value if isinstance(value, int | float | str) else str(getattr(value, "value", value))
        for name, value in values.items()
        if value is not None
    }
