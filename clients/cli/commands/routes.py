"""`slipway trace` and `routes`: the lineage of an answer, and what serves production now."""

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from clients.cli.commands.versions import deployment_time, lineage, short_digest, version_data
from clients.cli.connection import StackAddress, find_stack, on_bus
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, ended_by_interrupt, show_json, show_line, show_pairs, show_table
from clients.cli.reading import RecordsOfModels
from clients.cli.releases.exported_routes import ROUTERS, Router, export_route
from clients.cli.releases.names import VERSION_FORMS
from clients.cli.releases.resolving import advise, find_answering
from clients.cli.releases.runtimes import describe_run, read_runtimes
from clients.cli.releases.serving import tell_suspended
from clients.cli.releases.version_records import (
    find_version,
    gather_version,
    open_store,
    read_routes,
    version_numbers,
)
from contracts.routes import Route, ServedTarget
from contracts.vocabulary import Runtime, Target
from shared.runtime.files import replacing

_FOLLOW_S = 1.0
ExportOption = Annotated[
    Router | None,
    typer.Option("--export", metavar="|".join(ROUTERS), help="Write it as files of another router (attached servers)."),
]
ToOption = Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where these files are written.")]
FollowOption = Annotated[bool, typer.Option("--follow", help="Write them again after each change, until interrupted.")]


def trace(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FINGERPRINT|MODEL@vN",
            help=f"system_fingerprint of an answer, or {VERSION_FORMS}.",
        ),
    ],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trace the system_fingerprint of an answer, or a version, to its weights, data and base model."""
    stack = find_stack(state)
    model, number, variant, digest = find_answering(stack, what)
    if number == 0:
        _trace_base(stack, model, as_json)
        return
    version = asyncio.run(gather_version(stack, model, number))
    running = {each.target: each.runtime for fleet in asyncio.run(read_runtimes(stack)) for each in fleet.targets}
    runtimes = find_runtimes(asyncio.run(read_routes(stack)).get(model), number, running)
    chosen = [each for each in version.manifest.variants if variant is None or each.variant == variant]
    if digest is not None and not any(short_digest(each.manifest.digest).startswith(digest) for each in chosen):
        raise CommandError(
            f"the fingerprint {what} is unknown: {model}@v{number} has no variant {variant} with manifest {digest}…; "
            "it may come from another stack"
        )
    if as_json:
        variants = [each.model_dump(mode="json") for each in chosen]
        show_json({"target": what, "runtimes": runtimes, "variants": variants, **version_data(version)})
        return
    show_pairs(
        {
            "traced": what,
            "version": f"{model}@v{number} ({version.digest})",
            "release": version.manifest.release_id,
            **{f"variant {each.variant}": f"{each.manifest.digest} ({each.manifest.uri})" for each in chosen},
            **lineage(version),
            **{f"runtime of {target}": text for target, text in runtimes.items()},
            **{
                f"benchmark {each.target.variant}": f"{each.verdict} ({each.report.uri})" for each in version.benchmarks
            },
            **{
                f"deployed {each.epoch}": f"{each.target} {each.cause} {deployment_time(each)}"
                for each in version.deployments
            },
        }
    )


def find_runtimes(route: Route | None, number: int, running: Mapping[Target, Runtime | None]) -> dict[str, str]:
    """Return the runtime of each target of a version that a route names, with its digest, as text.

    A target that is loaded has the runtime that loaded it (`running`), any other one that of its release.
    """
    if route is None:
        return {}
    named = (route.active, route.canary.served if route.canary else None, route.previous, *route.history)
    served = [item for item in named if item is not None and item.target.version == number]
    return {
        str(item.target): describe_run(running.get(item.target), item.runtime)
        for item in served
        if running.get(item.target) is not None or item.runtime is not None
    }


def _trace_base(stack: StackAddress, model: str, as_json: bool) -> None:
    """Print the base model of the model's newest version: it is version 0."""
    store = open_store(stack)
    numbers = version_numbers(store, model)
    if not numbers:
        raise CommandError(f"{model} has no version yet, so its base model is not known; see `slipway base list`")
    base = find_version(store, model, numbers[-1]).manifest.base
    if as_json:
        show_json({"model": model, "version": 0, "base": base.model_dump(mode="json")})
        return
    show_pairs({"version": f"{model}@v0, the base model", **base.model_dump()})


def routes(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Only this model.")] = None,
    *,
    state: StateOption = None,
    as_json: JsonOption = False,
    export: ExportOption = None,
    to: ToOption = Path(),
    follow: FollowOption = False,
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
    routes = asyncio.run(read_routes(stack))
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
