"""`slipway publish`: upload a checkpoint and publish checkpoint.ready."""

import asyncio
import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from clients.cli.commands.policy import check_policy, load_policy
from clients.cli.commands.status import UNTIL, follow_release
from clients.cli.connection import StackAddress, ask_bus, find_stack
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, show_line, show_result
from clients.cli.parsing import check_model
from clients.cli.releases.recorded_releases import read_releases
from clients.cli.sources.checkpoint_checks import check_checkpoint, find_base
from clients.cli.sources.evaluation_checks import check_evaluation
from clients.cli.sources.external_source import configuration_of, describe_weights, open_source
from clients.cli.sources.upload import model_files, progress_bar, steps
from clients.training import Connection as TrainingConnection
from clients.training import Published, PublishError, Run, data_hash, publish_checkpoint
from contracts.facts import BaseModelRef, EvalResult, Weights
from contracts.precisions import PRECISIONS
from contracts.storage.sources import scheme_of
from contracts.vocabulary import ServingSettings, Variant
from decisions.serving.settings import assess_settings, combine


def publish(
    *,
    model: Annotated[str, typer.Option(help="Name of the model that the checkpoint belongs to.")],
    base: Annotated[str, typer.Option(help="Imported base model, NAME or NAME@REVISION.")],
    adapter: Annotated[
        str,
        typer.Option(
            help="Folder that save_pretrained wrote, with a LoRA or full weights; or hf://REPO@REVISION or "
            "file:///FOLDER. A tokenizer in it is published, too; without its files the base's is served."
        ),
    ],
    run_id: Annotated[
        str | None,
        typer.Option(help="Training run that produced the checkpoint (default: the name of the folder)."),
    ] = None,
    data_hash: Annotated[
        str | None,
        typer.Option(help="Digest of the training data, sha256:HEX."),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="In place of --data-hash: file with the training data, to be hashed; repeatable, in order.",
        ),
    ] = None,
    hyperparameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="For example lr=0.0002; repeatable.")
    ] = None,
    evaluated: Annotated[
        list[str] | None,
        typer.Option(
            "--eval",
            metavar="SUITE:METRIC=VALUE",
            help="Evaluation result, for example tickets:accuracy=0.9; repeatable.",
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRECISION",
            help=f"Precision to produce: {', '.join(PRECISIONS)}; repeatable (default: int8).",
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Release policy, YAML or JSON (default: the stored policy of the model).")
    ] = None,
    attempt: Annotated[int, typer.Option(help="Increase it to release the same checkpoint again on purpose.")] = 1,
    calibration: Annotated[Path | None, typer.Option(help="JSON lines to calibrate quantisation on.")] = None,
    evaluation: Annotated[Path | None, typer.Option(help="JSON lines to measure latency and quality with.")] = None,
    tool_parser: Annotated[
        str | None,
        typer.Option(help="The engine's parser of tool calls, for example hermes; none: set none and detect none."),
    ] = None,
    reasoning_parser: Annotated[
        str | None,
        typer.Option(help="The engine's parser of reasoning, for example qwen3; none: not even that of serving.json."),
    ] = None,
    context_tokens: Annotated[
        int | None, typer.Option(min=1, help="The longest context, prompt and answer (default: the fleet's).")
    ] = None,
    template_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A variable of the chat template, for example enable_thinking=false; repeatable."
        ),
    ] = None,
    engine_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An option of the engine, for example max_num_seqs=64; repeatable."),
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="Name of the fleet's runtime that serves it; see `slipway endpoints`.")
    ] = None,
    check_only: Annotated[
        bool, typer.Option("--check", help="Only check what can be checked before an upload.")
    ] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait for the end of the release; the exit code is 0 if it was promoted, else 3."),
    ] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Upload a checkpoint and publish checkpoint.ready. Follow the release with `slipway status MODEL --follow`."""
    check_model(model)
    run = Run(
        run_id or (Path(adapter).resolve() if scheme_of(adapter) is None else Path(adapter.partition("@")[0])).name,
        hash_of(data, data_hash),
        hyperparameters=parse_values(hyperparameter or [], "hyperparameter"),
        evals=[parse_eval(item) for item in evaluated or []],
    )
    serving = ServingSettings(
        tool_parser=tool_parser,
        reasoning_parser=reasoning_parser,
        context_tokens=context_tokens,
        template_options=parse_values(template_option or [], "template option"),
        options=parse_values(engine_option or [], "engine option"),
        runtime=runtime,
    )
    release: dict[str, Any] = {
        "model": model,
        "variants": parse_variants(variant or ["int8"]),
        "serving": check_serving(serving),
        "policy": load_policy(policy) if policy is not None else None,
        "calibration": calibration,
        "evaluation": evaluation,
        "attempt": attempt,
    }
    stack = find_stack(state)
    valid = check_policy(stack, model, policy)
    check_evaluation(valid, evaluation)
    if wait:  # an identity that may not read releases is refused before the upload
        ask_bus(stack, lambda js: read_releases(js, model))
    source = open_source(adapter, stack, quiet=as_json) if scheme_of(adapter) is not None else None
    if source is None:
        model_files(Path(adapter))  # raises CommandError without weights
    configuration: contextlib.AbstractContextManager[Path] = (
        contextlib.nullcontext(Path(adapter)) if source is None else configuration_of(source)
    )
    with configuration as folder:
        checked = check_checkpoint(
            folder,
            base_of=lambda: find_base(training_connection(stack), model, base),
            variants=release["variants"],
            hyperparameters=run.hyperparameters,
            serve=valid.serve if valid is not None else "merged",
        )
    if checked.note and not as_json:
        show_line(f"note: {checked.note}")
    if check_only:
        name = f"{checked.base.name}@{checked.base.revision}"
        result = {"checked": True, "model": model, "run_id": run.run_id, "base": name, "note": checked.note}
        line = f"nothing speaks against publishing this checkpoint of {model} on {name}; nothing was uploaded"
        show_result(result, line, as_json=as_json)
        return
    weights = Path(adapter) if source is None else describe_weights(source, quiet=as_json)
    published = upload(stack, checked.base, weights, {**release, "run": run}, quiet=as_json)
    ref, again = published.weights.model_dump(mode="json"), " again" if published.duplicate else ""
    follow = f"follow the release with `slipway status {model} --follow`"
    line = f"published a checkpoint of {model}{again} (run {run.run_id}); {follow}"
    result = {"event_id": published.event_id, "model": model, "run_id": run.run_id, "weights": ref}
    show_result(result, line, as_json=as_json)
    if wait:
        asyncio.run(follow_release(stack, model, UNTIL, None, as_json, published=published))


def hash_of(files: Sequence[Path] | None, given: str | None) -> str:
    """Return the digest of training data: computed from files, or the given one.

    Raises:
        CommandError: Both or neither is given, or a file cannot be read.
    """
    if files and given:
        raise CommandError("give one of --data and --data-hash", Exit.USAGE)
    if given:
        return given
    if not files:
        raise CommandError("the training run is not known: give --data FILE", Exit.USAGE)
    try:
        return data_hash(files)
    except OSError as error:
        raise CommandError(f"the training data cannot be read: {error}", Exit.USAGE) from error


def upload(
    stack: StackAddress, base: BaseModelRef, weights: Path | Weights, release: dict[str, Any], *, quiet: bool
) -> Published:
    """Upload a checkpoint and publish its event.

    Args:
        stack: The stack.
        base: Imported base model.
        weights: The folder of the checkpoint, or a reference to a folder outside the store.
        release: The other arguments of `publish_checkpoint`.
        quiet: Whether no progress is shown.

    Raises:
        CommandError: The checkpoint cannot be published.
    """
    total = 0 if isinstance(weights, Weights) else sum(path.stat().st_size for path in model_files(weights))
    try:
        with progress_bar(f"uploading {weights}", total, shown=total > 0 and not quiet) as advance:
            return publish_checkpoint(
                weights, base=base, connection=training_connection(stack), progress=steps(advance), **release
            )
    except PublishError as error:
        raise CommandError(str(error)) from error


def training_connection(stack: StackAddress) -> TrainingConnection:
    """Return the address of a stack as the training client's Connection."""
    connection = stack.connection
    return TrainingConnection(
        nats_url=connection.nats_url,
        nats_credentials=str(connection.nats_credentials) if connection.nats_credentials else None,
        nats_ca=str(connection.nats_ca) if connection.nats_ca else None,
        s3_ca=str(connection.s3_ca) if connection.s3_ca else None,
    )


def check_serving(settings: ServingSettings) -> ServingSettings | None:
    """Return valid serving settings; None if no setting is given.

    Raises:
        CommandError: A setting is not valid.
    """
    refused = assess_settings(settings)
    if refused is not None:
        raise CommandError(refused.reason.removesuffix("."), Exit.USAGE)
    return combine(settings, None)


def parse_values(items: Sequence[str], name: str) -> dict[str, Any]:
    """Return the values of `key=value` items; JSON values (numbers, true, lists) keep their type."""
    parsed: dict[str, Any] = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not key or not separator:
            raise CommandError(f"the {name} {item!r} is not valid: write key=value", Exit.USAGE)
        try:
            parsed[key] = json.loads(value)
        except ValueError:
            parsed[key] = value
    return parsed


def parse_eval(text: str) -> EvalResult:
    """Return the evaluation result of `name:metric=value`; a lower loss, perplexity or error rate is better."""
    match = re.fullmatch(
        r"(?P<name>[^:=]+):(?P<metric>[^:=]+)=(?P<value>[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)", text
    )
    if match is None:
        raise CommandError(f"the evaluation result {text!r} is not valid: write name:metric=value", Exit.USAGE)
    metric, value = match["metric"], float(match["value"])
    lower = any(name in metric.lower() for name in ("loss", "perplexity", "error"))
    return EvalResult(name=match["name"], metric=metric, value=value, higher_is_better=not lower)


def parse_variants(items: Sequence[str]) -> tuple[Variant, ...]:
    """Return the variants without duplicates."""
    known = get_args(Variant)
    unknown = [item for item in items if item not in known]
    if unknown:
        raise CommandError(f"the variant {unknown[0]!r} is not valid: use {', '.join(known)}", Exit.USAGE)
    return tuple(dict.fromkeys(items))  # type: ignore[arg-type]  # each was checked to be a variant above
