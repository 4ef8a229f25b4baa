"""`slipway gc`: remove objects without a reference, safe to run during releases."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from clients.cli.audit_facts import state_change
from clients.cli.connection import StackAddress, ask_bus, find_stack, sender_of
from clients.cli.gc.roots import names_on_bus
from clients.cli.gc.store import StoredObjects
from clients.cli.gc.sweeping import Sweeper
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, show_json, show_line, show_table, size_text
from clients.cli.parsing import parse_duration
from shared.runtime.clock import SystemClock

SHORTEST = timedelta(hours=1)


def gc(
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="Hide what nothing refers to, and erase what was hidden for the grace period.")
    ] = False,
    grace: Annotated[
        str,
        typer.Option(
            "--grace",
            metavar="7d",
            help="How old an object must be to be hidden, and how long it is hidden before it is erased; at least 1h.",
        ),
    ] = "7d",
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show or remove objects of the store that no version, release, record or hold refers to.

    With --yes they are hidden under delete markers. A later run erases objects that were hidden for the grace period,
    and shows objects with new references again. It takes an administrator's credential, and is in the audit log.
    """
    stack, kept_for = find_stack(state), parse_duration(grace)
    if kept_for < SHORTEST:
        raise CommandError(f"--grace {grace} is too short: an upload may take as long; use 1h or more", Exit.USAGE)
    store, clock = StoredObjects(stack.connection), SystemClock()

    def names() -> set[str]:
        return asyncio.run(names_on_bus(stack, clock.now() - kept_for))

    sweeper = Sweeper(store, names, kept_for, clock.now)
    if yes:
        _sweep(stack, store, sweeper, as_json=as_json)
        return
    objects = sweeper.unreferenced()
    if as_json:
        show_json({"unreferenced": objects, "bytes": sum(objects.values())})
        return
    _show_by_kind(objects)
    show_line(f"nothing refers to {_described(objects)}; nothing was changed, --yes hides them")


def _described(objects: Mapping[str, int]) -> str:
    return f"{len(objects)} objects with {size_text(sum(objects.values()))}"


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


def _sweep(stack: StackAddress, store: StoredObjects, sweeper: Sweeper, *, as_json: bool) -> None:
    if not store.has_lock():
        raise CommandError(
            f"the bucket {store.bucket} has no object lock; switch on versioning, with which what is removed can be "
            "shown again, and object lock as docs/operations.md says"
        )
    details = {"grace_s": sweeper.grace.total_seconds()}  # in the audit log before the change
    ask_bus(stack, lambda js: state_change(js, sender_of(stack), "gc.swept", store.bucket, details))
    began, swept = time.monotonic(), sweeper.sweep()
    if as_json:
        show_json(asdict(swept))
        return
    _show_by_kind(swept.erased)
    show_line(
        f"erased {_described(swept.erased)} in {time.monotonic() - began:.1f} s; hid {_described(swept.hidden)}, which "
        f"a run after the grace period erases; {len(swept.shown)} are used again, {len(swept.locked)} are under lock"
    )
