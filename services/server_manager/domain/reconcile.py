"""The desired targets, the loaded ones, and the actions that lead from one to the other."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Literal

from contracts.codes import Code
from contracts.routes import Route, ServedTarget
from contracts.runtimes import DEFAULT_RUNTIME
from contracts.vocabulary import Deployable, Digest, Runtime
from decisions.backoff import backoff_s
from decisions.serving.memory import WEIGHTS_RATIO, reserved_bytes
from decisions.serving.runtimes import runtime_name
from services.server_manager.domain.records import Servers
from services.server_manager.domain.servable_variants import Hardware


class Phase(StrEnum):
    """The state of a target on the serving fleet."""

    LOADING = "loading"  # being fetched, loaded or probed for the first time
    UNPROVEN = "unproven"  # Triton reports READY, no token was generated yet
    READY = "ready"  # it generated a token
    DEAD = "dead"  # it was loaded and does not generate
    FAILED = "failed"  # it could not be loaded
    UNLOADING = "unloading"


BUSY = frozenset({Phase.LOADING, Phase.UNLOADING})


class Rank(StrEnum):
    """Why a target is needed; more important ones are loaded first."""

    PRODUCTION = "production"
    ORDERED = "ordered"
    STAGING = "staging"
    SUSPENDED = "suspended"
    COPY = "copy"


Key = tuple[str, str]
"""An endpoint and the name of a target: a replica."""
SHARED: Final = ""
"""Name of the memory that endpoints without a budget of their own share."""
_ORDER = (Rank.PRODUCTION, Rank.ORDERED, Rank.STAGING, Rank.SUSPENDED, Rank.COPY)


@dataclass(frozen=True)
class Desired:
    """A target that should be loaded."""

    deployable: Deployable
    rank: Rank


@dataclass(frozen=True)
class Held:
    """The state of a replica; a target's is its home's.

    Attributes:
        digest: digest of the manifest that it was loaded from.
        memory_bytes: bytes reserved for it.
        phase: its current phase.
        failures: loads or heals that failed in a row.
        code: why the last one failed.
        reason: the same in a sentence.
        hopeless: trying again cannot help (missing or corrupt artifact).
        since_s: seconds since the phase began.
        since_probe_s: seconds since the last probe ended.
        unneeded_s: seconds since it was last needed; None while it is needed.
        probing: a probe is under way.
        endpoint: name of the endpoint that holds it.
        ran_by: the engine's runtime at its load.
        listed: its endpoint has listed it since it was loaded.
        token: the first text that it generated at its last probe.
    """

    digest: Digest
    memory_bytes: int
    phase: Phase
    failures: int = 0
    code: Code | None = None
    reason: str = ""
    hopeless: bool = False
    since_s: float = 0.0
    since_probe_s: float = math.inf
    unneeded_s: float | None = None
    probing: bool = False
    endpoint: str = DEFAULT_RUNTIME
    ran_by: Runtime | None = None
    listed: bool = False
    token: str = ""


@dataclass(frozen=True)
class Limits:
    """The capacity of the fleet, its endpoints with their runtimes, and the time limits.

    A target reserves `weights_bytes * weights_ratio + overhead_bytes`, on attached servers (`attached`) nothing.
    Traffic orders older than `order_age_s`, and staging orders than `lease_age_s`, were delivered again. A staged lease
    makes way after `silent_limit_s` of silence. `memory_budget_bytes` is what all endpoints hold together: those in
    `budgets` have memory of their own. `measured` has the most memory that targets took, by their manifest's digest.
    """

    memory_budget_bytes: int
    overhead_bytes: int
    weights_ratio: float = WEIGHTS_RATIO
    probe_interval_s: float = 5.0
    linger_s: float = 60.0
    load_attempts: int = 2
    order_deadline_s: float = 600.0
    retry_s: float = 4.0
    max_retry_s: float = 60.0
    standby_grace_s: float = 5.0
    order_age_s: float = 86_400.0
    lease_age_s: float = 7 * 86_400.0
    silent_limit_s: float = 120.0
    hardware: Hardware = field(default_factory=Hardware)
    endpoints: Mapping[str, str] = field(default_factory=lambda: {DEFAULT_RUNTIME: DEFAULT_RUNTIME})
    budgets: Mapping[str, int] = field(default_factory=dict)
    measured: Mapping[Digest, int] = field(default_factory=dict)
    attached: Mapping[str, str] = field(default_factory=dict)

    @property
    def runtimes(self) -> frozenset[str]:
        """The names of the runtimes that the fleet has."""
        return frozenset(self.endpoints.values())

    def reserved_bytes(self, deployable: Deployable) -> int:
        """Return the memory that a target reserves when it is loaded."""
        needed = reserved_bytes(deployable.weights_bytes, self.overhead_bytes, self.weights_ratio)
        return needed if deployable.target.model not in self.attached else 0

    def retry_after_s(self, failures: int) -> float:
        """Return the seconds until the next attempt after consecutive failures."""
        return backoff_s(failures, self.retry_s, self.max_retry_s)

    def memory_bytes(self, deployable: Deployable) -> int:
        """Return the memory of a target for placement: the reserved bytes, or the measured ones if larger."""
        return self.corrected(deployable.manifest.digest, self.reserved_bytes(deployable))

    def corrected(self, digest: Digest | None, reserved: int) -> int:
        """Return the larger of the reserved and the measured memory of the same files; 0 on attached servers."""
        return max(reserved, self.measured.get(digest, 0)) if reserved and digest is not None else reserved

    def pool(self, endpoint: str) -> str:
        """Return the name of an endpoint's memory pool: the endpoint's own name, or `SHARED`."""
        return endpoint if endpoint in self.budgets else SHARED

    def pool_bytes(self, pool: str) -> int:
        """Return the budget of a memory pool in bytes."""
        return self.budgets[pool] if pool in self.budgets else self.memory_budget_bytes - sum(self.budgets.values())


class Memory:
    """The memory that is taken on each endpoint, and what is left of its pool."""

    def __init__(self, limits: Limits, sizes: Iterable[tuple[str, int]]) -> None:
        """Take what is taken, as pairs of endpoint and size."""
        self._limits, self.taken = limits, Counter[str]()
        for endpoint, size in sizes:
            self.taken[endpoint] += size

    def free(self, endpoint: str) -> int:
        """Return the bytes that an endpoint has left; negative where more is taken than there is."""
        pool = self._limits.pool(endpoint)
        taken = sum(size for other, size in self.taken.items() if self._limits.pool(other) == pool)
        return self._limits.pool_bytes(pool) - taken


@dataclass(frozen=True)
class Action:
    """An action on one replica: a home or a copy."""

    kind: Literal["load", "heal", "probe", "unload"]
    name: str
    deployable: Deployable | None = None
    endpoint: str = DEFAULT_RUNTIME
    is_copy: bool = False


@dataclass(frozen=True)
class Copies:
    """The replicas beside the homes.

    Attributes:
        held: the state of each.
        due: replicas that must generate, with their deployables, in order of priority.
        planned: the due replicas that are still to be loaded.
        removable: unneeded replicas.
    """

    held: Mapping[Key, Held] = field(default_factory=dict)
    due: Mapping[Key, Deployable] = field(default_factory=dict)
    planned: Collection[Key] = ()
    removable: Collection[Key] = ()


def plan_production(routes: Mapping[str, Route]) -> dict[str, Deployable]:
    """Return the targets that production keeps loaded: active, then canaries and shadows, then previous."""
    ordered = [item for model in sorted(routes) for item in routes[model].by_role.items()]
    ordered.sort(key=lambda item: {"active": 0, "previous": 2}.get(item[0], 1))
    production: dict[str, Deployable] = {}
    for _, served in ordered:
        production.setdefault(str(served.target), plain_deployable(served))
    return production


def plan_standing(routes: Mapping[str, Route]) -> dict[str, Deployable]:
    """Return the targets that production keeps loaded, and suspended ones, which stay while memory allows."""
    suspended = [entry.served for model in sorted(routes) for entry in routes[model].suspended]
    return {str(served.target): plain_deployable(served) for served in suspended} | plan_production(routes)


def production_of(route: Route) -> list[ServedTarget]:
    """Return the targets of a route that stay loaded: active, a canary with traffic, a shadow, previous, suspended."""
    return [*route.by_role.values(), *(entry.served for entry in route.suspended)]


def plan_desired(routes: Mapping[str, Route], record: Servers) -> dict[str, Desired]:
    """Return all targets to be loaded: production, ordered, staged and suspended ones."""
    desired = {name: Desired(deployable, Rank.PRODUCTION) for name, deployable in plan_production(routes).items()}
    for order in record.orders:
        for deployable in (order.event.data.target, order.event.data.fallback):
            if deployable is not None:
                desired.setdefault(str(deployable.target), Desired(plain_deployable(deployable), Rank.ORDERED))
    if record.lease is not None:
        request = record.lease.event.data
        for deployable in (request.baseline, request.candidate):
            desired.setdefault(str(deployable.target), Desired(plain_deployable(deployable), Rank.STAGING))
    for name, deployable in plan_standing(routes).items():
        desired.setdefault(name, Desired(deployable, Rank.SUSPENDED))
    return desired


def home_of(deployable: Deployable, homes: Mapping[str, str]) -> str:
    """Return a target's home; without a choice, the endpoint with its runtime's name."""
    return homes.get(str(deployable.target)) or runtime_name(deployable.serving)


def plan_alone(
    desired: Mapping[str, Desired], held: Mapping[str, Held], limits: Limits, homes: Mapping[str, str] | None = None
) -> list[Action]:
    """Return the actions without the bus: probe, recycle in place, load production that the engine lost.

    Nothing is unloaded or moved, nothing is replaced by another manifest, and nothing is loaded for an order or a
    lease: another process may lead by now and want something else.
    """
    same = {
        name: target
        for name, target in desired.items()
        if (held[name].digest == target.deployable.manifest.digest if name in held else target.rank is Rank.PRODUCTION)
    }
    stays = {**(homes or {}), **{name: target.endpoint for name, target in held.items()}}
    return plan_reconcile(same, held, limits, kept=held, homes=stays)


def plain_deployable(deployable: Deployable) -> Deployable:
    """Return a deployable with only the fields of its identity, files and loading."""
    return Deployable(
        target=deployable.target,
        manifest=deployable.manifest,
        weights_bytes=deployable.weights_bytes,
        serving=deployable.serving,
    )


def plan_reconcile(
    desired: Mapping[str, Desired],
    held: Mapping[str, Held],
    limits: Limits,
    kept: Collection[str] = (),
    *,
    homes: Mapping[str, str] | None = None,
    copies: Copies | None = None,
) -> list[Action]:
    """Return the actions that bring the held targets to the desired state.

    No action is repeated: busy targets are left alone. A target that is not needed stays for a while, because the
    next step often needs it again, but goes at once when its memory is needed. A needed one is loaded only when its
    memory is free where it belongs (`homes`, by name). What is in `kept` is never unloaded. Among targets of one rank
    the order of `desired` holds. Copies come last, and one that nothing needs stays until its time has passed.
    """
    copies = copies or Copies()
    used = Memory(limits, held_sizes([*held.values(), *copies.held.values()]))
    wanted = [(name, target, home_of(target.deployable, homes or {}), held.get(name)) for name, target in rank(desired)]
    for key, deployable in copies.due.items():
        wanted.append((key[1], Desired(deployable, Rank.COPY), key[0], copies.held.get(key)))
    actions: list[Action] = []
    short = Counter[str]()
    for name, target, endpoint, state in wanted:
        is_copy = target.rank is Rank.COPY
        action = _act_on_desired(name, target, state, limits, endpoint)
        if action is None or (is_copy and action.kind != "probe" and (endpoint, name) not in copies.planned):
            continue
        there = None if is_copy else copies.held.get((endpoint, name))
        is_there = (
            there is not None and there.phase is not Phase.FAILED and there.digest == target.deployable.manifest.digest
        )
        if action.kind == "load" and not is_there:  # a copy of it takes its memory already
            # What was measured must not keep production from a load.
            needed = (limits.memory_bytes if is_copy else limits.reserved_bytes)(target.deployable)
            over = needed - used.free(endpoint)
            if over > 0:
                short[limits.pool(endpoint)] += over if target.rank not in {Rank.SUSPENDED, Rank.COPY} else 0
                continue
            used.taken[endpoint] += needed
        actions.append(replace(action, is_copy=is_copy))
    for endpoint, name in copies.removable:
        state = copies.held[endpoint, name]
        if state.phase not in BUSY and (state.unneeded_s or 0.0) >= limits.linger_s:
            actions.append(Action("unload", name, endpoint=endpoint, is_copy=True))
    return plan_unloads(desired, held, limits, short, kept) + actions


def rank(desired: Mapping[str, Desired]) -> list[tuple[str, Desired]]:
    """Return the targets, those that matter more first."""
    return sorted(desired.items(), key=lambda item: _ORDER.index(item[1].rank))


def held_sizes(held: Iterable[Held], limits: Limits | None = None) -> Iterator[tuple[str, int]]:
    """Yield endpoint and size of each loaded target; given limits, sizes are corrected by measurements."""
    for state in held:
        if state.phase is not Phase.FAILED:
            yield state.endpoint, limits.corrected(state.digest, state.memory_bytes) if limits else state.memory_bytes


def plan_unloads(
    desired: Mapping[str, Desired],
    held: Mapping[str, Held],
    limits: Limits,
    short_bytes: Mapping[str, int],
    kept: Collection[str] = (),
) -> list[Action]:
    """Return unloads of unneeded targets, the longest unneeded first, if memory is short or their time has passed.

    Suspended targets go last, and only while memory is short for other targets.
    `short_bytes`: missing bytes by memory pool.
    """
    short = Counter(short_bytes)
    unneeded = [
        (name, target)
        for name, target in held.items()
        if name not in desired and name not in kept and target.phase not in BUSY
    ]
    actions = []
    for name, target in sorted(unneeded, key=lambda item: -(item[1].unneeded_s or 0.0)):
        may_serve = target.phase in {Phase.READY, Phase.UNPROVEN}  # what another process loaded may have streams
        lingers = may_serve and (target.unneeded_s or 0.0) < limits.linger_s
        pool = limits.pool(target.endpoint)
        if lingers and short[pool] <= 0:
            continue
        short[pool] -= target.memory_bytes
        actions.append(Action("unload", name, endpoint=target.endpoint))
    for name, target in held.items():
        pool = limits.pool(target.endpoint)
        is_suspended = name in desired and desired[name].rank is Rank.SUSPENDED
        if is_suspended and name not in kept and target.phase not in BUSY and short[pool] > 0:
            short[pool] -= target.memory_bytes
            actions.append(Action("unload", name, endpoint=target.endpoint))
    return actions


def _act_on_desired(name: str, desired: Desired, held: Held | None, limits: Limits, home: str) -> Action | None:
    load = Action("load", name, desired.deployable, home)
    if held is None:
        return load
    if held.phase in BUSY or held.probing:
        return None
    if held.phase is not Phase.FAILED and is_moved(held, home, limits):
        return load
    if held.digest != desired.deployable.manifest.digest:
        return replace(load, kind="heal")
    if held.phase in {Phase.FAILED, Phase.DEAD}:
        # What failed reserves nothing, so it competes for memory again like something new.
        again = load if held.phase is Phase.FAILED else replace(load, kind="heal")
        return again if held.since_s >= limits.retry_after_s(held.failures) else None
    due = held.since_probe_s >= (1.0 if held.phase is Phase.UNPROVEN else limits.probe_interval_s)
    return Action("probe", name, endpoint=held.endpoint) if due else None


def is_moved(held: Held, home: str, limits: Limits) -> bool:
    """Return whether a target's home is another endpoint of the same runtime than its current one."""
    return held.endpoint != home and limits.endpoints.get(held.endpoint) == limits.endpoints.get(home)
