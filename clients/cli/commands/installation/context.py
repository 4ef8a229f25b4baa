"""`slipway context`: named installations, one of which commands use where no option or variable names another."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clients.cli.completion import complete_contexts
from clients.cli.contexts import Context, contexts_file, make_context, named_context, read_contexts, write_contexts
from clients.cli.options import JsonOption
from clients.cli.output import CommandError, show_json, show_line, show_pairs, show_table
from clients.cli.settings import CliSettings
from contracts.vocabulary import Environment

context_app = typer.Typer(help="List, add, choose and remove named installations.", no_args_is_help=True)
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the context.", autocompletion=complete_contexts)
]
FileOption = Path | None


@context_app.command("list")
def list_contexts(as_json: JsonOption = False) -> None:
    """List the contexts; a star marks the one that commands use now."""
    contexts = read_contexts()
    active = _active(contexts.current)
    if as_json:
        show_json([_as_data(name, each, active) for name, each in contexts.contexts.items()])
    elif not contexts.contexts:
        show_line("no contexts; add one with `slipway context add NAME --nats-url URL`")
    else:
        rows = [
            ("*" if name == active else "", name, each.address, each.environment, each.console_url or "-")
            for name, each in contexts.contexts.items()
        ]
        show_table(("", "name", "address", "environment", "console"), rows)


@context_app.command("add")
def add(
    name: NameArgument,
    *,
    nats_url: Annotated[str | None, typer.Option(metavar="URL", help="Address of the bus.")] = None,
    nats_credentials: Annotated[FileOption, typer.Option(metavar="FILE", help="File of your credential.")] = None,
    nats_ca: Annotated[FileOption, typer.Option(metavar="FILE", help="Authority of the bus (PEM).")] = None,
    s3_endpoint: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The object store.")] = None,
    s3_credentials: Annotated[FileOption, typer.Option(metavar="FILE", help="File of your key of the store.")] = None,
    s3_ca: Annotated[FileOption, typer.Option(metavar="FILE", help="Authority of the store (PEM).")] = None,
    s3_bucket: Annotated[str | None, typer.Option(metavar="BUCKET", help="Bucket (default: slipway).")] = None,
    s3_region: Annotated[str | None, typer.Option(metavar="REGION", help="Region (default: us-east-1).")] = None,
    attesters: Annotated[FileOption, typer.Option(metavar="FILE", help="Public keys of all attesters.")] = None,
    teams: Annotated[FileOption, typer.Option(metavar="FILE", help="List of teams: trust/teams.json.")] = None,
    gateway_url: Annotated[str | None, typer.Option(metavar="URL", help="Address of the gateway.")] = None,
    gateway_key: Annotated[FileOption, typer.Option(metavar="FILE", help="File of an API key.")] = None,
    gateway_ca: Annotated[FileOption, typer.Option(metavar="FILE", help="Authority of the gateway (PEM).")] = None,
    console_url: Annotated[str | None, typer.Option(metavar="URL", help="Address of the console.")] = None,
    stack: Annotated[FileOption, typer.Option("--state", metavar="FOLDER", help="An embedded stack instead.")] = None,
    environment: Annotated[
        Environment, typer.Option(help="Environment that `events` and `alerts` show without --environment.")
    ] = "production",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a context of that name.")] = False,
    use: Annotated[bool, typer.Option("--use", help="Use it from now on.")] = False,
) -> None:
    """Add a named installation. Its file holds addresses and names of files; secrets stay in their files."""
    values = {field: value for field, value in locals().items() if field in Context.model_fields}
    context = make_context(name, {**values, "state": stack})
    contexts = read_contexts()
    if name in contexts.contexts and not replace:
        raise CommandError(f"the context {name} exists: give --replace, or choose another name")
    current = name if use or not contexts.contexts else contexts.current
    changed = {"current": current, "contexts": {**contexts.contexts, name: context}}
    write_contexts(contexts.model_copy(update=changed))
    missing = [path for path in _files(context) if not path.exists()]
    note = f"; there is no file {', '.join(map(str, missing))} yet" if missing else ""
    show_line(f"added {name}: {context.address}{', in use from now on' if current == name else ''}{note}")


@context_app.command("use")
def use_context(name: NameArgument) -> None:
    """Make a context the current one: commands use it unless an option or variable names another installation."""
    contexts = read_contexts()
    context = named_context(name, contexts)
    write_contexts(contexts.model_copy(update={"current": name}))
    show_line(f"commands use {name} from now on: {context.address}{_overridden(name)}")


@context_app.command("show")
def show_context(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Name (default: the one in use).", autocompletion=complete_contexts),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a context, and whether commands use it."""
    contexts = read_contexts()
    active = _active(contexts.current)
    chosen = name or active
    if chosen is None:
        raise CommandError(f"no context is in use{_overridden(None)}; choose one with `slipway context use NAME`")
    context = named_context(chosen, contexts)
    if as_json:
        show_json(_as_data(chosen, context, active))
        return
    fields = {field.replace("_", "-"): value for field, value in context.model_dump(exclude_none=True).items()}
    used = "yes" if chosen == active else f"no{_overridden(chosen)}"
    show_pairs({"name": chosen, "in use": used, **fields, "file": contexts_file()})


@context_app.command("remove")
def remove(name: NameArgument) -> None:
    """Remove a context; the files that it names stay."""
    contexts = read_contexts()
    named_context(name, contexts)
    current = None if contexts.current == name else contexts.current
    kept = {known: each for known, each in contexts.contexts.items() if known != name}
    write_contexts(contexts.model_copy(update={"current": current, "contexts": kept}))
    show_line(f"removed {name}{'; no context is in use now' if contexts.current == name else ''}")


def _active(current: str | None) -> str | None:
    """Return the context that commands use now; None if the environment names another installation."""
    settings = CliSettings()
    if settings.context is not None or settings.nats_url is not None or "state" in settings.model_fields_set:
        return settings.context or None
    return current


def _overridden(name: str | None) -> str:
    """Return which variable keeps commands from using a context; empty if none does."""
    settings = CliSettings()
    if settings.context is not None:
        return f", but $SLIPWAY_CONTEXT names {settings.context}" if settings.context != name else ""
    for variable, is_set in (("NATS_URL", settings.nats_url), ("STATE", "state" in settings.model_fields_set)):
        if is_set:
            return f", but $SLIPWAY_{variable} comes first: unset it"
    return ""


def _files(context: Context) -> list[Path]:
    return [value for value in context.model_dump(exclude={"state"}).values() if isinstance(value, Path)]


def _as_data(name: str, context: Context, active: str | None) -> dict[str, Any]:
    return {"name": name, "in_use": name == active, **context.model_dump(mode="json", exclude_none=True)}
