"""`slipway routes`: the targets in production."""

import asyncio
import json
import os
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.connection import StackAddress, ask_bus, find_stack, on_bus
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, ended_by_interrupt, show_json, show_line, show_table
from clients.cli.reading import RecordsOfModels
from clients.cli.releases.exported_routes import ROUTERS, Router, export_route
from clients.cli.releases.resolving import advise
from clients.cli.releases.serving import tell_suspended
from clients.cli.releases.version_records import read_routes
from contracts.routes import Route, ServedTarget
from shared.runtime.files import replacing

_FOLLOW_S = 1.0


def routes(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Only this model.")] = None,
    *,
    state: StateOption = None,
    as_json: JsonOption = False,
    export: Annotated[
        Router | None,
        typer.Option(
            "--export", metavar="|".join(ROUTERS), help="Write it as files of another router (attached servers)."
        ),
    ] = None,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where these files are written.")] = Path(),
    follow: Annotated[
        bool, typer.Option("--follow", help="Write them again after each change, until interrupted.")
    ] = False,
) -> None:
    """Show the production route of each model: active, canary or shadow, previous, suspended, quarantined targets."""
    stack = find_stack(state)
    if export is not None or follow:
        if model is None or export is None:
            raise CommandError("one MODEL is exported, and --follow goes with --export", Exit.USAGE)
        to.mkdir(parents=True, exist_ok=True)
        with ended_by_interrupt(following=follow):
            asyncio.run(_export(stack, model, export, to, follow=follow))
        return
    routes = ask_bus(stack, read_routes)
    chosen = [route for name, route in sorted(routes.items()) if model in (None, name)]
    if as_json:
        show_json([route.model_dump(mode="json") for route in chosen])
        return
    if not chosen:
        advised = "; see `slipway status`" if model is None else advise(stack, model, "slipway status")
        raise CommandError(f"no target serves {model or 'production'} yet{advised}")
    rows = [
        (
            route.model,
            route.epoch,
            _name(route.active),
            _trial(route),
            _name(route.previous),
            ", ".join(str(each.served.target) for each in route.suspended) or "-",
            ", ".join(str(target) for target in route.quarantined) or "-",
        )
        for route in chosen
    ]
    show_table(("model", "epoch", "active", "canary", "previous", "suspended", "quarantined"), rows)
    for sentence in (sentence for route in chosen for sentence in tell_suspended(route)):
        show_line(sentence)


async def _export(stack: StackAddress, model: str, router: Router, folder: Path, *, follow: bool) -> None:
    """Write a model's route as files of another router; with `follow` again after each change, until interrupted."""
    epoch = -1
    async with on_bus(stack) as js:
        while True:
            route = await RecordsOfModels(js, "routes", Route).get(model) or Route(model=model)
            if route.epoch != epoch:
                epoch, files = route.epoch, export_route(route, router)
                if isinstance(files, str):
                    raise CommandError(f"the route of {model} is not exported: {files}")
                for name, document in files.items():
                    with replacing(folder / name) as file:
                        os.fchmod(file.fileno(), 0o644)  # the router may be another user
                        file.write(json.dumps(document, indent=2).encode())
                show_line(f"epoch {epoch} of {model}: {', '.join(str(folder / name) for name in files)}")
            if not follow:
                return
            await asyncio.sleep(_FOLLOW_S)


def _name(served: ServedTarget | None) -> str:
    return "-" if served is None else str(served.target)


def _trial(route: Route) -> str:
    """Return the canary with its share, or the candidate that takes no traffic yet."""
    if route.shadowed is not None:
        return f"{_name(route.shadowed)} in its shadow"
    if route.canary is None:
        return "-"
    return f"{_name(route.canary.served)} {route.canary.weight_ratio:.0%}"
