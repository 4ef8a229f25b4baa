"""Which targets an engine that does not answer concerns: each runtime of a fleet has an engine of its own."""

from collections.abc import Collection, Mapping

from contracts.routes import Route
from contracts.runtimes import FleetRuntime, RunningTarget
from contracts.vocabulary import Deployable, Runtime
from decisions.runtimes import runtime_name, why_no_runtime
from services.server_manager.domain.reconcile import Action, Desired, Held
from services.server_manager.domain.records import target_of

SILENT_SERVER = "its server does not answer"


def find_silent(routes: Mapping[str, Route], runtimes: Collection[str], down: Collection[str]) -> dict[str, str]:
    """Return why the server of a target of production does not answer, by the target's name.

    Args:
        routes: what production needs, by model.
        runtimes: the runtimes that the fleet has.
        down: those that do not answer.
    """
    silent = {}
    for served in (served for route in routes.values() for served in _production(route)):
        missing = why_no_runtime(served.serving, runtimes)
        if missing is not None:
            silent[str(served.target)] = missing[:1].lower() + missing[1:].removesuffix(".")
        elif runtime_name(served.serving) in down:
            silent[str(served.target)] = SILENT_SERVER
    return silent


def find_undecided(routes: Mapping[str, Route], unclear: Collection[str]) -> frozenset[str]:
    """Return the models with a target of production on a runtime of which it is not clear yet whether it answers."""
    return frozenset(
        model
        for model, route in routes.items()
        if any(runtime_name(served.serving) in unclear for served in _production(route))
    )


def _production(route: Route) -> list[Deployable]:
    trial = route.canary.served if route.canary is not None and route.canary.weight_ratio > 0 else None
    return [served for served in (route.active, trial, route.previous) if served is not None]


def on_runtimes(desired: Mapping[str, Desired], runtimes: Collection[str]) -> dict[str, Desired]:
    """Return the targets that belong on one of these runtimes."""
    return {name: target for name, target in desired.items() if _home(target.deployable) in runtimes}


def may_begin(action: Action, held: Mapping[str, Held], usable: Collection[str]) -> bool:
    """Return whether every engine that an action concerns can be used: where the target is, and where it belongs."""
    concerned = {held[action.name].runtime} if action.name in held else set()
    if action.deployable is not None:
        concerned.add(_home(action.deployable))
    return concerned <= set(usable)


def _home(deployable: Deployable) -> str:
    return runtime_name(deployable.serving)


def describe_runtime(
    name: str, endpoint: str, runtime: Runtime | None, held: Mapping[str, Held], *, answers: bool
) -> FleetRuntime:
    """Return a runtime with the targets that it holds, as others may see it."""
    running = [
        RunningTarget(target=target, phase=state.phase, runtime=state.ran_by)
        for held_name, state in sorted(held.items())
        if state.runtime == name and (target := target_of(held_name)) is not None
    ]
    return FleetRuntime(name=name, endpoint=endpoint, answers=answers, runtime=runtime, targets=tuple(running))
