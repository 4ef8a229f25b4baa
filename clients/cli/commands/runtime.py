"""`slipway runtime release`: releases of models from one runtime of the serving fleet to another."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from clients.cli.connection import StackAddress, find_stack, on_bus, sender_of
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, show_json, show_line
from clients.cli.parsing import check_model
from clients.cli.reading import RecordsOfModels
from clients.cli.releases.recorded_releases import read_releases
from clients.cli.releases.runtimes import plan_release, read_fleets
from clients.cli.releases.version_records import find_version, open_store, read_routes
from clients.training.publish import envelope
from contracts.facts import CheckpointReady
from contracts.policy import ReleasePolicy
from contracts.routes import Route
from contracts.runtimes import FleetRuntime
from decisions.serving.runtimes import SILENT
from decisions.serving.settings import describe_settings
from shared.messaging.publishing import publish_event

runtime_app = typer.Typer(help="Release models from one runtime of the serving fleet to another.", no_args_is_help=True)


@runtime_app.command("release")
def release_command(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Runtime that is to serve; default names the default.")],
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="MODEL", help="Model to release; repeatable.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every model that serves.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Publish nothing; show what would be published.")] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish the checkpoint of each model's active version for another runtime: a release like any other.

    The active version stays loaded on its own runtime until the release is promoted, and as the previous one after it.
    """
    for each in model or []:
        check_model(each)
    if bool(model) == every:
        raise CommandError("name each model with --model, or all of them with --all", Exit.USAGE)
    stack = find_stack(state)
    results = asyncio.run(_release(stack, name, model, dry_run=dry_run))
    if as_json:
        show_json(results)
        return
    for result in results:
        show_line(str(result["message"]))


async def _release(stack: StackAddress, name: str, models: list[str] | None, *, dry_run: bool) -> list[dict[str, Any]]:
    async with on_bus(stack) as js:
        fleets, routes = await read_fleets(js), await read_routes(js)
    check_runtime(name, [runtime for fleet in fleets for runtime in fleet.endpoints])
    check_current(name, [fleet.name for fleet in fleets if not fleet.is_current])
    serving = sorted(model for model, route in routes.items() if route.active is not None)
    planned = {model: await _plan(stack, name, model, routes.get(model)) for model in models or serving}
    if not planned:
        raise CommandError("no target serves production yet; see `slipway status`")
    results = []
    for model, plan in planned.items():
        if isinstance(plan, str):
            results.append({"model": model, "published": False, "message": f"{model}: nothing published: {plan}"})
            continue
        event = envelope(plan, sender_of(stack))
        if not dry_run:
            async with on_bus(stack) as js:
                await publish_event(js, event)
        message = describe_plan(plan, name, dry_run=dry_run)
        results.append({"model": model, "published": not dry_run, "event_id": event.id, "message": message})
    return results


def check_runtime(name: str, runtimes: list[FleetRuntime]) -> None:
    """Raise CommandError unless the fleet has a runtime, and it answers."""
    named = [runtime for runtime in runtimes if runtime.name == name]
    if not named:
        known = ", ".join(dict.fromkeys(runtime.name for runtime in runtimes)) or "none that is known"
        raise CommandError(
            f"the serving fleet has no runtime {name}; it has {known}. Add it with `slipway up --runtime`, or "
            "SERVER_MANAGER_RUNTIMES",
            Exit.USAGE,
        )
    if not any(runtime.answers for runtime in named):
        addresses = ", ".join(runtime.endpoint for runtime in named)
        raise CommandError(f"the runtime {name} does not answer at {addresses}; see `slipway ps`")


def check_current(name: str, idle: Sequence[str]) -> None:
    """Raise CommandError if a server-manager that lists runtimes does not run: its list may be outdated."""
    if idle:
        raise CommandError(
            f"the server-manager of the fleet {', '.join(idle)} has not renewed its lease for "
            f"{SILENT.total_seconds():g} s, so it is not known whether {name} answers; see `slipway ps`, and try again "
            "when server-manager is ready"
        )


async def _plan(stack: StackAddress, name: str, model: str, route: Route | None) -> CheckpointReady | str:
    if route is None or route.active is None:
        raise CommandError(f"no target serves {model}; see `slipway routes`")
    number = route.active.target.version
    if number == 0:
        return "it serves its base model, which has no checkpoint; publish one with `slipway publish --runtime`"
    version = find_version(open_store(stack), model, number)
    async with on_bus(stack) as js:
        stored = await RecordsOfModels(js, "policies", ReleasePolicy).get(model)
        releases = await read_releases(js, model)
    return plan_release(version.manifest, name, releases, stored)


def describe_plan(fact: CheckpointReady, name: str, *, dry_run: bool) -> str:
    """Return the published or planned checkpoint as text, with the command to follow its release."""
    did = "would publish" if dry_run else "published"
    what = f"{', '.join(fact.variants)}; {describe_settings(fact.serving) or 'no serving settings'}"
    return (
        f"{did} the checkpoint of {fact.model} (run {fact.training.run_id}, attempt {fact.attempt}) for the runtime "
        f"{name} ({what}); follow the release with `slipway status {fact.model} --follow`"
    )
