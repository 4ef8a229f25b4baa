"""Tracks the replicas of all targets in the leading process, and executes load, probe and unload actions."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import structlog

from contracts.vocabulary import Deployable
from services.server_manager.adapters.kv_state import KvLeadership
from services.server_manager.domain.reconcile import BUSY, Action, Held, Key, Limits, Phase
from services.server_manager.domain.records import target_of
from services.server_manager.ports import (
    AgentSilent,
    Artifacts,
    Engines,
    Extent,
    Indexed,
    LeaseLost,
    Permit,
)
from services.server_manager.replica_state import SUSPICIONS, ReplicaState, as_ours
from shared.errors import Permanent, SlipwayError
from shared.runtime.clock import Clock

LOAD_PROBE_S, PROBE_S = 120.0, 20.0
"""Time limits of a probe (time to first token) after a load, and later."""
WELL = frozenset({Phase.READY, Phase.UNPROVEN})
"""Phases of a usable replica."""


class Executor:
    """Executes actions on engines: sequentially for one replica, concurrently for several.

    One replica of each target is its home and represents its state; the others are copies.
    """

    def __init__(
        self,
        engines: Engines,
        artifacts: Artifacts,
        clock: Clock,
        limits: Limits,
        lead: KvLeadership,
        *,
        on_change: Callable[[], None],
    ) -> None:
        self._engines, self._artifacts, self._clock, self._limits = engines, artifacts, clock, limits
        self._lead, self._on_change = lead, on_change
        self._replicas: dict[Key, ReplicaState] = {}
        self._homes: dict[str, ReplicaState] = {}
        self._known: set[str] = set()
        self._log = structlog.get_logger()

    @property
    def known(self) -> frozenset[str]:
        """Return the endpoints that have listed their targets since startup or the last `stop`.

        On others no action may begin, because `held` lacks their targets.
        """
        return frozenset(self._known)

    def held(self) -> dict[str, Held]:
        """Return the state of each target's home, by target name."""
        return {name: self._show(state) for name, state in self._homes.items()}

    def others(self) -> dict[Key, Held]:
        """Return the state of every copy."""
        return {key: self._show(state) for key, state in self._replicas.items() if not self._is_home(state)}

    def copies(self) -> dict[Key, Held]:
        """Return the state of every copy that is not FAILED: it may take memory."""
        return {key: held for key, held in self.others().items() if held.phase is not Phase.FAILED}

    def _is_home(self, state: ReplicaState) -> bool:
        return self._homes.get(state.name) is state

    def _show(self, state: ReplicaState) -> Held:
        now = self._clock.monotonic()
        return Held(
            digest=state.digest,
            memory_bytes=state.memory_bytes,
            phase=state.phase,
            failures=state.failures,
            code=state.code,
            reason=state.reason,
            hopeless=state.hopeless,
            since_s=now - state.since,
            since_probe_s=float("inf") if state.probed is None else now - state.probed,
            unneeded_s=None if state.unneeded is None else now - state.unneeded,
            probing=state.work is not None,
            endpoint=state.endpoint,
            ran_by=state.ran_by,
            listed=state.listed,
            token=state.token,
        )

    def note_needed(self, names: Collection[str], removable: Collection[Key] = ()) -> None:
        """Update since when each replica is unneeded: homes not in `names`, copies in `removable`."""
        now = self._clock.monotonic()
        for key, state in self._replicas.items():
            if state.name in names if self._is_home(state) else key not in removable:
                state.unneeded = None
            elif state.unneeded is None:
                state.unneeded = now

    def drop_failed(self, due: Collection[Key]) -> None:
        """Drop failed copies that are not due."""
        for state in list(self._replicas.values()):
            if state.phase is Phase.FAILED and state.key not in due and state.work is None and not self._is_home(state):
                self._forget(state)

    def note_index(self, endpoint: str, index: Mapping[str, Indexed], asked_at: float) -> None:
        """Apply an endpoint's index. A new target is UNPROVEN until a probe; foreign models are ignored.

        Args:
            endpoint: the endpoint's name.
            index: the listed models.
            asked_at: monotonic time of the request; replicas that changed later stay unchanged.
        """
        self._known.add(endpoint)
        there = {name: entry for name, entry in index.items() if entry.ready and target_of(name) is not None}
        for state in [state for state in self._replicas.values() if state.endpoint == endpoint]:
            if state.work is not None or state.since >= asked_at:
                continue
            if state.name in there:
                self._note_listed(state)
            elif state.phase is not Phase.FAILED:
                self._log.warning("target is gone from the engine", target=state.name, phase=state.phase)
                self._lose(state)
        for name, entry in there.items():
            if (endpoint, name) not in self._replicas:
                digest, now = entry.digest or "sha256:" + "0" * 64, self._clock.monotonic()
                state = ReplicaState(name, endpoint, digest, entry.memory_bytes, Phase.UNPROVEN, now, listed=True)
                state.ran_by = entry.runtime
                self._replicas[state.key] = state
            self._homes.setdefault(name, self._replicas[endpoint, name])

    def _note_listed(self, state: ReplicaState) -> None:
        state.listed = True
        if state.phase is Phase.READY:
            state.failures = 0
        elif state.phase is Phase.FAILED and not self._is_home(state):
            self._enter(state, Phase.UNPROVEN)  # the load's answer was lost

    def _lose(self, state: ReplicaState) -> None:
        """Drop a replica that its endpoint lost; a copy replaces a home. An unlisted copy counts as a failed load."""
        if not self._is_home(state) and not state.listed:
            state.failures, state.reason = state.failures + 1, f"it was gone from {state.endpoint} after it was loaded."
            self._enter(state, Phase.FAILED)
            return
        self._forget(state)
        for copy in self._replicas.values():
            if copy.name == state.name and copy.digest == state.digest and copy.phase in WELL:
                self._homes.setdefault(state.name, copy)

    def _forget(self, state: ReplicaState) -> None:
        if self._replicas.get(state.key) is state:
            del self._replicas[state.key]
        if self._is_home(state):
            del self._homes[state.name]

    def use_named(self, named: Mapping[str, tuple[str, ...]], listing: Collection[str]) -> None:
        """Make a copy the home if its endpoint is in the route and just listed it, and the home's is not."""
        for copy in list(self._replicas.values()):
            home, names = self._homes.get(copy.name), named.get(copy.name, ())
            is_named = copy.endpoint in names and copy.endpoint in listing and copy.phase is not Phase.FAILED
            if is_named and home is not None and home.work is None and home.endpoint not in names:
                self._use(copy)

    def use_copies(self, survivors: Mapping[str, str], down: Collection[str]) -> None:
        """Make surviving copies the homes of their targets.

        Args:
            survivors: the endpoint of the copy, by target name.
            down: endpoints that do not answer.
        """
        for name, endpoint in survivors.items():
            home, copy = self._homes.get(name), self._replicas.get((endpoint, name))
            if home is None or copy is None or copy.digest != home.digest or home.phase in BUSY:
                continue
            self._log.warning("a copy is used instead", target=name, lost=home.endpoint, endpoint=endpoint)
            if home.endpoint in down and home.phase is Phase.READY:
                self._enter(home, Phase.UNPROVEN)
            self._use(copy)

    def _use(self, copy: ReplicaState) -> None:
        """Make a copy the home of its target, and the former home a copy."""
        former = self._homes.get(copy.name)
        self._homes[copy.name] = copy
        if former is not None and former.phase is Phase.FAILED:
            self._forget(former)

    def start(self, action: Action) -> None:
        """Start an action in the background; `on_change` is called at its end."""
        state, home = self._replicas.get((action.endpoint, action.name)), self._homes.get(action.name)
        concerned = [state] if action.is_copy else [state, home]
        is_used = action.is_copy and state is not None and state is home
        if is_used or any(concern is not None and concern.work is not None for concern in concerned):
            return
        if action.deployable is not None:
            if action.kind == "load" and not action.is_copy and self._use_loaded(state, action.deployable):
                return
            state, work = self._begin_load(action, action.deployable, state if action.is_copy else home)
        elif state is None:
            return
        elif action.kind == "probe":
            work = self._probe(state)
        else:
            before = state.phase
            self._enter(state, Phase.UNLOADING)
            work = self._unload(state, before)
        started = state
        started.work = asyncio.create_task(work, name=f"{action.kind} {action.name}")
        started.work.add_done_callback(lambda task: self._ended(started, task))

    def _use_loaded(self, copy: ReplicaState | None, deployable: Deployable) -> bool:
        """Make a usable copy the home instead of loading; return whether there was one."""
        if copy is None or copy.phase not in WELL or copy.digest != deployable.manifest.digest or self._is_home(copy):
            return False
        self._use(copy)
        return True

    def _ended(self, state: ReplicaState, task: asyncio.Task[None]) -> None:
        if state.work is task:
            state.work = None
        if not task.cancelled() and task.exception() is not None:
            self._log.error("an action failed unexpectedly", work=task.get_name(), exc_info=task.exception())
        self._on_change()

    async def stop(self) -> None:
        """Cancel all actions and drop all replicas; the engines' indexes restore them."""
        tasks = [state.work for state in self._replicas.values() if state.work is not None]
        self._replicas.clear()
        self._homes.clear()
        self._known.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- actions ----------------------------------------------------------------------------------------------------

    def _begin_load(
        self, action: Action, deployable: Deployable, was: ReplicaState | None
    ) -> tuple[ReplicaState, Coroutine[Any, Any, None]]:
        """Set a replica to LOADING; the replaced replica `was` may stay as a copy on another endpoint."""
        digest, memory = deployable.manifest.digest, self._limits.reserved_bytes(deployable)
        heals = action.kind == "heal"
        there = was if heals else self._replicas.get((action.endpoint, action.name))
        holder = there.endpoint if there is not None and (heals or there.phase is not Phase.FAILED) else None
        replaces = was is not None and was.digest != digest
        stays = was is not None and was.endpoint not in (action.endpoint, holder) and was.phase is not Phase.FAILED
        if was is None or replaces:
            state = ReplicaState(action.name, action.endpoint, digest, memory, Phase.LOADING, self._clock.monotonic())
        else:
            state = replace(was, endpoint=action.endpoint, memory_bytes=memory, listed=False)
        if was is not None and not stays:
            self._forget(was)
        self._replicas[state.key] = state
        if not action.is_copy:
            self._homes[state.name] = state
        self._enter(state, Phase.LOADING)
        needed = Extent.ALL if replaces or stays or action.is_copy else Extent.RECYCLE
        return state, self._load(deployable, state, needed, holder)

    def _enter(self, state: ReplicaState, phase: Phase) -> None:
        state.phase = phase
        state.since = self._clock.monotonic()

    def _permission(self, needed: Extent) -> Permit:
        """Return a check that renews the lease, and raises LeaseLost without the `needed` permission."""

        async def permit() -> None:
            extent = await self._lead.confirm()
            if extent is Extent.NOTHING or (needed is Extent.ALL and extent is not Extent.ALL):
                raise LeaseLost(f"needed {needed}, allowed {extent}")

        return permit

    def _put_off(self, state: ReplicaState, error: LeaseLost) -> None:
        """Drop a replica after an action was not permitted: the engine's next index restores it.

        A replica with failed loads stays FAILED with their count, to keep its backoff.
        """
        self._log.warning("action skipped: the lease is not confirmed", target=state.name, why=str(error))
        if state.failures:
            self._enter(state, Phase.FAILED)
        else:
            self._forget(state)

    def _check_after(self, name: str) -> None:
        """Log if another process took the engine over during an action."""
        if self._lead.superseded():
            self._log.error("another process took the engine over during this action", target=name)

    async def _load(self, deployable: Deployable, state: ReplicaState, needed: Extent, holder: str | None) -> None:
        """Load and probe a target, after unloading it from the endpoint `holder`, if given."""
        began, name, engine = self._clock.monotonic(), state.name, self._engines[state.endpoint]
        self._log.info("loading", target=name, heal=holder is not None, endpoint=state.endpoint)
        try:
            folder = await self._artifacts.materialise(deployable, engine.parts)
            if holder is not None:
                await self._engines[holder].unload(name, wait=False, permit=self._permission(needed))
                # It is unloaded: without the bus, loading it again is safe.
                needed = Extent.RECYCLE if self._is_home(state) else needed
            await engine.load(
                name,
                folder,
                digest=state.digest,
                memory_bytes=state.memory_bytes,
                serving=deployable.serving,
                permit=self._permission(needed),
            )
            self._check_after(name)
            state.ran_by = engine.runtime
            state.token = await engine.probe(name, LOAD_PROBE_S)
        except LeaseLost as error:
            self._put_off(state, error)
            return
        except Exception as error:  # noqa: BLE001 - every failure of a load is a state of the replica
            await self._load_failed(state, error)
            return
        state.note()
        state.probed = self._clock.monotonic()
        self._enter(state, Phase.READY)
        self._log.info("ready", target=name, load_s=round(state.since - began, 2), first_token=state.token)

    async def _load_failed(self, state: ReplicaState, error: Exception) -> None:
        known = as_ours(error)
        self._log.warning("load failed", target=state.name, code=known.code, reason=known.reason)
        is_away = known.code == "endpoint_unreachable"  # no failure of the target
        if is_away and self._is_home(state):
            self._lose(state)
            return
        state.failures += 1
        state.code, state.reason, state.hopeless = known.code, known.reason, isinstance(known, Permanent)
        self._enter(state, Phase.FAILED)
        if is_away:
            return
        try:
            await self._engines[state.endpoint].unload(state.name, permit=self._permission(Extent.ALL))
        except LeaseLost as lost:
            self._put_off(state, lost)
        except SlipwayError as also:
            self._log.warning("unload after a failed load failed", target=state.name, reason=also.reason)

    async def _probe(self, state: ReplicaState) -> None:
        error: SlipwayError | None = None
        try:
            state.token = await self._engines[state.endpoint].probe(state.name, PROBE_S)
        except Exception as failure:  # noqa: BLE001 - every failure of a probe is a state of the replica
            error = as_ours(failure)
        # A differing home stays READY with an alert; a copy or a load fails.
        if error is None or (error.code == "logprobs_differ" and self._is_home(state)):
            state.note(error)
            state.failures = 0
            if state.phase is not Phase.READY:
                self._enter(state, Phase.READY)
        elif error.code != "endpoint_unreachable":
            self._probe_failed(state, error)
        state.probed = self._clock.monotonic()

    def _probe_failed(self, state: ReplicaState, error: SlipwayError) -> None:
        state.suspicions += 1
        state.code, state.reason = error.code, error.reason
        self._log.warning(
            "probe failed", target=state.name, code=error.code, reason=error.reason, times=state.suspicions
        )
        if error.code == "engine_dead" or state.suspicions >= SUSPICIONS:
            state.failures = 0
            self._enter(state, Phase.DEAD)

    async def _unload(self, state: ReplicaState, before: Phase) -> None:
        """Unload a replica. If the engine's agent does not answer, the phase is restored: it still takes memory."""
        try:
            await self._engines[state.endpoint].unload(state.name, permit=self._permission(Extent.ALL))
            self._check_after(state.name)
        except LeaseLost as error:
            self._put_off(state, error)
            return
        except AgentSilent as error:
            self._log.warning("unload put off: the agent does not answer", target=state.name, reason=error.reason)
            self._enter(state, before)
            return
        except SlipwayError as error:
            self._log.warning("unload failed", target=state.name, code=error.code, reason=error.reason)
        self._forget(state)
        self._log.info("unloaded", target=state.name, endpoint=state.endpoint)

    @property
    def busy(self) -> bool:
        """Return whether any replica is being loaded or unloaded."""
        return any(state.phase in BUSY for state in self._replicas.values())
