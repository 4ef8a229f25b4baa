"""How far leases and orders are: how many of their targets generate, and what the others do."""

from collections.abc import Mapping
from typing import Any

from contracts.envelope import Event
from contracts.facts import WorkProgressed
from contracts.vocabulary import Deployable
from services.server_manager.domain.reconcile import Held, Phase
from services.server_manager.domain.records import Servers


def assess_progress(record: Servers, held: Mapping[str, Held]) -> list[tuple[Event[Any], WorkProgressed]]:
    """Return how far the held lease and the pending orders are: how many targets are ready, and what the rest do."""
    reports: list[tuple[Event[Any], WorkProgressed]] = []
    lease = record.lease
    if lease is not None and lease.state == "loading":
        request = lease.event.data
        pair = (request.candidate, request.baseline)
        reports.append((lease.event, _progress("stage", request.candidate, pair, held)))
    for order in record.orders:
        ordered = order.event.data
        needed = (ordered.target,) if ordered.fallback is None else (ordered.target, ordered.fallback)
        reports.append((order.event, _progress("promote", ordered.target, needed, held)))
    return reports


def _progress(step: str, about: Deployable, needed: tuple[Deployable, ...], held: Mapping[str, Held]) -> WorkProgressed:
    names = {str(deployable.target): held.get(str(deployable.target)) for deployable in needed}
    ready = [name for name, state in names.items() if state is not None and state.phase is Phase.READY]
    notes = [
        f"{name} waits for memory" if state is None else f"{name} {state.phase} for {state.since_s:.0f} s"
        for name, state in names.items()
        if name not in ready
    ]
    return WorkProgressed(
        step=step,
        done=len(ready),
        total=len(names),
        unit="targets",
        variant=about.target.variant,
        detail=", ".join(notes),
    )
