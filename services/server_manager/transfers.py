"""Loads of production on another endpoint than the one that serves it, which serves until its route is edited."""

import asyncio
from collections.abc import Callable, Collection

import structlog

from services.server_manager.domain.drains import Transfer
from services.server_manager.domain.moves import Copy
from services.server_manager.domain.reconcile import Limits
from services.server_manager.ports import Artifacts, Engines, LeaseLost, Permit
from shared.errors import SlipwayError, Transient, translate
from shared.runtime.clock import Clock

PROBE_S = 120.0
"""How long a target may take to its first token after it was loaded."""
OVERDUE_S = 10.0
"""How long a target that generates may wait for its route to be edited, before the drain reports that it waits."""


class Transfers:
    """Loads targets, proves that they generate, and remembers which are ready or failed; nothing of it is stored.

    A process that takes over finds what is loaded in the indexes of the engines.
    """

    def __init__(
        self,
        engines: Engines,
        artifacts: Artifacts,
        clock: Clock,
        limits: Limits,
        *,
        permit: Permit,
        wake: Callable[[], None],
    ) -> None:
        self._engines, self._artifacts, self._clock, self._limits = engines, artifacts, clock, limits
        self._permit, self._wake = permit, wake
        self._work: dict[Transfer, asyncio.Task[None]] = {}
        self._ready: dict[Transfer, float] = {}
        self._failures: dict[str, tuple[int, float, str]] = {}
        self._log = structlog.get_logger()

    @property
    def under_way(self) -> list[Transfer]:
        """Return what is being loaded, and what is ready and not taken over yet."""
        return [*self._work, *self._ready]

    @property
    def copies(self) -> list[Copy]:
        """Return what these take on their endpoints."""
        return [transfer.copy for transfer in self.under_way]

    def overdue(self) -> list[Transfer]:
        """Return those that generate and should have been taken over by now."""
        now = self._clock.monotonic()
        return [transfer for transfer, at in self._ready.items() if now - at >= OVERDUE_S]

    def ready(self, listed: Collection[Copy]) -> list[Transfer]:
        """Return those that generate, and that their endpoint has listed since."""
        keys = {(copy.endpoint, copy.name) for copy in listed}
        return [transfer for transfer in self._ready if (transfer.endpoint, transfer.name) in keys]

    def waiting(self) -> dict[str, str]:
        """Return the targets whose last try failed a moment ago, with the reason."""
        now = self._clock.monotonic()
        return {
            name: reason
            for name, (failures, at, reason) in self._failures.items()
            if now - at < self._limits.retry_after_s(failures)
        }

    def begin(self, transfer: Transfer) -> None:
        """Begin to load a target."""
        if transfer not in self.under_way:
            task = asyncio.create_task(self._load(transfer), name=f"load {transfer.name} on {transfer.endpoint}")
            self._work[transfer] = task
            task.add_done_callback(lambda _: self._ended(transfer))

    def _ended(self, transfer: Transfer) -> None:
        self._work.pop(transfer, None)
        self._wake()

    async def _load(self, transfer: Transfer) -> None:
        name, engine = transfer.name, self._engines[transfer.endpoint]
        log = self._log.bind(target=name, source=transfer.source, endpoint=transfer.endpoint)
        log.info("loading on another endpoint")
        try:
            folder = await self._artifacts.materialise(transfer.deployable)
            await engine.load(
                name,
                folder,
                digest=transfer.deployable.manifest.digest,
                memory_bytes=transfer.memory_bytes,
                serving=transfer.deployable.serving,
                permit=self._permit,
            )
            await engine.probe(name, PROBE_S)
        except LeaseLost as error:
            log.warning("not loaded: the lease is not confirmed", why=str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the target is served where it was, and tried again
            known = translate(error) or Transient("load_failed", f"{type(error).__name__}: {error}")
            log.warning("not loaded on another endpoint", code=known.code, reason=known.reason)
            self._note_failure(name, known.reason)
            await self._unload(transfer)
        else:
            log.info("ready on another endpoint")
            self._ready[transfer] = self._clock.monotonic()

    def _note_failure(self, name: str, reason: str) -> None:
        failures = self._failures.get(name, (0, 0.0, ""))[0] + 1
        self._failures[name] = (failures, self._clock.monotonic(), reason)

    async def _unload(self, transfer: Transfer) -> None:
        try:
            await self._engines[transfer.endpoint].unload(transfer.name, permit=self._permit)
        except (LeaseLost, SlipwayError) as error:
            self._log.warning("what failed to load could not be unloaded", target=transfer.name, why=str(error))

    def keep_only(
        self, is_current: Callable[[Transfer], bool], find_loss: Callable[[Transfer, float], str | None]
    ) -> None:
        """Drop what is not needed any more, and what was ready and was lost, which is a failed try.

        Args:
            is_current: whether a target is still to be moved: not held elsewhere by now, nor its endpoint used again.
            find_loss: why a target that was ready at a time (monotonic) cannot be taken over any more; None if it can.
        """
        for transfer, task in list(self._work.items()):
            if not is_current(transfer):
                task.cancel()
        for transfer, at in list(self._ready.items()):
            if not is_current(transfer):
                del self._ready[transfer]
                self._failures.pop(transfer.name, None)
            elif (loss := find_loss(transfer, at)) is not None:
                self._log.warning(
                    "lost on another endpoint", target=transfer.name, endpoint=transfer.endpoint, why=loss
                )
                del self._ready[transfer]
                self._note_failure(transfer.name, loss)

    async def stop(self) -> None:
        """Cancel what is being done and forget everything."""
        tasks = [*self._work.values()]
        self._ready, self._failures = {}, {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
