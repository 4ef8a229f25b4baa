"""The targets of one engine as they are now, and the work that is being done on them."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from contracts.codes import Code
from contracts.vocabulary import Deployable, Digest
from services.server_manager.domain.fleet import BUSY, Action, Held, Limits, Phase
from services.server_manager.ports import Artifacts, Engine, Extent, Indexed, Leadership, LeaseLost, Permit
from shared.errors import Permanent, SlipwayError, Transient, translate
from shared.runtime.clock import Clock

SUSPICIONS = 2
"""Silent probes in a row after which a target is taken for dead; an engine that says so itself is dead at once."""


@dataclass
class Slot:
    """One target: its phase, and since when."""

    digest: Digest
    memory_bytes: int
    phase: Phase
    since: float
    failures: int = 0
    code: Code | None = None
    reason: str = ""
    hopeless: bool = False
    suspicions: int = 0
    probed: float | None = None
    unwanted: float | None = None
    token: str = ""
    work: asyncio.Task[None] | None = field(default=None, repr=False)


class Fleet:
    """Does actions on an engine, each target's one after the other, different targets' side by side."""

    def __init__(
        self,
        engine: Engine,
        artifacts: Artifacts,
        clock: Clock,
        limits: Limits,
        lead: Leadership,
        *,
        on_change: Callable[[], None],
        load_probe_s: float = 120.0,
        probe_s: float = 20.0,
    ) -> None:
        self._engine = engine
        self._artifacts = artifacts
        self._clock = clock
        self._limits = limits
        self._lead = lead
        self._on_change = on_change
        self._load_probe_s = load_probe_s
        self._probe_s = probe_s
        self._slots: dict[str, Slot] = {}
        self._known = False
        self._log = structlog.get_logger()

    @property
    def known(self) -> bool:
        """Return whether the engine has listed what it holds since the start or the last `stop`.

        Before that `held` is empty whatever the engine serves, and nothing may be begun on it.
        """
        return self._known

    def held(self) -> dict[str, Held]:
        """Return every target as it is now."""
        now = self._clock.monotonic()
        return {
            name: Held(
                digest=slot.digest,
                memory_bytes=slot.memory_bytes,
                phase=slot.phase,
                failures=slot.failures,
                code=slot.code,
                reason=slot.reason,
                hopeless=slot.hopeless,
                since_s=now - slot.since,
                since_probe_s=float("inf") if slot.probed is None else now - slot.probed,
                unwanted_s=None if slot.unwanted is None else now - slot.unwanted,
                probing=slot.work is not None,
            )
            for name, slot in self._slots.items()
        }

    def token(self, name: str) -> str:
        """Return the first text that a target generated at its last probe."""
        slot = self._slots.get(name)
        return slot.token if slot else ""

    def note_wanted(self, names: Mapping[str, object]) -> None:
        """Note which targets are wanted now, so that the others' patience can run out."""
        now = self._clock.monotonic()
        for name, slot in self._slots.items():
            if name in names:
                slot.unwanted = None
            elif slot.unwanted is None:
                slot.unwanted = now

    def note_index(self, index: Mapping[str, Indexed], asked_at: float) -> None:
        """Take over what the engine says it holds. READY means only that it may be probed.

        Args:
            index: the engine's answer.
            asked_at: monotonic time of the question; what changed since then is not judged by the answer.
        """
        self._known = True
        for name, slot in list(self._slots.items()):
            there = (name in index and index[name].ready) or slot.since >= asked_at
            if slot.work is None and not there and slot.phase is not Phase.FAILED:
                self._log.warning("target is gone from the engine", target=name, phase=slot.phase)
                del self._slots[name]
        for name, entry in index.items():
            if entry.ready and name not in self._slots:
                digest = entry.digest or "sha256:" + "0" * 64
                self._slots[name] = Slot(digest, entry.memory_bytes, Phase.UNPROVEN, self._clock.monotonic())

    def start(self, action: Action) -> None:
        """Begin an action; it goes on by itself, and `on_change` is called when it ends."""
        slot = self._slots.get(action.name)
        if slot is not None and slot.work is not None:
            return
        if action.kind == "probe" and slot is not None:
            work = self._probe(action.name, slot)
        elif action.kind == "unload" and slot is not None:
            self._enter(slot, Phase.UNLOADING)
            work = self._unload(action.name, slot)
        elif action.deployable is not None:
            replaces = slot is not None and slot.digest != action.deployable.manifest.digest
            needed = Extent.ALL if replaces else Extent.RECYCLE
            slot = self._prepare_slot(action.name, action.deployable, slot)
            work = self._load(action.name, action.deployable, slot, needed, heal=action.kind == "heal")
        else:
            return
        slot.work = asyncio.create_task(work, name=f"{action.kind} {action.name}")
        slot.work.add_done_callback(lambda task: self._ended(slot, task))

    def _ended(self, slot: Slot, task: asyncio.Task[None]) -> None:
        slot.work = None
        if not task.cancelled() and task.exception() is not None:
            self._log.error("work on a target broke", work=task.get_name(), exc_info=task.exception())
        self._on_change()

    async def stop(self) -> None:
        """Cancel what is being done and forget everything; the engine's index tells it again."""
        tasks = [slot.work for slot in self._slots.values() if slot.work is not None]
        self._slots.clear()
        self._known = False
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- actions ----------------------------------------------------------------------------------------------------

    def _prepare_slot(self, name: str, deployable: Deployable, slot: Slot | None) -> Slot:
        memory = self._limits.memory_bytes(deployable)
        digest = deployable.manifest.digest
        if slot is None or slot.digest != digest:
            slot = self._slots[name] = Slot(digest, memory, Phase.LOADING, self._clock.monotonic())
        slot.memory_bytes = memory
        self._enter(slot, Phase.LOADING)
        return slot

    def _enter(self, slot: Slot, phase: Phase) -> None:
        slot.phase = phase
        slot.since = self._clock.monotonic()

    def _permission(self, needed: Extent) -> Permit:
        """Return what raises LeaseLost unless this process may do so much at that moment."""

        async def permit() -> None:
            extent = await self._lead.confirm()
            if extent is Extent.NOTHING or (needed is Extent.ALL and extent is not Extent.ALL):
                raise LeaseLost(f"needed {needed}, allowed {extent}")

        return permit

    def _put_off(self, name: str, slot: Slot, error: LeaseLost) -> None:
        """Forget a target whose action was not allowed: the next look at the engine says what it is.

        One whose loads failed stays failed, with their number, or it would be tried again at every tick.
        """
        self._log.warning("not done: the lease is not certain", target=name, why=str(error))
        if self._slots.get(name) is not slot:
            return
        if slot.failures:
            self._enter(slot, Phase.FAILED)
        else:
            del self._slots[name]

    def _check_after(self, name: str) -> None:
        """Log that the engine was taken over while it was asked: the next holder loads it again if it wants it."""
        if self._lead.superseded():
            self._log.error("another process took the engine over during this action", target=name)

    async def _load(self, name: str, deployable: Deployable, slot: Slot, needed: Extent, *, heal: bool) -> None:
        began = self._clock.monotonic()
        self._log.info("loading", target=name, heal=heal)
        try:
            folder = await self._artifacts.materialise(deployable)
            if heal:
                await self._engine.unload(name, wait=False, permit=self._permission(needed))
                needed = Extent.RECYCLE  # it is gone by now: only another holder's order stops the load
            await self._engine.load(
                name, folder, digest=slot.digest, memory_bytes=slot.memory_bytes, permit=self._permission(needed)
            )
            self._check_after(name)
            slot.token = await self._engine.probe(name, self._load_probe_s)
        except LeaseLost as error:
            self._put_off(name, slot, error)
            return
        except Exception as error:  # noqa: BLE001 - every failure of a load is a state of the target
            await self._load_failed(name, slot, error)
            return
        slot.failures, slot.suspicions, slot.code, slot.reason, slot.hopeless = 0, 0, None, "", False
        slot.probed = self._clock.monotonic()
        self._enter(slot, Phase.HOT)
        self._log.info("hot", target=name, load_s=round(slot.since - began, 2), first_token=slot.token)

    async def _load_failed(self, name: str, slot: Slot, error: Exception) -> None:
        known = _as_ours(error)
        self._log.warning("load failed", target=name, code=known.code, reason=known.reason)
        if known.code == "endpoint_unreachable":
            # The engine went away, which says nothing about the target: it is loaded when the engine is back.
            self._slots.pop(name, None)
            return
        slot.failures += 1
        slot.code, slot.reason, slot.hopeless = known.code, known.reason, isinstance(known, Permanent)
        self._enter(slot, Phase.FAILED)
        try:
            await self._engine.unload(name, permit=self._permission(Extent.ALL))
        except LeaseLost as lost:
            self._put_off(name, slot, lost)
        except SlipwayError as also:
            self._log.warning("unload after a failed load failed", target=name, reason=also.reason)

    async def _probe(self, name: str, slot: Slot) -> None:
        try:
            slot.token = await self._engine.probe(name, self._probe_s)
        except Exception as error:  # noqa: BLE001 - every failure of a probe is a state of the target
            self._probe_failed(name, slot, _as_ours(error))
        else:
            slot.failures, slot.suspicions, slot.code, slot.reason = 0, 0, None, ""
            if slot.phase is not Phase.HOT:
                self._enter(slot, Phase.HOT)
        slot.probed = self._clock.monotonic()

    def _probe_failed(self, name: str, slot: Slot, error: SlipwayError) -> None:
        if error.code == "endpoint_unreachable":
            return
        slot.suspicions += 1
        slot.code, slot.reason = error.code, error.reason
        self._log.warning("probe failed", target=name, code=error.code, reason=error.reason, times=slot.suspicions)
        if error.code == "engine_dead" or slot.suspicions >= SUSPICIONS:
            slot.failures = 0
            self._enter(slot, Phase.DEAD)

    async def _unload(self, name: str, slot: Slot) -> None:
        try:
            await self._engine.unload(name, permit=self._permission(Extent.ALL))
            self._check_after(name)
        except LeaseLost as error:
            self._put_off(name, slot, error)
            return
        except SlipwayError as error:
            self._log.warning("unload failed", target=name, code=error.code, reason=error.reason)
        self._slots.pop(name, None)
        self._log.info("unloaded", target=name)

    @property
    def busy(self) -> bool:
        """Return whether a target is being loaded or unloaded."""
        return any(slot.phase in BUSY for slot in self._slots.values())


def _as_ours(error: Exception) -> SlipwayError:
    return translate(error) or Transient("load_failed", f"{type(error).__name__}: {error}")
