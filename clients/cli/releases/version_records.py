"""Reads of versions: manifests and deployments in the store, records of releases."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from nats.js import JetStreamContext

from clients.cli.connection import StackAddress
from clients.cli.output import CommandError, Exit
from clients.cli.reading import RecordsOfModels
from clients.cli.releases.names import Name
from clients.cli.releases.recorded_releases import Release, recorded_release, recorded_releases
from contracts.facts import VariantBenchmarked
from contracts.manifests import BaseManifest, DeploymentRecord, VersionManifest
from contracts.provenance.attestations import AttesterKey
from contracts.routes import Route
from contracts.vocabulary import Target
from shared.errors import SlipwayError
from shared.storage.blobs import Store


@dataclass(frozen=True)
class Version:
    """An immutable version, its deployments (oldest first), and its benchmarks."""

    manifest: VersionManifest
    digest: str
    deployments: tuple[DeploymentRecord, ...] = ()
    benchmarks: tuple[VariantBenchmarked, ...] = ()


def open_store(stack: StackAddress) -> Store:
    """Return the store of a stack.

    Raises:
        CommandError: The store does not answer.
    """
    store = Store(stack.connection)
    try:
        store.reachable()
    except SlipwayError as error:
        raise CommandError(
            f"the object store at {stack.connection.s3_endpoint} does not answer ({error.reason}); see `slipway ps`",
            Exit.UNREACHABLE,
        ) from error
    return store


def attester_keys(stack: StackAddress) -> tuple[AttesterKey, ...]:
    """Return the public keys of attesters; raise CommandError if they cannot be read."""
    from shared.provenance.envelopes import Trust  # most commands verify nothing

    try:
        return Trust.from_settings(stack.connection).keys()
    except (SlipwayError, ValueError) as error:
        raise CommandError(f"the keys of attesters are not known: {error}") from error


def version_numbers(store: Store, model: str) -> list[int]:
    """Return the numbers of a model's registered versions, ascending."""
    matches = (re.search(r"/(\d+)/manifest\.json$", key) for key in store.keys(f"versions/{model}/"))
    return sorted(int(match[1]) for match in matches if match)


def find_version(store: Store, model: str, number: int) -> Version:
    """Return a version and its deployment records.

    Raises:
        CommandError: The version is not registered.
    """
    version = look_up_version(store, model, number)
    if version is None:
        known = ", ".join(f"v{each}" for each in version_numbers(store, model)) or "none"
        raise CommandError(f"{model} has no version {number}, it has {known}; see `slipway versions {model}`")
    return version


def look_up_version(store: Store, model: str, number: int) -> Version | None:
    """Return a version and its deployment records; None if the version is not registered."""
    key = f"versions/{model}/{number}/manifest.json"
    data = store.find(key)
    if data is None:
        return None
    return Version(
        VersionManifest.model_validate_json(data),
        store.ref_to(key).digest,
        read_deployments(store, f"versions/{model}/{number}/deployments/"),
    )


def read_deployments(store: Store, prefix: str) -> tuple[DeploymentRecord, ...]:
    """Return the deployment records below a prefix, such as `versions/MODEL/`, oldest first."""
    records = [store.find(key) for key in store.keys(prefix) if "/deployments/" in key]
    deployments = [DeploymentRecord.model_validate_json(record) for record in records if record]
    return tuple(sorted(deployments, key=lambda record: (record.deployed_at, record.epoch)))


def course_of(records: Iterable[DeploymentRecord], number: int) -> list[tuple[DeploymentRecord, Target | None]]:
    """Return the deployments of a version and of its successors, each with the target that was active before.

    Args:
        records: The deployments of all versions of the model, oldest first.
        number: Number of the version.
    """
    course: list[tuple[DeploymentRecord, Target | None]] = []
    active: Target | None = None
    for record in records:
        takes_over = record.weight_ratio == 1.0 and record.target != active
        if record.target.version == number or (takes_over and active is not None and active.version == number):
            course.append((record, active))
        active = record.target if takes_over else active
    return course


def list_bases(store: Store) -> list[BaseManifest]:
    """Return the manifests of the imported base models."""
    manifests = (store.find(key) for key in store.keys("bases/"))
    return [BaseManifest.model_validate_json(data) for data in manifests if data]


async def read_routes(js: JetStreamContext) -> dict[str, Route]:
    """Return the production route of each model."""
    return await RecordsOfModels(js, "routes", Route).all()


async def read_release(js: JetStreamContext, model: str, number: int, version: Version | None) -> Release | None:
    """Return the release of a version; None without a record."""
    if version is not None:
        return await recorded_release(js, model, version.manifest.release_id)
    releases = await recorded_releases(js, Name(model, number))
    return next((each for each in releases if each.progress.version == number), None)


def with_benchmarks(version: Version, release: Release | None) -> Version:
    """Return the version with the benchmarks of its release."""
    return version if release is None else replace(version, benchmarks=release.benchmarks)
