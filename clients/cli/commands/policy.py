"""`slipway policy`: write, check, explain, store and show release policies."""

from pathlib import Path
from typing import Annotated

import typer
import yaml
from nats.js import JetStreamContext

from clients.cli.connection import StackAddress, ask_bus, find_stack
from clients.cli.declared import DeclaredPolicy
from clients.cli.errors import CommandError, Exit
from clients.cli.installation import Installation, apply_one
from clients.cli.options import JsonOption, ModelArgument, StateOption
from clients.cli.output import show_line, show_result
from clients.cli.parsing import check_model
from clients.cli.policies.policy_template import TEMPLATE
from clients.cli.policies.policy_times import explain_times
from clients.cli.reading import RecordsOfModels
from clients.cli.releases.resolving import advise
from clients.cli.yaml_source import Document, InvalidError, Problem, read_documents, validated
from contracts.policy import ReleasePolicy
from decisions.policies.problems import differing, list_problems

policy_app = typer.Typer(help="Write, check, explain, store and show release policies.", no_args_is_help=True)
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
    problems = [documents[0].problem(each.reason, *each.field) for each in list_problems(policy)]
    if problems:
        raise InvalidError(problems, f"the policy {path}")
    return documents[0], policy


@policy_app.command("init")
def policy_init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")] = Path("policy.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a policy file with explanations, to edit."""
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
    as_json: JsonOption = False,
) -> None:
    """Check a policy; the exit code is 1 if it is not valid, and each problem has its line."""
    problems: tuple[Problem, ...] = ()
    try:
        load_policy(file)
    except InvalidError as error:
        problems = error.problems
    data = {"file": str(file), "valid": not problems, "problems": [each.as_data() for each in problems]}
    show_result(data, "\n".join(map(str, problems)) or f"{file} is a valid policy", as_json=as_json)
    if problems:
        raise typer.Exit(int(Exit.FAILED))


def check_policy(stack: StackAddress, model: str, file: Path | None) -> ReleasePolicy | None:
    """Return the policy of a checkpoint of a model, checked as the registry does at admission.

    None if there is no file and this identity may not read the stored policy.

    Raises:
        CommandError: No policy is stored or given, or the file's policy is not valid or differs from the stored policy.
    """
    try:
        stored, may_read = ask_bus(stack, lambda js: _policy_get(js, model)), True
    except CommandError as error:
        if error.code is Exit.UNREACHABLE:
            raise
        stored, may_read = None, False
    if file is not None:
        document, policy = _read(file)
        fields = differing(policy, stored) if stored is not None else []
        if fields:
            different = [document.problem("it differs from the stored policy, which counts", each) for each in fields]
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
    rps: Annotated[float, typer.Option("--rps", min=1e-6, help="Requests per second of the model.")] = 1.0,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain a policy's consequences: duration of each step, rows needed to show a loss, time until triggers alert."""
    if Path(what).exists() or "/" in what or "." in what:
        policy = load_policy(Path(what))
    else:
        policy = _stored(find_stack(state), check_model(what))
    explained = explain_times(policy, rps, first=first)
    lines = [f"At {rps:.3g} requests/s (--rps sets another rate):", *(f"  {sentence}" for sentence in explained)]
    show_result({"requests_per_second": rps, "explained": explained}, *lines, as_json=as_json)


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
    data = policy.model_dump(mode="json")
    show_result(data, yaml.safe_dump(data, sort_keys=False).rstrip(), as_json=as_json)


async def _policy_get(js: JetStreamContext, model: str) -> ReleasePolicy | None:
    return await RecordsOfModels(js, "policies", ReleasePolicy).get(model)
