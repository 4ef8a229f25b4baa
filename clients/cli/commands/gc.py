"""`slipway gc`: remove what no version, release, record or hold refers to, safely beside releases."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

import typer

from clients.cli.audit_facts import state_change
from clients.cli.connection import StackAddress, connected, find_stack, sender_of
from clients.cli.gc.roots import names_on_bus
from clients.cli.gc.store import StoredObjects
from clients.cli.gc.sweeping import Sweeper, Swept
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, show_json, show_line, show_table, size_text
from clients.cli.parsing import parse_duration
from contracts.garbage import SHORTEST_WAIT_S, GcPlan
from shared.runtime.clock import SystemClock
from shared.storage.objects import AlreadyExists

YOUNGEST = timedelta(hours=1)
OldOption = Annotated[
    str, typer.Option("--older-than", metavar="7d", help="Only objects that were written longer ago.")
]
WaitOption = Annotated[
    str, typer.Option("--wait", metavar="24h", help="Time between the plan and the removal; at least 2 minutes.")
]


def gc(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what nothing refers to, and change nothing (the default).")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Write the plan; once its wait is over: remove what still nothing refers to.")
    ] = False,
    older_than: OldOption = "7d",
    wait: WaitOption = "24h",
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove objects of the store that no version, release, record or hold refers to.

    Run it with --yes twice: the first run plans, the second one, after the wait, removes. What a release begins to
    use in between stays. It takes an administrator's credential, and is in the audit log.
    """
    if dry_run and yes:
        raise CommandError("--dry-run and --yes exclude each other: give one of them", Exit.USAGE)
    stack, young, pause = find_stack(state), parse_duration(older_than), parse_duration(wait)
    if pause.total_seconds() < SHORTEST_WAIT_S:
        raise CommandError(f"--wait {wait} is too short: services read plans once a minute; use 2m or more", Exit.USAGE)
    if young < YOUNGEST:
        raise CommandError(
            f"--older-than {older_than} is too short: an upload may wait as long; use 1h or more", Exit.USAGE
        )
    store, clock = StoredObjects(stack.connection), SystemClock()
    sweeper = Sweeper(store, lambda: asyncio.run(names_on_bus(stack, clock.now() - young)), young, clock.now)
    plan = sweeper.find_plan()
    if not yes:
        _show_unreferenced(sweeper.unreferenced(clock.now()), plan, as_json=as_json)
    elif plan is None:
        _plan(stack, sweeper, pause, as_json=as_json)
    elif clock.now() < plan.sweep_after:
        raise CommandError(
            f"the plan {plan.id} with {len(plan.objects)} objects is carried out from "
            f"{plan.sweep_after:%Y-%m-%d %H:%M:%S} UTC on; run `slipway gc --yes` again then"
        )
    else:
        _sweep(stack, sweeper, plan, as_json=as_json)


def _show_unreferenced(objects: Mapping[str, int], plan: GcPlan | None, *, as_json: bool) -> None:
    if as_json:
        waiting = plan.model_dump(mode="json", exclude={"objects"}) if plan is not None else None
        show_json({"unreferenced": objects, "bytes": sum(objects.values()), "plan": waiting})
        return
    _show_by_kind(objects)
    show_line(f"nothing refers to {len(objects)} objects with {size_text(sum(objects.values()))}; nothing was changed")
    if plan is not None:
        show_line(f"the plan {plan.id} waits until {plan.sweep_after:%Y-%m-%d %H:%M:%S} UTC")


def _show_by_kind(objects: Mapping[str, int]) -> None:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for key, size in objects.items():
        kind = "/".join(key.split("/")[: 2 if key.startswith(("manifests/", "attestations/", "checkpoints/")) else 1])
        counts[kind] += 1
        sizes[kind] += size
    if counts:
        rows = [(kind, counts[kind], size_text(sizes[kind])) for kind in sorted(counts)]
        show_table(("kind", "objects", "size"), rows)


def _plan(stack: StackAddress, sweeper: Sweeper, wait: timedelta, *, as_json: bool) -> None:
    try:
        for _ in sweeper.plan_steps(wait):
            pass
    except AlreadyExists:
        raise CommandError("no plan was written: another `slipway gc` has just written one; run it again") from None
    plan = sweeper.find_plan()
    if plan is None:
        raise CommandError("no plan was written: another `slipway gc` removed it again; run it again")
    size = sum(plan.objects.values())
    asyncio.run(_state(stack, "gc.planned", plan.id, {"objects": len(plan.objects), "bytes": size}))
    if as_json:
        show_json({"plan": plan.model_dump(mode="json")})
        return
    _show_by_kind(plan.objects)
    show_line(
        f"planned to remove {len(plan.objects)} objects with {size_text(size)}; run `slipway gc --yes` again after "
        f"{plan.sweep_after:%Y-%m-%d %H:%M:%S} UTC"
    )


def _sweep(stack: StackAddress, sweeper: Sweeper, plan: GcPlan, *, as_json: bool) -> None:
    began, swept = time.monotonic(), Swept()
    asyncio.run(_state(stack, "gc.swept", plan.id, {"planned": len(plan.objects)}))  # before, as every change
    for _ in sweeper.sweep_steps(plan, swept):
        pass
    size = sum(swept.removed.values())
    if as_json:
        show_json({"plan": plan.id, "bytes": size, **asdict(swept)})
        return
    _show_by_kind(swept.removed)
    show_line(
        f"removed {len(swept.removed)} objects with {size_text(size)} in {time.monotonic() - began:.1f} s; "
        f"{len(swept.kept)} are used again and stay, {len(swept.locked)} are under lock"
    )
    if swept.overtaken:
        show_line(f"the plan {plan.id} has ended, maybe by another `slipway gc`; run it again for a new plan")


async def _state(stack: StackAddress, action: str, plan: str, details: dict[str, Any]) -> None:
    async with connected(stack) as client:
        await state_change(client.jetstream(timeout=10), sender_of(stack), action, plan, details=details)
