"""Publish a complete training run: upload it, then publish one event that the stream acknowledges."""

import asyncio
import contextlib
import re
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import NoStreamResponseError
from pydantic import ValidationError

from clients.training.connection import Connection
from clients.training.errors import PublishError
from clients.training.run import Published, Run
from clients.training.upload import Progress, Uploader
from contracts.envelope import CONTENT_TYPE, Event, plain, source_of
from contracts.facts import BaseModelRef, CheckpointReady, Weights
from contracts.identities import describe_refusal
from contracts.limits import event_too_large, too_large
from contracts.policy import ReleasePolicy
from contracts.text_sets import evaluation_records
from contracts.vocabulary import (
    MODEL_NAME_PATTERN,
    MODEL_NAME_RULE,
    ArtifactRef,
    ServingSettings,
    canonical_json,
    digest_of_json,
)

LONGEST_NAME = "x" * 63
"""In place of the publisher's, to check sizes."""
ATTEMPTS = 5
ACK_TIMEOUT_S = 10.0


def publish_checkpoint(
    folder: Path | str | Weights,
    *,
    model: str,
    base: str | BaseModelRef,
    run: Run,
    connection: Connection | None = None,
    variants: Sequence[str] = ("int8",),
    policy: ReleasePolicy | Mapping[str, Any] | None = None,
    calibration: Path | str | None = None,
    evaluation: Path | str | None = None,
    serving: ServingSettings | Mapping[str, Any] | None = None,
    attempt: int = 1,
    progress: Progress | None = None,
) -> Published:
    """Upload a checkpoint folder and publish `checkpoint.ready`; return once the bus has stored the event.

    Safe to call again after any failure: uploaded files are not uploaded again, and the same checkpoint has the same
    event id.

    Args:
        folder: The folder that `save_pretrained` wrote: a LoRA or full weights, as safetensors. Or the reference to
            a folder that Slipway can read itself (`hf://repo@commit`, `file:///folder`), which is not uploaded.
        model: The model that this is a checkpoint of.
        base: The imported base model: `NAME`, `NAME@REVISION`, or its reference.
        run: The training run that produced the checkpoint.
        connection: The address of Slipway; by default from the `SLIPWAY_*` environment variables.
        variants: Precisions to produce: bf16, int8, fp8, gptq-int4, awq-int4.
        policy: Release policy; None if operations stored one for the model.
        calibration: JSON lines to calibrate quantisation on: strings, or objects with `messages`, `prompt` (and
            `completion`) or `text`. Unusable lines are skipped.
        evaluation: JSON lines to measure latency and quality with, in the same form; each must be valid.
        serving: How the version is served: `tool_parser`, `reasoning_parser`, `template_options`, `context_tokens`,
            `tensor_parallel_size`, `options` of the engine. What is not set is read from `serving.json` in the folder.
            A parser `none` declines one, also one that would be detected.
        attempt: Increase it to release the same checkpoint again on purpose.
        progress: Called with the bytes sent so far and the total.

    Raises:
        PublishError: an argument is not valid, or the store or the bus does not answer.
    """
    work = publish_checkpoint_async(
        folder,
        model=model,
        base=base,
        run=run,
        connection=connection,
        variants=variants,
        policy=policy,
        calibration=calibration,
        evaluation=evaluation,
        serving=serving,
        attempt=attempt,
        progress=progress,
    )
    return _run(work)


async def publish_checkpoint_async(
    folder: Path | str | Weights,
    *,
    model: str,
    base: str | BaseModelRef,
    run: Run,
    connection: Connection | None = None,
    variants: Sequence[str] = ("int8",),
    policy: ReleasePolicy | Mapping[str, Any] | None = None,
    calibration: Path | str | None = None,
    evaluation: Path | str | None = None,
    serving: ServingSettings | Mapping[str, Any] | None = None,
    attempt: int = 1,
    progress: Progress | None = None,
) -> Published:
    """Do what `publish_checkpoint` does, for callers that run an event loop."""
    if not re.fullmatch(MODEL_NAME_PATTERN, model):
        raise PublishError(f"The model name {model!r} is not valid: {MODEL_NAME_RULE}.")
    connection = connection or Connection.from_environment()
    uploader = Uploader(connection, model)
    if isinstance(base, str):
        imported = await asyncio.to_thread(uploader.find_base, base)
        base = BaseModelRef(
            name=imported.name, revision=imported.revision, uri=imported.folder.uri, digest=imported.folder.digest
        )
    fields = {
        "model": model,
        "base": base,
        "training": _training(run),
        "evals": tuple(run.evals),
        "variants": tuple(variants),
        "policy": policy,
        "serving": _serving(serving),
        "attempt": attempt,
    }
    placeholder = folder if isinstance(folder, Weights) else _placeholder_weights()
    # refuse a mistake before any upload
    _check_size(envelope(_validated({**fields, "weights": placeholder}), LONGEST_NAME))
    sender = _sender(connection)
    if evaluation is not None:
        await asyncio.to_thread(_check_evaluation, Path(evaluation))
    weights = folder if isinstance(folder, Weights) else await asyncio.to_thread(_upload, uploader, folder, progress)
    sets = {"calibration": calibration, "evaluation": evaluation}
    for name, path in sets.items():
        if path is not None:
            fields[name] = await asyncio.to_thread(uploader.put_file, Path(path), lambda _sent: None)
    event = _check_size(envelope(_validated({**fields, "weights": weights}), sender))
    duplicate = await _publish(connection, event)
    return Published(event.id, model, weights.ref, duplicate)


def _upload(uploader: Uploader, folder: Path | str, progress: Progress | None) -> Weights:
    ref = uploader.put_folder(Path(folder), progress or _silent)
    return Weights(kind="lora" if (Path(folder) / "adapter_config.json").exists() else "full", ref=ref)


def _sender(connection: Connection) -> str:
    """Return the identity that the checkpoint is published as; raise PublishError if the credentials name none."""
    name = connection.bus_options().get("name")
    if not name:
        raise PublishError(
            "The checkpoint cannot be announced without a credential that names its publisher: set nats_credentials, "
            "or SLIPWAY_NATS_CREDENTIALS, to the file of `slipway keys add NAME --role publisher`."
        )
    return str(name)


def envelope(fact: CheckpointReady, sender: str) -> Event[Any]:
    """Return the event of a checkpoint; the same checkpoint has the same event id, so publishing is idempotent."""
    identity = digest_of_json(fact.model_dump(mode="json")).removeprefix("sha256:")
    return Event[Any](
        id=f"checkpoint-{identity[:32]}",
        source=source_of(sender),
        type=fact.TYPE,
        subject=fact.model,
        time=datetime.now(UTC),  # noqa: TID251 - this distribution does not ship shared.runtime.clock
        correlationid=fact.training.run_id,
        data=fact,
    )


def _training(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "data_hash": run.data_hash,
        "hyperparameters": dict(run.hyperparameters),
        "framework": run.framework,
        "finished_at": run.finished_at,
    }


def _serving(serving: ServingSettings | Mapping[str, Any] | None) -> ServingSettings | Mapping[str, Any] | None:
    """Return the settings; raise PublishError for an unknown one, which the contract would ignore."""
    unknown = sorted(set(serving) - set(ServingSettings.model_fields)) if isinstance(serving, Mapping) else []
    if unknown:
        known = ", ".join(sorted(ServingSettings.model_fields))
        raise PublishError(f"The serving setting {unknown[0]!r} is not known: use {known}.")
    return serving


def _placeholder_weights() -> Weights:
    ref = ArtifactRef(uri="s3://slipway/none", digest="sha256:" + "0" * 64, size_bytes=0)
    return Weights(kind="lora", ref=ref)


def _check_evaluation(path: Path) -> None:
    try:
        evaluation_records(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PublishError(f"The evaluation set {path} is not valid: {error}.") from error


def _validated(fields: Mapping[str, Any]) -> CheckpointReady:
    try:
        return CheckpointReady.model_validate(fields)
    except ValidationError as error:
        listed = error.errors()[:8]
        problems = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in listed)
        raise PublishError(f"The description of the checkpoint is not valid: {problems}.") from error


def _check_size(event: Event[Any]) -> Event[Any]:
    """Return the event; raise PublishError if it is too large, with the message of the registry's rejection."""
    excess = too_large(event.data) or event_too_large(canonical_json(plain(event)))
    if excess is not None:
        raise PublishError(excess.sentence)
    return event


async def _publish(connection: Connection, event: Event[Any]) -> bool:
    """Publish until the stream acknowledges the event; return whether it had stored the event before."""
    options = connection.bus_options()
    refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def note(error: Exception) -> None:
        sentence = describe_refusal(str(error), options.get("name", "this publisher"))
        if sentence is not None and not refused.done():
            refused.set_exception(PublishError(f"The checkpoint was not announced: {sentence}."))

    try:
        client = await nats.connect(
            connection.nats_url.split(","),
            **options,
            connect_timeout=5,
            allow_reconnect=False,
            max_reconnect_attempts=3,
            reconnect_time_wait=1,
            error_cb=note,
        )
    except (OSError, TimeoutError, nats.errors.Error) as error:
        raise PublishError(f"The message bus at {connection.nats_url} does not answer: publish again later.") from error
    publishing = asyncio.ensure_future(_publish_with_retries(client.jetstream(timeout=ACK_TIMEOUT_S), event))
    try:
        await asyncio.wait((publishing, refused), return_when=asyncio.FIRST_COMPLETED)
        if refused.done() and not publishing.done():
            refused.result()
        return await publishing
    finally:
        publishing.cancel()
        refused.cancel()
        with contextlib.suppress(nats.errors.Error):
            await client.close()


async def _publish_with_retries(js: JetStreamContext, event: Event[Any]) -> bool:
    headers = {"Nats-Msg-Id": event.id, "content-type": CONTENT_TYPE}
    body = canonical_json(plain(event))
    for attempt in range(ATTEMPTS):
        try:
            ack = await js.publish(event.nats_subject, body, headers=headers)
        except (TimeoutError, NoStreamResponseError, nats.errors.Error) as error:
            if attempt == ATTEMPTS - 1:
                reason = f"The message bus did not acknowledge the event ({error!r}): publish again, which is safe."
                raise PublishError(reason) from error
            await asyncio.sleep(0.2 * 2**attempt)
        else:
            return bool(ack.duplicate)
    raise AssertionError  # the loop ends by return or raise


def _silent(_done: int, _total: int) -> None:
    """Do nothing: no progress callback was given."""


def _run(work: Any) -> Published:
    """Run a coroutine from synchronous code, even if an event loop is running already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        published: Published = asyncio.run(work)
        return published
    outcome: list[Published] = []
    failure: list[BaseException] = []

    def in_a_thread() -> None:
        try:
            outcome.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
