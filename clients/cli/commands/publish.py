"""`slipway publish`: upload a checkpoint and publish checkpoint.ready."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from clients.cli.commands.base import find_base
from clients.cli.commands.orders import load_policy
from clients.cli.connection import JsonOption, StackAddress, StateOption, find_stack
from clients.cli.external_source import describe_weights
from clients.cli.output import CommandError, Exit, show_json, show_line
from clients.cli.parsing import check_model
from clients.cli.upload import Advance, model_files, progress_bar
from clients.cli.version_records import open_store
from clients.training import Connection as TrainingConnection
from clients.training import PublishError, Run, publish_checkpoint
from contracts.facts import BaseModelRef, EvalResult, Weights
from contracts.sources import scheme_of
from contracts.vocabulary import ServingSettings, Variant
from decisions.serving_settings import assess_settings, combine


def publish(
    *,
    model: Annotated[str, typer.Option(help="Name of the model that the checkpoint belongs to.")],
    base: Annotated[str, typer.Option(help="Imported base model, NAME or NAME@REVISION.")],
    adapter: Annotated[
        str,
        typer.Option(
            help="Folder that save_pretrained wrote, with a LoRA or full weights; or hf://REPO@REVISION or "
            "file:///FOLDER."
        ),
    ],
    run_id: Annotated[str, typer.Option(help="Training run that produced the checkpoint.")],
    data_hash: Annotated[str, typer.Option(help="Digest of the training data, sha256:HEX.")],
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
            help="Precision to produce: bf16, int8, fp8, gptq-int4, awq-int4; repeatable (default: int8).",
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Release policy, YAML or JSON (default: the stored policy of the model).")
    ] = None,
    attempt: Annotated[int, typer.Option(help="Increase it to release the same checkpoint again on purpose.")] = 1,
    calibration: Annotated[Path | None, typer.Option(help="JSON lines to calibrate quantisation on.")] = None,
    evaluation: Annotated[Path | None, typer.Option(help="JSON lines to measure latency and quality with.")] = None,
    tool_parser: Annotated[
        str | None, typer.Option(help="The engine's parser of tool calls, for example hermes.")
    ] = None,
    reasoning_parser: Annotated[
        str | None, typer.Option(help="The engine's parser of reasoning, for example qwen3.")
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
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Upload a checkpoint and publish checkpoint.ready. Follow the release with `slipway status MODEL --follow`."""
    check_model(model)
    run = Run(
        run_id=run_id,
        data_hash=data_hash,
        hyperparameters=parse_values(hyperparameter or [], "hyperparameter"),
        evals=[parse_eval(item) for item in evaluated or []],
    )
    variants = parse_variants(variant or ["int8"])
    serving = check_serving(
        ServingSettings(
            tool_parser=tool_parser,
            reasoning_parser=reasoning_parser,
            context_tokens=context_tokens,
            template_options=parse_values(template_option or [], "template option"),
            options=parse_values(engine_option or [], "engine option"),
        )
    )
    release_policy = load_policy(policy) if policy is not None else None
    stack = find_stack(state)
    imported = find_base(open_store(stack), base)
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
                connection=training_connection(stack),
                variants=variants,
                policy=release_policy,
                calibration=calibration,
                evaluation=evaluation,
                serving=serving,
                attempt=attempt,
                progress=steps(advance),
            )
    except PublishError as error:
        raise CommandError(str(error)) from error
    if as_json:
        ref = published.weights.model_dump(mode="json")
        show_json({"event_id": published.event_id, "model": model, "run_id": run_id, "weights": ref})
    else:
        again = " again" if published.duplicate else ""
        show_line(
            f"published a checkpoint of {model}{again} (run {run_id}); "
            f"follow the release with `slipway status {model} --follow`"
        )


def find_weights(adapter: str, *, quiet: bool) -> Path | Weights:
    """Return the folder to upload, or the reference to a folder outside the store, which is not uploaded."""
    return describe_weights(adapter, quiet=quiet) if scheme_of(adapter) is not None else Path(adapter)


def training_connection(stack: StackAddress) -> TrainingConnection:
    """Return the address of a stack as the training client's Connection."""
    connection = stack.connection
    return TrainingConnection(
        nats_url=connection.nats_url,
        s3_endpoint=connection.s3_endpoint,
        s3_access_key=connection.s3_access_key,
        s3_secret_key=connection.s3_secret_key.get_secret_value(),
        s3_bucket=connection.s3_bucket,
        s3_secure=connection.s3_secure,
    )


def steps(advance: Advance) -> Callable[[int, int], None]:
    """Return a callback that turns the bytes done in total into the bytes done since the last call."""
    seen = 0

    def report(done: int, _total: int) -> None:
        nonlocal seen
        advance(done - seen)
        seen = done

    return report


def check_serving(settings: ServingSettings) -> ServingSettings | None:
    """Return serving settings that an engine takes; None if none is set.

    Raises:
        CommandError: one of them is not valid; the registry would reject it, too.
    """
    refused = assess_settings(settings)
    if refused is not None:
        raise CommandError(refused.reason.removesuffix("."), Exit.USAGE)
    return combine(settings, None)


def parse_values(items: Sequence[str], name: str) -> dict[str, Any]:
    """Return the values of `key=value` items; values that are JSON (numbers, true, lists) keep their type."""
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
    """Return the result that `name:metric=value` names; for a loss, perplexity or error rate, lower is better."""
    match = re.fullmatch(
        r"(?P<name>[^:=]+):(?P<metric>[^:=]+)=(?P<value>[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)", text
    )
    if match is None:
        raise CommandError(f"the evaluation result {text!r} is not valid: write name:metric=value", Exit.USAGE)
    metric, value = match["metric"], float(match["value"])
    lower = any(name in metric.lower() for name in ("loss", "perplexity", "error"))
    return EvalResult(name=match["name"], metric=metric, value=value, higher_is_better=not lower)


def parse_variants(items: Sequence[str]) -> tuple[Variant, ...]:
    """Return the named variants, each once."""
    known = get_args(Variant)
    unknown = [item for item in items if item not in known]
    if unknown:
        raise CommandError(f"the variant {unknown[0]!r} is not valid: use {', '.join(known)}", Exit.USAGE)
    return tuple(dict.fromkeys(items))  # type: ignore[arg-type]  # each was checked to be a variant above
