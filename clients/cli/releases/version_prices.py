"""The costs of a version's release and of its memory, by the price in its benchmarks."""

from collections.abc import Iterable, Iterator

from clients.cli.releases.version_records import Version
from contracts.manifests import BenchmarkReport, MergedManifest, VariantManifest
from contracts.runtimes import FleetRuntime
from decisions.releases.prices import held_memory, machine_time
from shared.errors import Permanent
from shared.storage.blobs import Store


def price_per_hour(version: Version) -> float | None:
    """Return the highest price per hour in the benchmarks of a version; None without a price."""
    prices = (each.machine_price_per_hour for each in version.benchmarks)
    return max((price for price in prices if price is not None), default=None)


def release_price(store: Store, version: Version, per_hour: float) -> float | None:
    """Return the price of the machine time for merge, variants and benchmarks of a version.

    The time counts as time of a serving machine. None if a manifest was removed.
    """
    try:
        return machine_time(per_hour, sum(_seconds(store, version)))
    except Permanent:
        return None


def _seconds(store: Store, version: Version) -> Iterator[float]:
    yield MergedManifest.model_validate_json(store.get(version.manifest.merged)).duration_s
    for variant in version.manifest.variants:
        yield VariantManifest.model_validate_json(store.get(variant.manifest)).duration_s
    for benchmark in version.benchmarks:
        yield BenchmarkReport.model_validate_json(store.get(benchmark.report)).duration_s


def hourly_price(endpoints: Iterable[FleetRuntime], version: Version, per_hour: float) -> float | None:
    """Return the price per hour of the memory that a version reserves; None if it is loaded nowhere."""
    model, number = version.manifest.model, version.manifest.version
    prices = [
        held_memory(per_hour, running.memory_bytes, endpoint.memory_budget_bytes)
        for endpoint in endpoints
        for running in endpoint.targets
        if (running.target.model, running.target.version) == (model, number)
    ]
    known = [price for price in prices if price is not None]
    return sum(known) if known else None


def describe_prices(per_hour: float, made: float | None, held: float | None) -> str:
    """Return the known costs of a version as a line."""
    known = [
        *([f"making and measuring it cost {made:.4g}"] if made is not None else []),
        *([f"keeping it loaded costs {held:.4g} an hour"] if held is not None else []),
    ]
    return f"at {per_hour:g} an hour for a machine: {', '.join(known) or 'nothing more is known'}"
