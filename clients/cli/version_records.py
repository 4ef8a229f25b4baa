"""What the store and the log hold about versions, gathered for `versions`, `show` and `trace`."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from clients.cli.connection import Place, connected
from clients.cli.event_log import read_history
from clients.cli.output import Exit, Refused
from contracts.envelope import Event
from contracts.facts import VariantBenchmarked
from contracts.manifests import BaseManifest, DeploymentRecord, VariantManifest, VersionManifest
from contracts.routes import Route
from contracts.vocabulary import ArtifactRef
from shared.errors import SlipwayError
from shared.storage.blobs import Store
from shared.storage.kv import Bucket

VERSION = re.compile(r"^(?P<model>[a-z0-9][a-z0-9-]*)@v?(?P<version>\d+)$")
FINGERPRINT = re.compile(
    r"^(?:fp_)?(?P<model>[a-z0-9][a-z0-9-]*)\.v(?P<version>\d+)\.(?P<variant>bf16|int8|gptq-int4|awq-int4)"
    r"(?:\.(?P<digest>[0-9a-f]{8}))?$"
)


@dataclass(frozen=True)
class Version:
    """An immutable version, what was deployed of it, and how it was benchmarked."""

    manifest: VersionManifest
    digest: str
    deployments: tuple[DeploymentRecord, ...] = ()
    benchmarks: tuple[VariantBenchmarked, ...] = ()


def parse_version(text: str) -> tuple[str, int]:
    """Read `MODEL@vN`.

    Raises:
        Refused: it is none.
    """
    found = VERSION.match(text)
    if found is None:
        raise Refused(f"{text!r} is no version; write MODEL@vN, for example support-bot@v2", Exit.USAGE)
    return found["model"], int(found["version"])


def open_store(place: Place) -> Store:
    """Return the store of a stack, checked to answer.

    Raises:
        Refused: it does not.
    """
    store = Store(place.connection)
    try:
        store.reachable()
    except SlipwayError as error:
        raise Refused(
            f"the object store at {place.connection.s3_endpoint} does not answer ({error.reason}); see `slipway ps`",
            Exit.UNREACHABLE,
        ) from error
    return store


def version_numbers(store: Store, model: str) -> list[int]:
    """List the registered versions of a model, in ascending order."""
    found = (re.search(r"/(\d+)/manifest\.json$", key) for key in store.keys(f"versions/{model}/"))
    return sorted(int(match[1]) for match in found if match)


def find_version(store: Store, model: str, number: int) -> Version:
    """Read a version and its deployment records.

    Raises:
        Refused: it is not registered.
    """
    found = look_up_version(store, model, number)
    if found is None:
        raise Refused(f"{model} has no version {number}; see `slipway versions {model}`")
    return found


def look_up_version(store: Store, model: str, number: int) -> Version | None:
    """Read a version and its deployment records; None where it is not registered."""
    key = f"versions/{model}/{number}/manifest.json"
    data = store.find(key)
    if data is None:
        return None
    records = [store.find(one) for one in store.keys(f"versions/{model}/{number}/deployments/")]
    deployments = [DeploymentRecord.model_validate_json(record) for record in records if record]
    return Version(
        VersionManifest.model_validate_json(data),
        store.ref_to(key).digest,
        tuple(sorted(deployments, key=lambda record: (record.deployed_at, record.epoch))),
    )


def kept_variant(store: Store, ref: ArtifactRef) -> VariantManifest | None:
    """Read the manifest of a variant; None where it is no longer kept."""
    if store.find(store.key_of(ref.uri)) is None:
        return None
    return VariantManifest.model_validate_json(store.get(ref))


def list_bases(store: Store) -> list[BaseManifest]:
    """List the imported base models."""
    found = (store.find(key) for key in store.keys("bases/"))
    return [BaseManifest.model_validate_json(data) for data in found if data]


async def read_routes(place: Place) -> dict[str, Route]:
    """Read what serves production, per model."""
    async with connected(place) as client:
        entries = await Bucket(client.jetstream(timeout=10), "routes", Route).all()
    return {key: entry.value for key, entry in entries.items()}


async def read_events(place: Place, model: str | None) -> list[Event[Any]]:
    """Read the log."""
    async with connected(place) as client:
        return [one.event for one in await read_history(client.jetstream(timeout=10), model)]


def benchmarks_in(events: Sequence[Event[Any]], model: str, number: int) -> tuple[VariantBenchmarked, ...]:
    """Pick the benchmarks of a version: the last one of each variant, attempt and measurement of its quality."""
    found = {
        (event.data.target.variant, event.data.attempt, event.data.measurement_number): event.data
        for event in events
        if isinstance(event.data, VariantBenchmarked)
        and (event.data.target.model, event.data.target.version) == (model, number)
    }
    return tuple(found.values())


async def gather_version(place: Place, model: str, number: int) -> Version:
    """Read everything about a version."""
    store = await asyncio.to_thread(open_store, place)
    version = await asyncio.to_thread(find_version, store, model, number)
    return with_benchmarks(version, await read_events(place, model))


def with_benchmarks(one: Version, events: Sequence[Event[Any]]) -> Version:
    """Add to a version what the log says about how it was benchmarked."""
    return replace(one, benchmarks=benchmarks_in(events, one.manifest.model, one.manifest.version))
