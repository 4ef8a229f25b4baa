"""Read the runtimes of the serving fleet, and plan the release of a version's checkpoint on another one."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy

from clients.cli.connection import StackAddress, connected
from clients.cli.reading import RecordsOfModels, read_messages
from clients.cli.views import comparison
from contracts.envelope import Event
from contracts.facts import CheckpointReady, ReleaseOpened
from contracts.manifests import VersionManifest
from contracts.policy import ReleasePolicy
from contracts.routes import Route, ServedTarget
from contracts.runtimes import DEFAULT_RUNTIME, RUNTIMES_SUFFIX, FleetRuntime, FleetRuntimes
from contracts.vocabulary import Runtime, ServingSettings
from decisions.runtimes import runtime_name
from decisions.serving_settings import combine

LEASE_POLL_S = 0.25


async def read_runtimes(stack: StackAddress) -> list[FleetRuntime]:
    """Return the runtimes of all fleets, as their server-managers last saw them."""
    async with connected(stack) as client:
        fleets = await _read_fleets(client.jetstream(timeout=10))
    return [runtime for _, fleet in sorted(fleets.items()) for runtime in fleet.runtimes]


async def find_idle_fleets(js: JetStreamContext, within_s: float) -> list[str]:
    """Return the fleets whose list of runtimes is not kept up to date: no process renews their lease within the time.

    A list is written when it changes, so its own age says nothing; the lease is renewed every 2 s. No clocks are
    compared.
    """
    fleets = [key.removesuffix(RUNTIMES_SUFFIX) for key in await _read_fleets(js)]
    renewed = await asyncio.gather(*(_is_renewed(js, fleet, within_s) for fleet in fleets))
    return [fleet for fleet, is_renewed in zip(fleets, renewed, strict=True) if not is_renewed]


async def _read_fleets(js: JetStreamContext) -> dict[str, FleetRuntimes]:
    return await RecordsOfModels(js, "servers", FleetRuntimes).matching(f"*{RUNTIMES_SUFFIX}")


async def _is_renewed(js: JetStreamContext, fleet: str, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    first = await _read_lease(js, fleet)
    while first is not None and time.monotonic() < deadline:
        await asyncio.sleep(LEASE_POLL_S)
        now = await _read_lease(js, fleet)
        if now != first:
            return now is not None
    return False


async def _read_lease(js: JetStreamContext, fleet: str) -> int | None:
    """Return the revision of a fleet's lease; None while it has no holder."""
    subject = f"$KV.servers.{fleet}.leader"
    messages = await read_messages(js, "KV_servers", subject, most=1, deliver_policy=DeliverPolicy.LAST)
    if not messages or not json.loads(messages[-1].data or b"{}").get("holder"):
        return None
    return int(messages[-1].metadata.sequence.stream)


def served_by(route: Route | None) -> list[tuple[str, ServedTarget]]:
    """Return the targets that a route keeps loaded, each with its role."""
    if route is None:
        return []
    trial = route.canary.served if route.canary is not None and route.canary.weight_ratio > 0.0 else None
    roles = {"active": route.active, "canary": trial, "shadow": route.shadowed, "previous": route.previous}
    return [(role, served) for role, served in roles.items() if served is not None]


def describe_run(now: Runtime | None, at_release: Runtime | None) -> str:
    """Return what runs a target, as text; what ran it at its release as well, where that was another runtime."""
    if now is None or now.digest is None or at_release is None or now.digest == at_release.digest:
        return str(now or at_release or "not known")
    return f"{now}; at its release {at_release}"


def plan_release(
    version: VersionManifest, runtime: str, events: Sequence[Event[Any]], stored: ReleasePolicy | None
) -> CheckpointReady | str:
    """Return the checkpoint of a version with another runtime, to be published; or why nothing is to be published.

    Args:
        version: the version that serves.
        runtime: name of the other runtime.
        events: the log of the model: what was requested when the version was released, and how often for this runtime.
        stored: the stored policy of the model; without one the release has the policy of the version's own release.
    """
    name = f"{version.model}@v{version.version}"
    if runtime_name(version.serving) == runtime:
        return f"{name} is served by the runtime {runtime} already"
    own = comparison.find_release(events, version.model, version.version)
    # What the release declined, a manifest does not say: it would be detected again.
    settings = combine(own.serving if own is not None else None, version.serving) or ServingSettings()
    chosen = None if runtime == DEFAULT_RUNTIME else runtime
    serving = combine(settings.model_copy(update={"runtime": chosen}), None)
    same = [
        event.data
        for event in events
        if isinstance(event.data, ReleaseOpened)
        and (event.data.weights.ref.digest, event.data.base.digest) == (version.weights.ref.digest, version.base.digest)
        and combine(event.data.serving, None) == serving
    ]
    open_ids = [opened.release_id for opened in same if comparison.find_end(events, opened.release_id) is None]
    if open_ids:
        return f"the release {open_ids[-1]} of {name} for the runtime {runtime} is in progress"
    return CheckpointReady(
        model=version.model,
        base=version.base,
        weights=version.weights,
        training=version.training,
        evals=version.evals,
        calibration=own.calibration if own is not None else None,
        evaluation=own.evaluation if own is not None else None,
        variants=own.variants if own is not None else tuple(each.variant for each in version.variants),
        policy=own.policy if own is not None and stored is None else None,
        attempt=1 + max((opened.attempt for opened in same), default=0),
        serving=serving,
    )
