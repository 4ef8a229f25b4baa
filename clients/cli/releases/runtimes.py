"""Read the runtimes of the serving fleet, and plan the release of a version's checkpoint on another one."""

from collections.abc import Sequence
from datetime import datetime

from nats.js import JetStreamContext

from clients.cli.reading import RecordsOfModels, last_message
from clients.cli.releases.recorded_releases import Release
from clients.cli.views.render import duration
from contracts.facts import CheckpointReady
from contracts.manifests import VersionManifest
from contracts.policy import ReleasePolicy
from contracts.runtimes import DEFAULT_RUNTIME, LEADER_SUFFIX, RUNTIMES_SUFFIX, FleetRuntime, FleetRuntimes
from contracts.vocabulary import ServingSettings
from decisions.serving.runtimes import ListedFleet, listed_fleet, runtime_name
from decisions.serving.settings import combine
from shared.runtime.clock import SystemClock


def describe_silence(fleet: ListedFleet, now: datetime) -> str | None:
    """Return a sentence that no server-manager reports on a fleet; None if it is current."""
    if fleet.is_current:
        return None
    ago = f"no server-manager of the fleet {fleet.name} reports"
    if fleet.reported_at is not None:
        since = duration(max(0.0, (now - fleet.reported_at).total_seconds()))
        ago = f"the server-manager of the fleet {fleet.name} last reported {since} ago"
    return f"{ago}: what is listed is what was known last; see `slipway ps`"


async def read_runtimes(js: JetStreamContext) -> list[FleetRuntime]:
    """Return the runtimes of all fleets, as their server-managers last saw them."""
    return [endpoint for fleet in await read_fleets(js) for endpoint in fleet.endpoints]


async def read_fleets(js: JetStreamContext) -> list[ListedFleet]:
    """Return all fleets by name, each with whether its server-manager reports."""
    records = await RecordsOfModels(js, "servers", FleetRuntimes).matching(f"*{RUNTIMES_SUFFIX}")
    fleets, now = [], SystemClock().now()
    for key, fleet in sorted(records.items()):
        name = key.removesuffix(RUNTIMES_SUFFIX)
        lease = await last_message(js, "KV_servers", f"$KV.servers.{name}{LEADER_SUFFIX}")
        renewed_at = lease.at if lease is not None and lease.data else None
        fleets.append(listed_fleet(name, fleet, renewed_at, now))
    return fleets


def plan_release(
    version: VersionManifest, runtime: str, releases: Sequence[Release], stored: ReleasePolicy | None
) -> CheckpointReady | str:
    """Return the checkpoint to publish for a version on another runtime, or the reason to publish none.

    Args:
        version: the version that serves.
        runtime: name of the other runtime.
        releases: the model's releases, with the version's request and earlier requests for this runtime.
        stored: the stored policy of the model; without one the release has the policy of the version's own release.
    """
    name = f"{version.model}@v{version.version}"
    if runtime_name(version.serving) == runtime:
        return f"{name} is served by the runtime {runtime} already"
    released = [(release.opened, release.progress.outcome) for release in releases if release.opened is not None]
    own = next((opened for opened, _ in released if opened.release_id == version.release_id), None)
    # What the release declined, a manifest does not say: it would be detected again.
    settings = combine(own.serving if own is not None else None, version.serving) or ServingSettings()
    chosen = None if runtime == DEFAULT_RUNTIME else runtime
    serving = combine(settings.model_copy(update={"runtime": chosen}), None)
    same = [
        (opened, outcome)
        for opened, outcome in released
        if (opened.weights.ref.digest, opened.base.digest) == (version.weights.ref.digest, version.base.digest)
        and combine(opened.serving, None) == serving
    ]
    open_ids = [opened.release_id for opened, outcome in same if outcome is None]
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
        attempt=1 + max((opened.attempt for opened, _ in same), default=0),
        serving=serving,
    )
