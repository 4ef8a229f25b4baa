"""Read the runtimes of the serving fleet, and plan the release of a version's checkpoint on another one."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from nats.js import JetStreamContext

from clients.cli.connection import StackAddress, on_bus
from clients.cli.reading import RecordsOfModels, last_message
from clients.cli.releases.recorded_releases import Release
from clients.cli.views.render import duration
from contracts.facts import CheckpointReady
from contracts.manifests import VersionManifest
from contracts.policy import ReleasePolicy
from contracts.runtimes import DEFAULT_RUNTIME, LEADER_SUFFIX, RUNTIMES_SUFFIX, FleetRuntime, FleetRuntimes
from contracts.vocabulary import Runtime, ServingSettings
from decisions.serving.runtimes import runtime_name
from decisions.serving.settings import combine
from shared.runtime.clock import SystemClock

LEASE_POLL_S = 0.25
RENEWED_WITHIN_S: Final = 5.0
"""A server-manager renews its lease every 2 s."""
NEW_S: Final = 6.0
"""A lease that the bus stored so lately is taken for one that is renewed: after so long another process takes it."""


@dataclass(frozen=True)
class ListedFleet:
    """A fleet as its server-manager last saw it.

    Attributes:
        name: The name of the fleet.
        endpoints: Its endpoints.
        is_current: Whether a server-manager of the fleet renews its lease, so that they are as they are now.
        reported_at: When one renewed it last if none does any more, by the clock of the bus; None if that is not known.
    """

    name: str
    endpoints: tuple[FleetRuntime, ...]
    is_current: bool = True
    reported_at: datetime | None = None

    def describe_state(self, state: str) -> str:
        """Return the state of an endpoint, marked as known of before if no server-manager reports."""
        return state if self.is_current else f"last known: {state}"

    def describe_silence(self, now: datetime) -> str | None:
        """Return a sentence that no server-manager reports; None if one does."""
        if self.is_current:
            return None
        if self.reported_at is None:
            ago = f"no server-manager of the fleet {self.name} reports"
        else:
            since = duration(max(0.0, (now - self.reported_at).total_seconds()))
            ago = f"the server-manager of the fleet {self.name} last reported {since} ago"
        return f"{ago}: what is listed is what was known last; see `slipway ps`"


@dataclass(frozen=True)
class _Lease:
    """The newest renewal of a fleet's lease."""

    revision: int
    stored_at: datetime
    has_holder: bool


async def read_runtimes(stack: StackAddress) -> list[FleetRuntime]:
    """Return the runtimes of all fleets, as their server-managers last saw them."""
    async with on_bus(stack) as js:
        fleets = await _read_fleets(js)
    return [runtime for _, fleet in sorted(fleets.items()) for runtime in fleet.runtimes]


async def read_fleets(stack: StackAddress) -> list[ListedFleet]:
    """Return all fleets by name, each with whether its server-manager reports."""
    async with on_bus(stack) as js:
        return await list_fleets(js, RENEWED_WITHIN_S)


async def list_fleets(js: JetStreamContext, within_s: float) -> list[ListedFleet]:
    """Return all fleets by name, each with whether its server-manager reports.

    Args:
        js: The bus.
        within_s: How long a lease is watched that was not renewed lately by the clock of the bus.
    """
    fleets = await _read_fleets(js)
    return list(await asyncio.gather(*(_assess(js, *listed, within_s) for listed in sorted(fleets.items()))))


async def _assess(js: JetStreamContext, name: str, listed: FleetRuntimes, within_s: float) -> ListedFleet:
    lease = await _read_lease(js, name)
    age_s = (SystemClock().now() - lease.stored_at).total_seconds() if lease is not None else -1.0
    is_new = lease is not None and lease.has_holder and 0 <= age_s < NEW_S
    is_current = is_new or await _is_renewed(js, name, within_s)
    reported_at = None if is_current or lease is None else lease.stored_at
    return ListedFleet(name, listed.runtimes, is_current, reported_at)


async def find_idle_fleets(js: JetStreamContext, within_s: float) -> list[str]:
    """Return the fleets whose list of runtimes is not kept up to date: no process renews their lease within the time.

    A list is written when it changes, so its own age says nothing; the lease is renewed every 2 s. No clocks are
    compared.
    """
    fleets = list(await _read_fleets(js))
    renewed = await asyncio.gather(*(_is_renewed(js, fleet, within_s) for fleet in fleets))
    return [fleet for fleet, is_renewed in zip(fleets, renewed, strict=True) if not is_renewed]


async def _read_fleets(js: JetStreamContext) -> dict[str, FleetRuntimes]:
    records = await RecordsOfModels(js, "servers", FleetRuntimes).matching(f"*{RUNTIMES_SUFFIX}")
    return {key.removesuffix(RUNTIMES_SUFFIX): fleet for key, fleet in records.items()}


async def _is_renewed(js: JetStreamContext, fleet: str, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    first = await _read_lease(js, fleet)
    while first is not None and first.has_holder and time.monotonic() < deadline:
        await asyncio.sleep(LEASE_POLL_S)
        now = await _read_lease(js, fleet)
        if now is None or now.revision != first.revision:
            return now is not None and now.has_holder
    return False


async def _read_lease(js: JetStreamContext, fleet: str) -> _Lease | None:
    """Return the newest renewal of a fleet's lease; None if there is none."""
    subject = f"$KV.servers.{fleet}{LEADER_SUFFIX}"
    message = await last_message(js, "KV_servers", subject)
    if message is None or not message.data or message.at is None:
        return None
    return _Lease(message.sequence, message.at, bool(json.loads(message.data).get("holder")))


def describe_run(now: Runtime | None, at_release: Runtime | None) -> str:
    """Return what runs a target, as text; what ran it at its release as well, where that was another runtime."""
    if now is None or now.digest is None or at_release is None or now.digest == at_release.digest:
        return str(now or at_release or "not known")
    return f"{now}; at its release {at_release}"


def plan_release(
    version: VersionManifest, runtime: str, releases: Sequence[Release], stored: ReleasePolicy | None
) -> CheckpointReady | str:
    """Return the checkpoint of a version with another runtime, to be published; or why nothing is to be published.

    Args:
        version: the version that serves.
        runtime: name of the other runtime.
        releases: those of the model: what was requested for the version, and how often for this runtime.
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
