"""A callback for the transformers Trainer that saves, uploads and publishes the checkpoint when training ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from clients.training.gathering import unwrapped
from clients.training.options import Options, completed
from clients.training.processes import Processes
from clients.training.publish import check_publishing
from clients.training.run import Published, Run
from clients.training.trained import Evaluate, publish_trained

if TYPE_CHECKING:
    from typing import Unpack  # novm: type checkers only

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
    """Publishes the trained model at the end of training, once, from the first process of all nodes.

    The checkpoint is the best one with `load_best_model_at_end`, else the last step. All processes gather sharded
    weights (FSDP, ZeRO-3). The Trainer's tokenizer is published with full weights, and with a LoRA that includes the
    embedding, because added tokens need it. A resumed run announces the same weights again, for the same release.
    Trials of a hyperparameter search are not published.

    `published` holds the published checkpoint, in every process. An invalid argument, credential or file with texts
    ends `Trainer.train` with a PublishError before the first step. If publishing fails after the training, it ends with
    a PublishError in every process. The error names the `folder` of the checkpoint, for `publish_checkpoint`.

    Args:
        evaluate: Called with the trained model before publishing, in every process. The results of the first process
            are published.
        folder: Folder to save the checkpoint in (default: a new folder in `output_dir`, removed after publishing).
        tokenizer: Whether the Trainer's tokenizer is published. Without it the base's tokenizer is served, with its
            chat template and end token.

    The other arguments are those of `publish_checkpoint`.
    """

    def __init__(
        self,
        *,
        model: str,
        base: str,
        run: Run,
        folder: Path | None = None,
        evaluate: Evaluate | None = None,
        tokenizer: bool = True,
        **options: Unpack[Options],
    ) -> None:
        self._has_tokenizer = tokenizer
        self.published: Published | None = None
        self._run = run
        given = {"model": model, "base": base, "folder": folder, "evaluate": evaluate}
        self._options: dict[str, Any] = {**given, **completed(options)}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 - the Trainer's signature
        **_: Any,
    ) -> None:
        """Raise PublishError for a mistake that would prevent publishing after the training."""
        if state.is_hyper_param_search:
            return
        run = replace(self._run, hyperparameters={**recorded(args), **self._run.hyperparameters})
        options = {name: value for name, value in self._options.items() if name not in {"folder", "evaluate"}}
        Processes().in_first(lambda: check_publishing(run=run, **options))

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 - the Trainer's signature
        model: Any = None,
        **held: Any,
    ) -> None:
        """Gather, save, upload and publish the trained model."""
        if state.is_hyper_param_search:
            return
        run = replace(
            self._run,
            hyperparameters={**recorded(args), **self._run.hyperparameters, **chosen_checkpoint(args, state)},
            framework=self._run.framework or type(unwrapped(model)).__module__.partition(".")[0],
        )
        tokenizer = held.get("processing_class", held.get("tokenizer"))  # the latter before transformers 4.46
        tokenizer = tokenizer if self._has_tokenizer else None
        self.published = publish_trained(model, run=run, tokenizer=tokenizer, kept_in=args.output_dir, **self._options)


def chosen_checkpoint(args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
    """Return the steps of the run, and of the best checkpoint if the Trainer loaded it at the end."""
    steps = {"steps_done": state.global_step}
    best = state.best_model_checkpoint if args.load_best_model_at_end else None
    if best is None:
        return steps
    _, _, step = Path(best).name.rpartition("-")
    return {**steps, "best_step": int(step) if step.isdigit() else str(Path(best).name)}


def recorded(args: TrainingArguments) -> dict[str, Any]:
    """Return the hyperparameters that determine a run, as plain JSON values."""
    values = {name: getattr(args, name, None) for name in RECORDED}
    return {
        name: value if isinstance(value, (int, float, str)) else str(getattr(value, "value", value))
        for name, value in values.items()
        if value is not None
    }
