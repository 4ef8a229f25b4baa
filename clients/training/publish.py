"""Publishing of a training run: upload of the checkpoint, then an event that the stream acknowledges."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from clients.training.bus import connected, publisher_options
from clients.training.connection import Connection
from clients.training.errors import PublishError
from clients.training.options import Options, completed
from clients.training.run import Published, Run
from clients.training.running import run_to_end
from clients.training.tracing import current_traceparent
from clients.training.upload import Progress, Uploader
from contracts.envelope import Event, plain, source_of
from contracts.evaluations.text_sets import evaluation_records
from contracts.facts import BaseModelRef, CheckpointReady, Weights
from contracts.limits import event_too_large, too_large
from contracts.vocabulary import (
    MODEL_NAME_PATTERN,
    MODEL_NAME_RULE,
    ArtifactRef,
    ServingSettings,
    canonical_json,
    digest_of_json,
)

if TYPE_CHECKING:
    from typing import Unpack  # novm: type checkers only

LONGEST_NAME = "x" * 63
"""The longest name of a publisher, to check sizes."""
NO_BASE = BaseModelRef(name="base", revision="1", uri="s3://slipway/none", digest="sha256:" + "0" * 64)
"""Placeholder for the validation before the upload; it is never sent."""


def publish_checkpoint(
    folder: Path | str | Weights, *, model: str, base: str | BaseModelRef, run: Run, **options: Unpack[Options]
) -> Published:
    """Upload a checkpoint folder and publish `checkpoint.ready`; return once the bus has stored the event.

    Safe to call again after any failure: files are not uploaded twice, and the same checkpoint has the same event id.

    Args:
        folder: A folder of `save_pretrained` with a LoRA or full weights as safetensors; or the reference to a folder
            outside the store (`hf://repo@commit`, `file:///folder`), for Slipway to read.
        model: Name of the model.
        base: The imported base model: `NAME`, `NAME@REVISION`, or its reference.
        run: The training run that produced the checkpoint.
        connection: The address of Slipway; by default from the `SLIPWAY_*` environment variables.
        variants: Precisions to produce (`slipway_client.contracts.precisions`).
        policy: Release policy; None if operations stored one for the model.
        calibration: JSON lines to calibrate quantisation on: strings, or objects with `messages`, `prompt` (and
            `completion`) or `text`. Unusable lines are skipped.
        evaluation: JSON lines to measure latency and quality with, in the same form; each must be valid.
        serving: How the version is served: `tool_parser`, `reasoning_parser`, `template_options`, `context_tokens`,
            `tensor_parallel_size`, `options` of the engine. Missing settings are read from the folder's `serving.json`.
            The parser `none` disables detection.
        attempt: Increase it to release the same checkpoint again on purpose.
        progress: Called with the bytes sent so far and the total.

    Raises:
        PublishError: An argument is not valid, or the store or the bus does not answer.
    """
    return run_to_end(publish_checkpoint_async(folder, model=model, base=base, run=run, **options))


async def publish_checkpoint_async(
    folder: Path | str | Weights, *, model: str, base: str | BaseModelRef, run: Run, **options: Unpack[Options]
) -> Published:
    """Publish a checkpoint as `publish_checkpoint` does, for callers with an event loop."""
    chosen = completed(options)
    connection = chosen["connection"] or Connection.from_environment()
    evaluation, progress = chosen["evaluation"], chosen["progress"]
    # refuse a mistake before any upload
    fields = _described(folder, model, base, run, chosen)
    await asyncio.to_thread(_check_sets, chosen)
    async with connected(connection) as publisher:
        uploader = Uploader(connection, model, publisher)
        if isinstance(base, str):
            fields["base"] = await uploader.find_base(base)
        weights = folder if isinstance(folder, Weights) else await _upload(uploader, Path(folder), progress)
        sets = {"calibration": chosen["calibration"], "evaluation": evaluation}
        for name, path in sets.items():
            if path is not None:
                fields[name] = await uploader.put_file(Path(path))
        event = _check_size(envelope(_validated({**fields, "weights": weights}), publisher.name))
        duplicate = await publisher.publish(event)
    return Published(event.id, model, weights.ref, duplicate, event.data)


def check_publishing(*, model: str, base: str | BaseModelRef, run: Run, **options: Unpack[Options]) -> None:
    """Raise PublishError for invalid arguments of `publish_checkpoint`; call it before a training.

    The arguments, the credential, the certificates and the files with texts are checked. The bus and the base are not:
    both may change during the training.
    """
    chosen = completed(options)
    connection = chosen["connection"] or Connection.from_environment()
    _described(_weights_to_be_uploaded(), model, base, run, chosen)
    _check_sets(chosen)
    publisher_options(connection)
    connection.store_trust()


def _described(
    folder: Path | str | Weights, model: str, base: str | BaseModelRef, run: Run, chosen: Options
) -> dict[str, Any]:
    """Return the fields of a checkpoint before its upload; raise PublishError if they are not valid."""
    if not re.fullmatch(MODEL_NAME_PATTERN, model):
        raise PublishError(f"The model name {model!r} is not valid: {MODEL_NAME_RULE}.")
    fields = {
        "model": model,
        "base": base if isinstance(base, BaseModelRef) else NO_BASE,
        "training": {
            "run_id": run.run_id,
            "data_hash": run.data_hash,
            "hyperparameters": dict(run.hyperparameters),
            "framework": run.framework,
            "finished_at": run.finished_at,
        },
        "evals": tuple(run.evals),
        "variants": tuple(chosen["variants"]),
        "policy": chosen["policy"],
        "serving": _serving(chosen["serving"]),
        "attempt": chosen["attempt"],
    }
    weights = folder if isinstance(folder, Weights) else _weights_to_be_uploaded()
    _check_size(envelope(_validated({**fields, "weights": weights}), LONGEST_NAME))
    return fields


async def _upload(uploader: Uploader, folder: Path, progress: Progress | None) -> Weights:
    ref = await uploader.put_folder(folder, progress)
    return Weights(kind="lora" if (folder / "adapter_config.json").exists() else "full", ref=ref)


def envelope(fact: CheckpointReady, sender: str) -> Event[Any]:
    """Return the event of a checkpoint, with an id from its contents, so that publishing is idempotent."""
    identity = digest_of_json(fact.model_dump(mode="json")).removeprefix("sha256:")
    return Event[Any](
        id=f"checkpoint-{identity[:32]}",
        source=source_of(sender),
        type=fact.TYPE,
        subject=fact.model,
        time=datetime.now(timezone.utc),  # noqa: TID251 - this distribution does not ship shared.runtime.clock
        correlationid=fact.training.run_id,
        traceparent=current_traceparent(),
        data=fact,
    )


def _serving(serving: ServingSettings | Mapping[str, Any] | None) -> ServingSettings | Mapping[str, Any] | None:
    """Return the settings; raise PublishError for an unknown setting, because the contract ignores it."""
    unknown = sorted(set(serving) - set(ServingSettings.model_fields)) if isinstance(serving, Mapping) else []
    if unknown:
        known = ", ".join(sorted(ServingSettings.model_fields))
        raise PublishError(f"The serving setting {unknown[0]!r} is not known: use {known}.")
    return serving


def _weights_to_be_uploaded() -> Weights:
    """Return placeholder weights for the validation before the upload; they are never sent."""
    ref = ArtifactRef(uri="s3://slipway/none", digest="sha256:" + "0" * 64, size_bytes=0)
    return Weights(kind="lora", ref=ref)


def _check_sets(chosen: Options) -> None:
    evaluation, calibration = chosen["evaluation"], chosen["calibration"]
    try:
        if evaluation is not None:
            evaluation_records(Path(evaluation).read_bytes())
    except (OSError, ValueError) as error:
        raise PublishError(f"The evaluation set {evaluation} is not valid: {error}.") from error
    try:
        if calibration is not None:
            Path(calibration).open("rb").close()
    except OSError as error:
        raise PublishError(f"The calibration set {calibration} cannot be read: {error}.") from error


def _validated(fields: Mapping[str, Any]) -> CheckpointReady:
    try:
        return CheckpointReady.model_validate(fields)
    except ValidationError as error:
        listed = error.errors()[:8]
        problems = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in listed)
        raise PublishError(f"The description of the checkpoint is not valid: {problems}.") from error


def _check_size(event: Event[Any]) -> Event[Any]:
    """Return the event; raise PublishError if it is too large for the registry."""
    excess = too_large(event.data) or event_too_large(canonical_json(plain(event)))
    if excess is not None:
        raise PublishError(excess.sentence)
    return event
