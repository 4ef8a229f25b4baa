"""Holds the targets of one engine as they are now, and carries out actions on them."""

import asyncio
from collections.abc import Callable, Collection, Mapping

import structlog

from contracts.vocabulary import Deployable, Runtime
from services.server_manager.copies import Copies
from services.server_manager.domain.moves import Copy
from services.server_manager.domain.reconcile import BUSY, Action, Held, Limits, Phase, home_of
from services.server_manager.domain.records import target_of
from services.server_manager.ports import (
    AgentSilent,
    Artifacts,
    Engines,
    Extent,
    Indexed,
    Leadership,
    LeaseLost,
    Permit,
)
from services.server_manager.target_state import SUSPICIONS, TargetState, as_ours
from shared.errors import Permanent, SlipwayError
from shared.runtime.clock import Clock


class Executor:
    """Carries out actions on engines: those of one target one after the other, those of several at once."""

    def __init__(
        self,
        engines: Engines,
        artifacts: Artifacts,
        clock: Clock,
        limits: Limits,
        lead: Leadership,
        *,
        on_change: Callable[[], None],
        load_probe_s: float = 120.0,
        probe_s: float = 20.0,
    ) -> None:
        self._engines = engines
        self._artifacts = artifacts
        self._clock = clock
        self._limits = limits
        self._lead = lead
        self._on_change = on_change
        self._load_probe_s = load_probe_s
        self._probe_s = probe_s
        self._targets: dict[str, TargetState] = {}
        self._listed_at: dict[str, float] = {}
        self._copies = Copies()
        self._removing: dict[Copy, asyncio.Task[None]] = {}
        self._log = structlog.get_logger()

    @property
    def known(self) -> frozenset[str]:
        """Return the endpoints that have listed what they hold since the start or the last `stop`.

        Before that `held` has nothing of one whatever it serves, and nothing may be begun on it.
        """
        return frozenset(self._listed_at)

    def has_lost(self, copy: Copy, since: float) -> bool:
        """Return whether an endpoint that was asked after a time (monotonic) has listed no such copy."""
        names = {(held.endpoint, held.name) for held in self._copies.all()}
        return self._listed_at.get(copy.endpoint, since) > since and (copy.endpoint, copy.name) not in names

    def held(self) -> dict[str, Held]:
        """Return every target as it is now."""
        now = self._clock.monotonic()
        return {
            name: Held(
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
            )
            for name, state in self._targets.items()
        }

    def token(self, name: str) -> str:
        """Return the first text that a target generated at its last probe."""
        state = self._targets.get(name)
        return state.token if state else ""

    def ran_by(self, name: str) -> Runtime | None:
        """Return what ran the engine when it loaded a target; None if that is not known."""
        state = self._targets.get(name)
        return state.ran_by if state else None

    def note_needed(self, names: Mapping[str, object]) -> None:
        """Note which targets are needed now; the others are unloaded when their time has passed."""
        now = self._clock.monotonic()
        for name, state in self._targets.items():
            if name in names:
                state.unneeded = None
            elif state.unneeded is None:
                state.unneeded = now

    def note_index(self, endpoint: str, index: Mapping[str, Indexed], asked_at: float) -> None:
        """Take over what an endpoint says it holds. READY means only that it may be probed.

        Models that are no targets are another's and stay as they are.

        Args:
            endpoint: its name.
            index: its answer.
            asked_at: monotonic time of the question; what changed since then is not judged by the answer.
        """
        self._listed_at[endpoint] = asked_at
        for name, state in list(self._targets.items()):
            there = (name in index and index[name].ready) or state.since >= asked_at
            if state.endpoint == endpoint and state.work is None and not there and state.phase is not Phase.FAILED:
                self._log.warning("target is gone from the engine", target=name, phase=state.phase)
                self._forget(name, state)
        for name, entry in index.items():
            if entry.ready and name not in self._targets and target_of(name) is not None:
                digest, now = entry.digest or "sha256:" + "0" * 64, self._clock.monotonic()
                self._targets[name] = TargetState(
                    digest, entry.memory_bytes, Phase.UNPROVEN, now, endpoint=endpoint, ran_by=entry.runtime
                )
        elsewhere = {name for name, state in self._targets.items() if state.endpoint != endpoint}
        self._copies.replace(
            endpoint,
            [
                Copy(endpoint, name, entry.memory_bytes, entry.digest, entry.runtime)
                for name, entry in index.items()
                if entry.ready and name in elsewhere
            ],
        )

    def _forget(self, name: str, state: TargetState) -> None:
        """Forget a target that its endpoint does not have any more; one that another endpoint has is used there."""
        copy = self._copies.find(name)
        if copy is None or copy.digest != state.digest:
            self._targets.pop(name, None)
            return
        self._copies.remove(copy)
        self._use(state, copy, Phase.UNPROVEN)

    def _use(self, state: TargetState, copy: Copy, phase: Phase) -> None:
        state.endpoint, state.ran_by = copy.endpoint, copy.ran_by
        state.note()
        self._enter(state, phase)

    def copies(self) -> list[Copy]:
        """Return what endpoints may hold of targets that are held elsewhere."""
        return self._copies.all()

    def use_named(self, named: Mapping[str, tuple[str, ...]], listing: Collection[str]) -> None:
        """Use the copies on endpoints that routes name, and that have just listed them, where none names the home."""
        for copy in self._copies.all():
            state, names = self._targets.get(copy.name), named.get(copy.name, ())
            if state is None or state.work is not None or copy.endpoint not in names or copy.endpoint not in listing:
                continue
            if state.endpoint not in names:
                self._swap(copy, state, Phase.UNPROVEN)

    def use_copies(self, survivors: Mapping[str, str]) -> None:
        """Use the copies that have just generated, instead of targets whose endpoint is lost to production.

        Args:
            survivors: the endpoint of the copy, by the target's name.
        """
        for name, endpoint in survivors.items():
            state, copy = self._targets.get(name), self._copies.find(name, endpoint)
            if state is None or copy is None or copy.digest != state.digest or state.phase in BUSY:
                continue
            if state.work is not None:
                state.work.cancel()  # a probe of what is lost
                state.work = None
            self._log.warning("a copy is used instead", target=name, lost=state.endpoint, endpoint=endpoint)
            self._swap(copy, state, Phase.READY)
            state.probed = self._clock.monotonic()

    def _swap(self, copy: Copy, state: TargetState, phase: Phase) -> None:
        """Exchange a target and its copy."""
        self._copies.remove(copy)
        if state.phase is not Phase.FAILED:
            self._copies.add(Copy(state.endpoint, copy.name, state.memory_bytes, state.digest, state.ran_by))
        self._use(state, copy, phase)

    def remove_copy(self, copy: Copy) -> None:
        """Begin to unload a copy that nothing needs."""
        if copy not in self._removing:
            task = self._removing[copy] = asyncio.create_task(self._remove(copy), name=f"unload the copy {copy.name}")
            task.add_done_callback(lambda _: self._removing.pop(copy, None))

    async def _remove(self, copy: Copy) -> None:
        try:
            await self._engines[copy.endpoint].unload(copy.name, permit=self._permission(Extent.ALL))
        except (LeaseLost, SlipwayError) as error:
            self._log.warning("a copy could not be unloaded", target=copy.name, endpoint=copy.endpoint, why=str(error))
            return
        self._copies.remove(copy)
        self._log.info("unloaded a copy", target=copy.name, endpoint=copy.endpoint)

    def start(self, action: Action, homes: Mapping[str, str] | None = None) -> None:
        """Begin an action; it continues by itself, and `on_change` is called when it ends.

        `homes` has the endpoint of each target that is to be loaded, by name.
        """
        state = self._targets.get(action.name)
        if state is not None and state.work is not None:
            return
        if action.kind == "probe" and state is not None:
            work = self._probe(action.name, state)
        elif action.kind == "unload" and state is not None:
            before = state.phase
            self._enter(state, Phase.UNLOADING)
            work = self._unload(action.name, state, before)
        elif action.deployable is not None:
            replaces = state is not None and state.digest != action.deployable.manifest.digest
            needed = Extent.ALL if replaces else Extent.RECYCLE
            holder = state.endpoint if state is not None and action.kind == "heal" else None
            left = state.endpoint if state is not None and state.phase is not Phase.FAILED else None
            state = self._prepare(action.name, action.deployable, state)
            state.endpoint = home_of(action.deployable, homes or {})
            if left is not None and left not in (holder, state.endpoint):
                self._copies.add(Copy(left, action.name, state.memory_bytes, state.digest, state.ran_by))
                needed = Extent.ALL
            work = self._load(action.name, action.deployable, state, needed, holder)
        else:
            return
        state.work = asyncio.create_task(work, name=f"{action.kind} {action.name}")
        state.work.add_done_callback(lambda task: self._ended(state, task))

    def _ended(self, state: TargetState, task: asyncio.Task[None]) -> None:
        if state.work is task:
            state.work = None
        if not task.cancelled() and task.exception() is not None:
            self._log.error("an action failed unexpectedly", work=task.get_name(), exc_info=task.exception())
        self._on_change()

    async def stop(self) -> None:
        """Cancel what is being done and forget everything; the engine's index tells it again."""
        tasks = [state.work for state in self._targets.values() if state.work is not None]
        tasks += self._removing.values()
        self._targets.clear()
        self._copies.clear()
        self._listed_at.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- actions ----------------------------------------------------------------------------------------------------

    def _prepare(self, name: str, deployable: Deployable, state: TargetState | None) -> TargetState:
        memory = self._limits.reserved_bytes(deployable)
        digest = deployable.manifest.digest
        if state is None or state.digest != digest:
            state = self._targets[name] = TargetState(digest, memory, Phase.LOADING, self._clock.monotonic())
        state.memory_bytes = memory
        self._enter(state, Phase.LOADING)
        return state

    def _enter(self, state: TargetState, phase: Phase) -> None:
        state.phase = phase
        state.since = self._clock.monotonic()

    @property
    def permit(self) -> Permit:
        """Return what raises LeaseLost unless this process may do anything at that moment."""
        return self._permission(Extent.ALL)

    def _permission(self, needed: Extent) -> Permit:
        """Return what raises LeaseLost unless this process may do so much at that moment."""

        async def permit() -> None:
            extent = await self._lead.confirm()
            if extent is Extent.NOTHING or (needed is Extent.ALL and extent is not Extent.ALL):
                raise LeaseLost(f"needed {needed}, allowed {extent}")

        return permit

    def _put_off(self, name: str, state: TargetState, error: LeaseLost) -> None:
        """Forget a target whose action was not allowed: the next index of the engine says what it is.

        One whose loads failed stays failed, with their number, or it would be tried again at every pass.
        """
        self._log.warning("action skipped: the lease is not confirmed", target=name, why=str(error))
        if self._targets.get(name) is not state:
            return
        if state.failures:
            self._enter(state, Phase.FAILED)
        else:
            del self._targets[name]

    def _check_after(self, name: str) -> None:
        """Log that the engine was taken over while it was asked: the next holder loads it again if it wants it."""
        if self._lead.superseded():
            self._log.error("another process took the engine over during this action", target=name)

    async def _load(
        self, name: str, deployable: Deployable, state: TargetState, needed: Extent, holder: str | None
    ) -> None:
        """Load a target; unload it first if it is to be healed: `holder` is the endpoint that has it."""
        began = self._clock.monotonic()
        engine = self._engines[state.endpoint]
        self._log.info("loading", target=name, heal=holder is not None, endpoint=state.endpoint)
        try:
            is_attached = deployable.target.model in self._limits.attached  # its servers have files of their own
            folder = await self._artifacts.materialise(deployable, only_texts=is_attached)
            if holder is not None:
                await self._engines[holder].unload(name, wait=False, permit=self._permission(needed))
                needed = Extent.RECYCLE  # it is gone by now: only another holder's order stops the load
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
            state.token = await engine.probe(name, self._load_probe_s)
        except LeaseLost as error:
            self._put_off(name, state, error)
            return
        except Exception as error:  # noqa: BLE001 - every failure of a load is a state of the target
            await self._load_failed(name, state, error)
            return
        state.note()
        state.probed = self._clock.monotonic()
        self._enter(state, Phase.READY)
        self._log.info("ready", target=name, load_s=round(state.since - began, 2), first_token=state.token)

    async def _load_failed(self, name: str, state: TargetState, error: Exception) -> None:
        known = as_ours(error)
        self._log.warning("load failed", target=name, code=known.code, reason=known.reason)
        if known.code == "endpoint_unreachable":
            # The engine went away, which says nothing about the target: it is loaded when the engine is back.
            self._forget(name, state)
            return
        state.failures += 1
        state.code, state.reason, state.hopeless = known.code, known.reason, isinstance(known, Permanent)
        self._enter(state, Phase.FAILED)
        try:
            await self._engines[state.endpoint].unload(name, permit=self._permission(Extent.ALL))
        except LeaseLost as lost:
            self._put_off(name, state, lost)
        except SlipwayError as also:
            self._log.warning("unload after a failed load failed", target=name, reason=also.reason)

    async def _probe(self, name: str, state: TargetState) -> None:
        error: SlipwayError | None = None
        try:
            state.token = await self._engines[state.endpoint].probe(name, self._probe_s)
        except Exception as failure:  # noqa: BLE001 - every failure of a probe is a state of the target
            error = as_ours(failure)
        if error is None or error.code == "logprobs_differ":  # only a load fails of that; an alert says it
            state.note(error)
            if state.phase is not Phase.READY:
                self._enter(state, Phase.READY)
        elif error.code != "endpoint_unreachable":
            self._probe_failed(name, state, error)
        state.probed = self._clock.monotonic()

    def _probe_failed(self, name: str, state: TargetState, error: SlipwayError) -> None:
        state.suspicions += 1
        state.code, state.reason = error.code, error.reason
        self._log.warning("probe failed", target=name, code=error.code, reason=error.reason, times=state.suspicions)
        if error.code == "engine_dead" or state.suspicions >= SUSPICIONS:
            state.failures = 0
            self._enter(state, Phase.DEAD)

    async def _unload(self, name: str, state: TargetState, before: Phase) -> None:
        """Unload a target. One whose engine's agent is away stays what it was before: it still takes its memory."""
        try:
            await self._engines[state.endpoint].unload(name, permit=self._permission(Extent.ALL))
            self._check_after(name)
        except LeaseLost as error:
            self._put_off(name, state, error)
            return
        except AgentSilent as error:
            self._log.warning("unload put off: the agent does not answer", target=name, reason=error.reason)
            self._enter(state, before)
            return
        except SlipwayError as error:
            self._log.warning("unload failed", target=name, code=error.code, reason=error.reason)
        self._targets.pop(name, None)
        self._log.info("unloaded", target=name)

    @property
    def busy(self) -> bool:
        """Return whether a target is being loaded or unloaded."""
        return any(state.phase in BUSY for state in self._targets.values())
