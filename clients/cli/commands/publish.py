"""`slipway publish`: upload a checkpoint and say that it is ready."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from clients.cli.commands.base import find_base
from clients.cli.commands.orders import load_policy
from clients.cli.connection import JsonOption, Place, StateOption, find_place
from clients.cli.external_source import announce
from clients.cli.output import Exit, Refused, show_json, show_line
from clients.cli.upload import Advance, model_files, progress_bar
from clients.cli.version_records import open_store
from clients.training import Place as TrainingPlace
from clients.training import PublishError, Run, publish_checkpoint
from contracts.facts import BaseModelRef, EvalResult, Weights
from contracts.sources import scheme_of
from contracts.vocabulary import MODEL_NAME_PATTERN, Variant


def publish(
    *,
    model: Annotated[str, typer.Option(help="Model that this is a checkpoint of.")],
    base: Annotated[str, typer.Option(help="Imported base model, NAME or NAME@REVISION.")],
    adapter: Annotated[
        str,
        typer.Option(
            help="Folder of the LoRA or full weights, from save_pretrained; or hf://REPO@REVISION, or file:///FOLDER."
        ),
    ],
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
) -> None:
    """Upload a checkpoint and publish checkpoint.ready; follow it with `slipway status MODEL --follow`."""
    if not re.match(MODEL_NAME_PATTERN, model):
        raise Refused(
            f"{model!r} is no model name; use 1 to 63 lower-case letters, digits and inner hyphens", Exit.USAGE
        )
    run = Run(
        run_id=run_id,
        data_hash=data_hash,
        hyperparameters=parse_hyperparameters(hyperparameter or []),
        evals=[parse_eval(item) for item in evaluated or []],
    )
    variants = parse_variants(variant or ["int8"])
    release_policy = load_policy(policy) if policy is not None else None
    place = find_place(state)
    imported = find_base(open_store(place), base)
    base_ref = BaseModelRef(
        name=imported.name, revision=imported.revision, uri=imported.folder.uri, digest=imported.folder.digest
    )
    weights = find_weights(adapter, quiet=as_json)
    total = 0 if isinstance(weights, Weights) else sum(path.stat().st_size for path in model_files(weights))
    try:
        with progress_bar(f"uploading {adapter}", total, shown=total > 0 and not as_json) as advance:
            published = publish_checkpoint(
                weights,
                model=model,
                base=base_ref,
                run=run,
                place=training_place(place),
                variants=variants,
                policy=release_policy,
                calibration=calibration,
                evaluation=evaluation,
                attempt=attempt,
                progress=steps(advance),
            )
    except PublishError as error:
        raise Refused(str(error)) from error
    if as_json:
        ref = published.weights.model_dump(mode="json")
        show_json({"event_id": published.event_id, "model": model, "run_id": run_id, "weights": ref})
    else:
        again = " again" if published.duplicate else ""
        show_line(
            f"published a checkpoint of {model}{again} (run {run_id}); follow it: slipway status {model} --follow"
        )


def find_weights(adapter: str, *, quiet: bool) -> Path | Weights:
    """Return the folder that is to be uploaded, or what a folder outside the store is, which stays where it lies."""
    return announce(adapter, quiet=quiet) if scheme_of(adapter) is not None else Path(adapter)


def training_place(place: Place) -> TrainingPlace:
    """Return where the stack is in the words of the training client."""
    found = place.connection
    return TrainingPlace(
        nats_url=found.nats_url,
        s3_endpoint=found.s3_endpoint,
        s3_access_key=found.s3_access_key,
        s3_secret_key=found.s3_secret_key.get_secret_value(),
        s3_bucket=found.s3_bucket,
        s3_secure=found.s3_secure,
    )


def steps(advance: Advance) -> Callable[[int, int], None]:
    """Turn bytes done in all into bytes done since the last call."""
    seen = 0

    def report(done: int, _total: int) -> None:
        nonlocal seen
        advance(done - seen)
        seen = done

    return report


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
