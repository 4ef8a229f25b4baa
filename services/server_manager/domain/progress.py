"""Progress reports of leases and orders: the number of ready targets, and the state of the others. Pure."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from contracts.envelope import Event
from contracts.facts import WorkProgressed
from contracts.vocabulary import Deployable
from services.server_manager.domain.reconcile import Held, Phase, home_of
from services.server_manager.domain.records import Servers


def assess_progress(
    record: Servers,
    held: Mapping[str, Held],
    down: Collection[str] = (),
    homes: Mapping[str, str] | None = None,
    lacks: Callable[[Deployable], bool] = lambda _target: False,
) -> list[tuple[Event[Any], WorkProgressed]]:
    """Return the progress of the loading lease, of traffic orders, and of leases waiting for attached servers.

    `down`: endpoints that do not answer; `homes`: endpoint by target name; `lacks`: returns whether no attached server
    serves an attached target.
    """
    reports: list[tuple[Event[Any], WorkProgressed]] = []
    homes = homes or {}
    known: dict[str, Any] = {"down": down, "homes": homes, "lacks": lacks}
    loading = [record.lease] if record.lease is not None and record.lease.state == "loading" else []
    for lease in (*loading, *record.waiting):
        request = lease.event.data
        pair = (request.candidate, request.baseline)
        if lease in loading or any(map(lacks, pair)):
            reports.append((lease.event, _progress("stage", request.candidate, pair, held, **known)))
    for order in record.orders:
        ordered = order.event.data
        needed = (ordered.target,) if ordered.fallback is None else (ordered.target, ordered.fallback)
        reports.append((order.event, _progress("promote", ordered.target, needed, held, **known)))
    return reports


def _progress(
    step: str,
    about: Deployable,
    needed: tuple[Deployable, ...],
    held: Mapping[str, Held],
    *,
    down: Collection[str],
    homes: Mapping[str, str],
    lacks: Callable[[Deployable], bool],
) -> WorkProgressed:
    names = {str(deployable.target): held.get(str(deployable.target)) for deployable in needed}
    silent = {str(deployable.target) for deployable in needed if home_of(deployable, homes) in down}
    missing = {str(deployable.target) for deployable in needed if lacks(deployable)}
    ready = [
        name for name, state in names.items() if state is not None and state.phase is Phase.READY and name not in silent
    ]
    notes = []
    for name, state in names.items():
        if name in silent:
            notes.append(f"{name} waits for its runtime, which does not answer")
        elif name in missing:
            notes.append(f"{name} waits until all replicas of an attached group answer by that name")
        elif name not in ready:
            doing = "waits" if missing else "waits for memory"
            doing = doing if state is None else f"{state.phase} for {state.since_s:.0f} s"
            notes.append(f"{name} {doing}")
    return WorkProgressed(
        step=step,
        done=len(ready),
        total=len(names),
        unit="targets",
        variant=about.target.variant,
        detail=", ".join(notes),
    )
