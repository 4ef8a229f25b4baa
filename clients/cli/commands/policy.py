"""`slipway policy`: write, check, explain, store and show release policies."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
import yaml
from nats.js import JetStreamContext

from clients.cli.connection import StackAddress, ask_bus, find_stack, on_bus
from clients.cli.declared import DeclaredPolicy
from clients.cli.errors import CommandError, Exit
from clients.cli.events.event_log import EventFilter, read_history
from clients.cli.installation import Installation, apply_one
from clients.cli.options import JsonOption, ModelArgument, StateOption
from clients.cli.output import show_json, show_line
from clients.cli.parsing import check_model, parse_duration
from clients.cli.policies.policy_template import TEMPLATE
from clients.cli.policies.policy_times import explain_times, mean_rate
from clients.cli.reading import RecordsOfModels
from clients.cli.releases.resolving import advise
from clients.cli.yaml_source import Document, InvalidError, Problem, read_documents, validated
from contracts.policy import ReleasePolicy
from decisions.policies.problems import differing, list_problems
from shared.runtime.clock import SystemClock

policy_app = typer.Typer(help="Write, check, explain, store and show release policies.", no_args_is_help=True)
RATE_OVER = "24h"
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Release policy, YAML or JSON.")]


def load_policy(path: Path) -> ReleasePolicy:
    """Return the release policy of a YAML or JSON file.

    Raises:
        CommandError: the file cannot be read, or holds no valid policy.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[Document, ReleasePolicy]:
    documents = read_documents(path)
    if len(documents) != 1:
        count = f"{len(documents)} documents" if documents else "nothing in it"
        raise CommandError(f"the policy {path} is not valid: it has {count}, and a policy is one document", Exit.USAGE)
    policy = validated(documents[0], ReleasePolicy, f"the policy {path}")
    assert isinstance(policy, ReleasePolicy)  # noqa: S101 - for the type checker
    problems = [documents[0].problem(each.reason, *each.field) for each in list_problems(policy)]
    if problems:
        raise InvalidError(problems, f"the policy {path}")
    return documents[0], policy


@policy_app.command("init")
def policy_init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")] = Path("policy.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a policy file to edit, which explains each choice."""
    try:
        with file.open("w" if force else "x") as out:
            out.write(TEMPLATE)
    except FileExistsError:
        raise CommandError(f"{file} exists: name another file, or give --force") from None
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror}") from error
    show_line(f"wrote {file}; edit it, then `slipway policy validate {file}` and `slipway policy explain {file}`")


@policy_app.command("validate")
def policy_validate(
    file: FileArgument,
    model: Annotated[
        str | None, typer.Option("--model", help="Also compare it with the stored policy of this model.")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a policy; the exit code is 1 if it is not valid, and each problem has its line.

    With --model, a policy that asks for less than the stored one is a problem: a checkpoint with it would be rejected.
    """
    if model is not None:
        check_model(model)
    try:
        document, policy = _read(file)
    except InvalidError as error:
        problems = list(error.problems)
    else:
        stored = ask_bus(find_stack(state), lambda js: _policy_get(js, model)) if model is not None else None
        problems = _differences(document, policy, stored)
    if as_json:
        show_json({"file": str(file), "valid": not problems, "problems": [each.as_data() for each in problems]})
    else:
        show_line("\n".join(map(str, problems)) if problems else f"{file} is a valid policy")
    if problems:
        raise typer.Exit(int(Exit.FAILED))


def _differences(document: Document, policy: ReleasePolicy, stored: ReleasePolicy | None) -> list[Problem]:
    """Return a problem for each field that differs from the stored policy."""
    fields = differing(policy, stored) if stored is not None else []
    return [document.problem("it differs from the stored policy, which counts", field) for field in fields]


def check_policy(stack: StackAddress, model: str, file: Path | None) -> ReleasePolicy | None:
    """Check and return the policy that a checkpoint of a model is published with, as the registry does at admission.

    Return None without a file if this identity may not read the stored policy: the registry checks it then.

    Raises:
        CommandError: there is no policy, or the file's policy is not valid or differs from the stored one.
    """
    try:
        stored, may_read = ask_bus(stack, lambda js: _policy_get(js, model)), True
    except CommandError as error:
        if error.code is Exit.UNREACHABLE:
            raise
        stored, may_read = None, False
    if file is not None:
        document, policy = _read(file)
        if different := _differences(document, policy, stored):
            raise InvalidError(different, f"the policy {file}")
        return policy
    if stored is None and may_read:
        raise CommandError(
            f"{model} has no stored policy, and none is given: write one with `slipway policy init`, and give it with "
            "--policy"
        )
    return stored


@policy_app.command("explain")
def policy_explain(
    *,
    what: Annotated[str, typer.Argument(metavar="FILE|MODEL", help="A file, or a model with a stored policy.")],
    first: Annotated[bool, typer.Option("--first", help="For the first release of a model.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="Of a file: the model whose rate of requests counts.")
    ] = None,
    rps: Annotated[
        float | None, typer.Option("--rps", min=1e-6, help="Requests per second, instead of measured ones.")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain a policy's consequences: duration of each step, rows needed to show a loss, time until triggers alert.

    Times are at the model's mean rate of the last 24 hours, or at 1 request per second where none is known.
    """
    if Path(what).exists() or "/" in what or "." in what:
        policy = load_policy(Path(what))
    else:
        model = check_model(what)
        policy = _stored(find_stack(state), model)
    rate, source = rps, "as given"
    if rate is None and model is not None:
        source = f"{model} in the last {RATE_OVER}"
        try:
            rate = asyncio.run(_rate(find_stack(state), check_model(model)))
        except CommandError as error:
            message = f"the rate of {model} cannot be read: {error}; or give its requests per second with --rps"
            raise CommandError(message, error.code, error.name, error.details) from None
    if rate is None:
        known = f"{model} had no request in the last {RATE_OVER}" if model else "no model is named"
        rate, source = 1.0, f"{known}; --rps sets another rate"
    explained = explain_times(policy, rate, first=first)
    if as_json:
        show_json({"requests_per_second": rate, "explained": explained})
        return
    show_line(f"At {rate:.3g} requests/s ({source}):")
    for sentence in explained:
        show_line(f"  {sentence}")


async def _rate(stack: StackAddress, model: str) -> float | None:
    """Return the mean rate of a model's requests in production; None where windows of the time hold none."""
    now = SystemClock().now()
    where = EventFilter(("window.summarised",), since=now - parse_duration(RATE_OVER))
    async with on_bus(stack) as js:
        history = await read_history(js, model, where)
    return mean_rate([logged.event.data for logged in history], now)


def _stored(stack: StackAddress, model: str) -> ReleasePolicy:
    policy = ask_bus(stack, lambda js: _policy_get(js, model))
    if policy is None:
        raise CommandError(f"{model} has no stored policy{advise(stack, model, f'slipway policy set {model} FILE')}")
    return policy


@policy_app.command("set")
def policy_set(
    model: ModelArgument,
    file: FileArgument,
    state: StateOption = None,
) -> None:
    """Store the release policy of a model. Checkpoints with a different policy are then refused."""
    policy = load_policy(file)
    declared = DeclaredPolicy(kind="Policy", model=check_model(model), policy=policy)
    apply_one(Installation(find_stack(state), state, None), declared)
    show_line(f"stored the policy of {model}; it applies to releases opened from now on")


@policy_app.command("show")
def policy_show(model: ModelArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show the stored release policy of a model."""
    policy = _stored(find_stack(state), model)
    if as_json:
        show_json(policy.model_dump(mode="json"))
    else:
        show_line(yaml.safe_dump(json.loads(policy.model_dump_json()), sort_keys=False).rstrip())


async def _policy_get(js: JetStreamContext, model: str) -> ReleasePolicy | None:
    return await RecordsOfModels(js, "policies", ReleasePolicy).get(model)
