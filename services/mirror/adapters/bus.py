"""Reads routes, declared mirrors and recent facts from the bus, without a consumer."""

from collections.abc import Mapping

from nats.js.errors import NotFoundError

from contracts import facts as f
from contracts.facts import Fact
from contracts.facts.ops import RECORDS
from contracts.mirrors import Mirror
from contracts.routes import Route
from contracts.services import EVENTS
from contracts.vocabulary import ModelName
from shared.messaging.bus import Bus
from shared.storage.kv import Bucket

NOTED: tuple[type[Fact], ...] = (
    f.VersionRegistered,
    f.VariantBenchmarked,
    f.RehearsalCompleted,
    f.DeploymentChanged,
    f.RollbackCompleted,
    f.ReleaseFinished,
)
"""Facts that add records to a version or change a route."""
_MOST = 1000
"""Maximum facts of one type per call; the next call continues."""


class BusChanges:
    """Reads event log and routes (implements `ports.Changes`).

    Without a durable consumer, a failing message cannot become a dead letter and end a release. The regular comparison
    of all models finds facts missed while the mirror was down.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._next: dict[type[Fact], int] | None = None

    async def route(self, model: ModelName) -> Route | None:
        """Return a model's production route; None if there is none."""
        entry = await Bucket(self._bus.js, "routes", Route).get(model)
        return entry.value if entry is not None else None

    async def declared(self) -> Mapping[str, Mirror]:
        """Return the mirrors declared by `slipway apply`, by registry."""
        mirrors = await Bucket(self._bus.js, RECORDS["mirror"][0], Mirror).all()
        return {name: entry.value for name, entry in mirrors.items()}

    async def changed(self) -> set[ModelName]:
        """Return the models with new facts since the last call; none at the first."""
        if self._next is None:
            last = await self._last()
            self._next = dict.fromkeys(NOTED, last + 1)
            return set()
        models: set[ModelName] = set()
        for fact in NOTED:
            models |= await self._since(fact, self._next)
        return models

    async def _since(self, fact: type[Fact], following: dict[type[Fact], int]) -> set[ModelName]:
        models = set()
        for _ in range(_MOST):
            try:
                message = await self._bus.js.get_msg(EVENTS, following[fact], subject=f"{fact.TYPE}.*.*", next=True)
            except NotFoundError:
                break
            following[fact] = (message.seq or following[fact]) + 1
            models.add((message.subject or "").removeprefix(f"{fact.TYPE}.").split(".")[0])
        return models

    async def _last(self) -> int:
        """Return the sequence number of the log's last message; 0 if it is empty."""
        try:
            return (await self._bus.js.get_last_msg(EVENTS, ">")).seq or 0
        except NotFoundError:
            return 0
