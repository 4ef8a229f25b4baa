"""The checks of a checkpoint before `slipway publish` uploads it; the merger repeats them, and checks the tensors."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.cli.output import CommandError
from clients.cli.sources.external_source import ADAPTER_CONFIG, MODEL_CONFIG
from clients.training import Connection, PublishError
from clients.training.bus import connected
from contracts.facts import BaseModelRef
from contracts.storage.uploads import UploadAnswer, UploadRequest
from contracts.vocabulary import Variant
from decisions.checkpoints.adapters import (
    assess_adapter_config,
    assess_recorded,
    assess_served_adapter,
    describe_quantised,
    quantised_base,
)
from decisions.checkpoints.architectures import (
    architecture_of,
    assess_architecture,
    assess_unquantised,
    assess_variant,
)


@dataclass(frozen=True)
class Base:
    """An imported base model, and its architecture if the registry knows it."""

    ref: BaseModelRef
    architecture: str | None


@dataclass(frozen=True)
class Checked:
    """The base of a checkpoint that passed, and remarks."""

    base: BaseModelRef
    note: str = ""


def find_base(connection: Connection, model: str, name: str) -> Base:
    """Return an imported base model by `NAME` or `NAME@REVISION`, as the registry knows it.

    Raises:
        CommandError: it was not imported, or the registry does not answer.
    """

    async def ask() -> UploadAnswer:
        async with connected(connection) as publisher:
            return await publisher.ask(model, UploadRequest(base=name))

    try:
        answer = asyncio.run(ask())
    except PublishError as error:
        raise CommandError(str(error)) from error
    if answer.base is None:
        raise CommandError("the registry names no base model: it is of another version than this command")
    return Base(answer.base, answer.architecture)


def check_checkpoint(
    folder: Path,
    *,
    base_of: Callable[[], Base],
    variants: Sequence[Variant],
    hyperparameters: Mapping[str, Any],
    serve: str = "merged",
) -> Checked:
    """Check a checkpoint by its configuration.

    A precision that cannot be made is a note, unless it is the only precision.

    Args:
        folder: A folder with the configuration.
        base_of: Returns the base; called after the configuration was read.
        variants: Precisions to produce.
        hyperparameters: Hyperparameters of the training run.
        serve: `serve` of the policy.

    Raises:
        CommandError: The registry or the merger would reject the release with this code.
    """
    adapter, full = _configurations(folder)
    base, rejection = base_of(), None
    notes: list[str] = []
    if adapter is not None:
        rejection = assess_adapter_config(adapter, base.ref) or assess_recorded(adapter, hyperparameters)
        if serve == "adapter":
            rejection = rejection or assess_served_adapter(adapter, has_own_tokenizer=False)
    if full is not None:
        rejection = assess_unquantised("checkpoint", full)
    architecture = base.architecture or architecture_of(full or {})
    if architecture is not None:
        rejection = rejection or assess_architecture(architecture)
        left_out = [each for variant in variants if (each := assess_variant(variant, architecture)) is not None]
        if len(left_out) == len(variants):
            rejection = rejection or next(iter(left_out), None)
        notes = [each.reason for each in left_out]
    if rejection is not None:
        raise CommandError(f"the checkpoint would be rejected: {rejection.reason}", name=rejection.code)
    trained_on = quantised_base(adapter, hyperparameters) if adapter is not None else None
    if trained_on is not None:
        notes.append(f"The LoRA was {describe_quantised(trained_on)}.")
    return Checked(base.ref, " ".join(notes))


def _configurations(folder: Path) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Return the configuration of a LoRA, and the configuration of full weights; one of them is None."""
    if (folder / ADAPTER_CONFIG).is_file():
        return _read(folder / ADAPTER_CONFIG), None
    return None, _read(folder / MODEL_CONFIG)


def _read(path: Path) -> Mapping[str, Any]:
    """Return a configuration.

    Raises:
        CommandError: The file cannot be read, or is not a JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise CommandError(f"{path} is not a JSON object")
    return config
