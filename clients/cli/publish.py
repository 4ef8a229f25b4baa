"""`slipway publish`: upload a checkpoint and say that it is ready."""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import ValidationError

from clients.cli.base import find_base
from clients.cli.orders import load_policy
from clients.cli.place import JsonOption, Place, StateOption, connected, find_place
from clients.cli.records import open_store
from clients.cli.say import Exit, Refused, show_json, show_line
from clients.cli.upload import model_files, progress_bar, upload_folder
from contracts.envelope import Event
from contracts.facts import BaseModelRef, CheckpointReady, EvalResult, Training, Weights
from contracts.manifests import BaseManifest
from contracts.policy import ReleasePolicy
from contracts.vocabulary import MODEL_NAME_PATTERN, ArtifactRef, Variant, digest_of_json
from shared.blobs import Store
from shared.bus import publish_event
from shared.clock import SystemClock

SOURCE = "/slipway/cli"


def publish(
    *,
    model: Annotated[str, typer.Option(help="Model that this is a checkpoint of.")],
    base: Annotated[str, typer.Option(help="Imported base model, NAME or NAME@REVISION.")],
    adapter: Annotated[Path, typer.Option(help="Folder of the LoRA or full weights, from save_pretrained.")],
    run_id: Annotated[str, typer.Option(help="Training run that it comes from.")],
    data_hash: Annotated[str, typer.Option(help="Digest of the training data, sha256:<hex>.")],
    hyperparameter: Annotated[list[str] | None, typer.Option(help="As in lr=0.0002; repeatable.")] = None,
    evaluated: Annotated[list[str] | None, typer.Option("--eval", help="As in tickets:accuracy=0.9.")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Wanted precision; repeatable; int8 without it.")] = None,
    policy: Annotated[Path | None, typer.Option(help="Release policy, YAML or JSON; else the stored one.")] = None,
    attempt: Annotated[int, typer.Option(help="Raise it to release the same checkpoint again on purpose.")] = 1,
    calibration: Annotated[Path | None, typer.Option(help="JSON lines to calibrate on.")] = None,
    evaluation: Annotated[Path | None, typer.Option(help="JSON lines to measure on.")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Upload a checkpoint and publish checkpoint.ready; follow it with `slipway status MODEL --follow`."""
    if not re.match(MODEL_NAME_PATTERN, model):
        raise Refused(
            f"{model!r} is no model name; use 1 to 63 lower-case letters, digits and inner hyphens", Exit.USAGE
        )
    asked = Asked(
        model=model, run_id=run_id, data_hash=data_hash, hyperparameters=parse_hyperparameters(hyperparameter or []),
        evals=tuple(parse_eval(item) for item in evaluated or []), wanted=parse_variants(variant or ["int8"]),
        policy=load_policy(policy) if policy is not None else None, attempt=attempt,
    )  # fmt: skip
    files = model_files(adapter)
    place = find_place(state)
    store = open_store(place)
    imported = find_base(store, base)
    prefix = f"checkpoints/{model}/"
    with progress_bar(f"uploading {adapter.name}", sum(p.stat().st_size for p in files), shown=not as_json) as advance:
        ref, _ = upload_folder(store, files, prefix, advance)
    sets = upload_set(store, calibration, prefix), upload_set(store, evaluation, prefix)
    event = envelope(checkpoint(asked, imported, Weights(kind=kind_of(adapter), ref=ref), *sets))
    asyncio.run(_publish(place, event))
    if as_json:
        show_json({"event_id": event.id, "model": model, "run_id": run_id, "weights": ref.model_dump(mode="json")})
    else:
        show_line(f"published a checkpoint of {model} (run {run_id}); follow it: slipway status {model} --follow")


@dataclass(frozen=True)
class Asked:
    """What the command line says about a checkpoint."""

    model: str
    run_id: str
    data_hash: str
    hyperparameters: Mapping[str, Any]
    evals: tuple[EvalResult, ...]
    wanted: tuple[Variant, ...]
    policy: ReleasePolicy | None
    attempt: int


def checkpoint(
    asked: Asked, base: BaseManifest, weights: Weights, calibration: ArtifactRef | None, evaluation: ArtifactRef | None
) -> CheckpointReady:
    """Put together the fact that is published.

    Raises:
        Refused: a value is not valid.
    """
    try:
        return CheckpointReady(
            model=asked.model,
            base=BaseModelRef(
                name=base.name, revision=base.revision, uri=base.folder.uri, digest=base.folder.digest
            ),
            weights=weights,
            training=Training(
                run_id=asked.run_id, data_hash=asked.data_hash, hyperparameters=dict(asked.hyperparameters)
            ),
            evals=asked.evals, calibration=calibration, evaluation=evaluation, wanted=asked.wanted,
            policy=asked.policy, attempt=asked.attempt,
        )  # fmt: skip
    except ValidationError as error:
        raise Refused(_problems(error), Exit.USAGE) from error


def envelope(fact: CheckpointReady) -> Event[Any]:
    """Wrap a checkpoint; the same checkpoint gets the same event id, so that saying it twice is saying it once."""
    identity = digest_of_json(fact.model_dump(mode="json")).removeprefix("sha256:")
    return Event[Any](
        id=f"checkpoint-{identity[:32]}", source=SOURCE, type=fact.TYPE, subject=fact.model, time=SystemClock().now(),
        correlationid=fact.training.run_id, data=fact,
    )  # fmt: skip


async def _publish(place: Place, event: Event[Any]) -> None:
    async with connected(place) as client:
        await publish_event(client.jetstream(timeout=10), event)


def kind_of(folder: Path) -> str:
    """Tell a LoRA from full weights by the file that PEFT writes beside it."""
    return "lora" if (folder / "adapter_config.json").exists() else "full"


def upload_set(store: Store, path: Path | None, prefix: str) -> ArtifactRef | None:
    """Upload a calibration or evaluation set.

    Raises:
        Refused: it cannot be read, or is not JSON lines.
    """
    if path is None:
        return None
    try:
        data = path.read_bytes()
        for line in data.splitlines():
            json.loads(line)
    except (OSError, ValueError) as error:
        raise Refused(f"{path} is not JSON lines that can be read: {error}", Exit.USAGE) from error
    entry = store.put_file(path, path.name, prefix)
    key = f"{prefix}blobs/sha256/{entry.digest[7:9]}/{entry.digest[7:]}"
    return ArtifactRef(uri=store.uri(key), digest=entry.digest, size_bytes=entry.size_bytes)


def parse_hyperparameters(items: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` items; values that are JSON (numbers, true, lists) keep their type."""
    found: dict[str, Any] = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not key or not separator:
            raise Refused(f"{item!r} is no hyperparameter; write key=value", Exit.USAGE)
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def parse_eval(text: str) -> EvalResult:
    """Read `name:metric=value`; a metric called loss or perplexity is better when lower."""
    found = re.fullmatch(
        r"(?P<name>[^:=]+):(?P<metric>[^:=]+)=(?P<value>[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)", text
    )
    if found is None:
        raise Refused(f"{text!r} is no evaluation; write name:metric=value", Exit.USAGE)
    metric, value = found["metric"], float(found["value"])
    lower = any(word in metric.lower() for word in ("loss", "perplexity", "error"))
    return EvalResult(name=found["name"], metric=metric, value=value, higher_is_better=not lower)


def parse_variants(items: Sequence[str]) -> tuple[Variant, ...]:
    """Check the names of precisions."""
    known = get_args(Variant)
    unknown = [item for item in items if item not in known]
    if unknown:
        raise Refused(f"{unknown[0]!r} is no variant; say one of {', '.join(known)}", Exit.USAGE)
    return tuple(dict.fromkeys(items))  # type: ignore[arg-type]


def _problems(error: ValidationError) -> str:
    found = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return f"the checkpoint cannot be published so: {found}"
