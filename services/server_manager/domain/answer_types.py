"""The answers to orders, and the checks that staging and traffic orders share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from contracts.codes import Code
from contracts.envelope import derived_id
from contracts.facts import TrafficRequested
from contracts.vocabulary import Deployable
from decisions.serving.runtimes import why_no_runtime
from services.server_manager.domain.reconcile import Held, Limits, Memory, Phase
from services.server_manager.domain.records import Lease, TrafficOrder
from services.server_manager.domain.servable_variants import why_not_servable


@dataclass(frozen=True)
class GrantLease:
    """A grant of the lease to a waiting order."""

    lease_id: str


@dataclass(frozen=True)
class ReturnLease:
    """Requeue the held lease: an endpoint that it needs does not answer, and another order can be granted."""

    lease_id: str


@dataclass(frozen=True)
class FailLease:
    """A refusal of a staging order."""

    lease: Lease
    code: Code
    reason: str
    details: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class AnnounceStaged:
    """An announcement that candidate and baseline generate, after `load_s` seconds."""

    lease: Lease
    load_s: float = 0.0


@dataclass(frozen=True)
class RefuseOrder:
    """A refusal of a traffic order."""

    order: TrafficOrder
    code: Code
    reason: str


@dataclass(frozen=True)
class ApplyOrder:
    """An edit of the route by a traffic order with ready targets."""

    order: TrafficOrder


@dataclass(frozen=True)
class EndTrial:
    """End the canary or shadow that an order began although its release has ended."""

    order: TrafficOrder

    @property
    def cause_id(self) -> str:
        """Id of the edit that ends the trial."""
        return derived_id(self.order.order_id, TrafficRequested.TYPE, "ended")


Answer = GrantLease | ReturnLease | FailLease | AnnounceStaged | RefuseOrder | ApplyOrder | EndTrial


def has_failed(held: Held, limits: Limits) -> bool:
    """Return whether a target failed permanently, or in `load_attempts` loads though the store answered."""
    spent = held.failures >= limits.load_attempts and held.code != "store_unavailable"
    return held.phase is Phase.FAILED and (held.hopeless or spent)


def why_refused(deployable: Deployable, limits: Limits, together: Iterable[Deployable] = ()) -> tuple[Code, str] | None:
    """Return code and reason if the fleet lacks the hardware for a target, or the runtime of any of the targets."""
    if deployable.target.model in limits.attached:
        return None  # its servers decide
    unservable = why_not_servable(deployable.target.variant, limits.hardware, deployable.serving)
    if unservable is not None:
        return "variant_not_servable", unservable
    for needed in (deployable, *together):
        missing = why_no_runtime(needed.serving, limits.runtimes)
        if missing is not None:
            return "runtime_unknown", f"{needed.target}: {missing}"
    return None


def describe_age(kind: str, age_s: float, limit_s: float) -> str:
    """Return a sentence with an order's age and its validity."""
    return f"The {kind} order was given {age_s / 3600:.0f} h ago; it is valid for {limit_s / 3600:.0f} h."


def describe_endpoint(name: str, limits: Limits) -> str:
    """Return how messages name an endpoint: by its runtime, if that has no other endpoint."""
    runtime = limits.endpoints.get(name, name)
    alone = sum(1 for other in limits.endpoints.values() if other == runtime) <= 1
    return f"the runtime {runtime}" if alone else f"the endpoint {name}"


def needed_bytes(targets: Iterable[Deployable], limits: Limits) -> int:
    """Return the total memory of targets in bytes."""
    return sum(limits.memory_bytes(target) for target in targets)


def fits(sizes: Mapping[str, int], homes: Mapping[str, str], limits: Limits) -> bool:
    """Return whether targets fit into the fleet's memory pools.

    Args:
        sizes: bytes by target name.
        homes: endpoint by target name.
        limits: the endpoints and their memory.
    """
    memory = Memory(limits, ((homes.get(name, ""), size) for name, size in sizes.items()))
    return all(memory.free(endpoint) >= 0 for endpoint in memory.taken)


def describe_measured(targets: Iterable[Deployable], limits: Limits) -> str:
    """Return a sentence with the reserved and measured memory of targets; empty without a measurement."""
    parts = [
        f"{target.target} reserves {limits.reserved_bytes(target)} bytes and was measured with {measured}"
        for target in targets
        if (measured := limits.measured.get(target.manifest.digest))
    ]
    return f" Of the targets, {'; '.join(parts)}: the larger one counts." if parts else ""


def describe_free(others: Mapping[str, int], homes: Mapping[str, str], limits: Limits) -> str:
    """Return a sentence with each endpoint's free memory beside `others`; empty for a single endpoint."""
    if len(limits.endpoints) == 1:
        return ""
    memory = Memory(limits, ((homes.get(name, ""), size) for name, size in others.items()))
    by_pool: dict[str, list[str]] = {}
    for endpoint in limits.endpoints:
        by_pool.setdefault(limits.pool(endpoint), []).append(endpoint)
    parts = [
        f"{' and '.join(names)} {'has' if len(names) == 1 else 'share'} {limits.pool_bytes(pool)} bytes with "
        f"{max(0, memory.free(names[0]))} free"
        for pool, names in by_pool.items()
    ]
    return f" Of the endpoints, {'; '.join(parts)}."
