"""Effects of silent endpoints on targets, and the public view of endpoints. Pure."""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from contracts.routes import Route
from contracts.runtimes import FleetRuntime, FleetRuntimes, RunningTarget
from contracts.vocabulary import Deployable, Runtime, Target
from decisions.serving.runtimes import why_no_runtime
from services.server_manager.domain.alerts import ITS_OWN, UNLOADABLE_AFTER
from services.server_manager.domain.reconcile import (
    Action,
    Desired,
    Held,
    Key,
    Limits,
    Memory,
    Phase,
    held_sizes,
    home_of,
    production_of,
)
from services.server_manager.domain.records import DrainedEndpoint, LoadedTarget, target_of

SILENT_SERVER = "its server does not answer"


def find_silent(
    routes: Mapping[str, Route],
    limits: Limits,
    down: Collection[str],
    homes: Mapping[str, str],
    attached: Callable[[Deployable], tuple[str, ...]],
) -> dict[str, str]:
    """Return why the server of a production target does not answer, by target name.

    Args:
        routes: routes by model.
        limits: the fleet's runtimes and attached models.
        down: endpoints that do not answer.
        homes: endpoint by target name.
        attached: returns the addresses of the attached servers that serve a target.
    """
    silent = {}
    for served in (served for route in routes.values() for served in production_of(route)):
        is_attached = served.target.model in limits.attached
        missing = None if is_attached else why_no_runtime(served.serving, limits.runtimes)
        if missing is not None:
            silent[str(served.target)] = missing[:1].lower() + missing[1:].removesuffix(".")
        elif home_of(served, homes) in down:
            silent[str(served.target)] = SILENT_SERVER
        elif is_attached and not attached(served):
            silent[str(served.target)] = "no attached server answers by this name"
    return silent


def find_undecided(routes: Mapping[str, Route], unclear: Collection[str], homes: Mapping[str, str]) -> frozenset[str]:
    """Return the models with a production target on one of the `unclear` endpoints."""
    return frozenset(
        model
        for model, route in routes.items()
        if any(home_of(served, homes) in unclear for served in production_of(route))
    )


def on_endpoints(
    desired: Mapping[str, Desired], endpoints: Collection[str], homes: Mapping[str, str]
) -> dict[str, Desired]:
    """Return the desired targets with their home on one of the endpoints."""
    return {name: target for name, target in desired.items() if home_of(target.deployable, homes) in endpoints}


def may_begin(action: Action, held: Mapping[str, Held], usable: Collection[str]) -> bool:
    """Return whether all engines of an action are usable: the action's own, and for a heal the current one.

    A load needs one engine only: a moved target was lost on its former endpoint.
    """
    concerned = {held[action.name].endpoint} if action.kind == "heal" and not action.is_copy else set()
    return concerned | {action.endpoint} <= set(usable)


def describe_endpoint_view(
    name: str,
    address: str,
    runtime: Runtime | None,
    replicas: Mapping[Key, Held],
    serving: Collection[Key],
    *,
    limits: Limits,
    answers: bool,
    drained: DrainedEndpoint | None = None,
    waits: str = "",
    fenced: bool = False,
    now: datetime | None = None,
) -> FleetRuntime:
    """Return the public view of an endpoint with its targets.

    Args:
        name: the endpoint's name.
        address: its address for gateways.
        runtime: its runtime.
        replicas: all replicas of the fleet.
        serving: the homes and due copies among them.
        limits: the endpoints and their memory.
        answers: whether the endpoint answers.
        drained: its drain, if any.
        waits: the obstacle to emptying it.
        fenced: whether its agent refuses this process.
        now: the start of its state, unless `keep_since` finds an earlier one.
    """
    memory = Memory(limits, held_sizes(replicas.values()))
    own = [(of, state) for (where, of), state in sorted(replicas.items()) if where == name]
    shown = [(target_of(of), state) for of, state in own if (name, of) in serving]
    return FleetRuntime(
        name=limits.endpoints.get(name, name),
        endpoint_name=name,
        endpoint=address,
        answers=answers,
        runtime=runtime,
        targets=tuple(_running(target, state, limits) for target, state in shown if target is not None),
        copies=tuple(of for of, state in own if (name, of) not in serving and state.phase is not Phase.FAILED),
        drained=drained is not None,
        drained_by=drained.actor if drained is not None else "",
        drain_reason=drained.reason if drained is not None else "",
        waits_for=waits,
        reserved_bytes=memory.taken[name],
        memory_budget_bytes=limits.pool_bytes(limits.pool(name)),
        free_bytes=max(0, memory.free(name)),
        fenced=fenced,
        since=now,
    )


def _running(target: Target, state: Held, limits: Limits) -> RunningTarget:
    return RunningTarget(
        target=target,
        phase=state.phase,
        runtime=state.ran_by,
        memory_bytes=state.memory_bytes,
        measured_bytes=limits.measured.get(state.digest, 0),
        given_up=is_given_up(state),
    )


def is_given_up(state: Held) -> bool:
    """Return whether a target's load has failed permanently, or too often (`RunningTarget.given_up`)."""
    is_unloadable = state.hopeless or (state.code in ITS_OWN and state.failures >= UNLOADABLE_AFTER)
    return state.phase is Phase.FAILED and is_unloadable


def keep_since(new: FleetRuntimes, stored: FleetRuntimes | None) -> FleetRuntimes:
    """Return the new view; endpoints in an unchanged state keep their stored `since`."""
    before = {endpoint.endpoint_name: endpoint for endpoint in stored.runtimes} if stored is not None else {}

    def kept(endpoint: FleetRuntime) -> FleetRuntime:
        known = before.get(endpoint.endpoint_name)
        if known is None or known.state != endpoint.state:
            return endpoint
        return endpoint.model_copy(update={"since": known.since})

    return FleetRuntimes(runtimes=tuple(kept(endpoint) for endpoint in new.runtimes))


def as_loaded(name: str, held: Held) -> LoadedTarget | None:
    """Return a held target in the form of the record; None for a foreign model."""
    target = target_of(name)
    if target is None:
        return None
    return LoadedTarget(
        target=target,
        manifest_digest=held.digest,
        phase=held.phase,
        memory_bytes=held.memory_bytes,
        reason=held.reason,
    )
