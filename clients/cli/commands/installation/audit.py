"""`slipway audit`: show orders, announcements and changes with sender, time and result, verified on reading."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from clients.cli.connection import StackAddress, find_stack, on_bus
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, show_line, show_list, warn
from clients.cli.parsing import parse_duration
from clients.cli.reading import own_models
from clients.cli.releases.version_records import attester_keys, open_store
from contracts.provenance.audit import AuditEntry, AuditTail
from shared.provenance.audit_log import AuditReading, export_log, read_export, read_log
from shared.provenance.envelopes import Trust
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket

audit_app = typer.Typer(help="Show, export and verify the audit log.", no_args_is_help=False)
READ_TRIES = 3
"""Maximum number of reads, because a segment may be written during a read."""


@audit_app.callback(invoke_without_command=True)
def audit(
    context: typer.Context,
    *,
    since: Annotated[str | None, typer.Option("--since", metavar="7d", help="How far back, for example 7d.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Only entries about this model.")] = None,
    who: Annotated[str | None, typer.Option("--who", metavar="NAME", help="Only what this identity did.")] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write the whole log as JSON lines, with its anchors."),
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the audit log, oldest first. The exit code is 1 if an entry or a segment was altered, removed or moved."""
    if context.invoked_subcommand is not None:
        return
    stack = find_stack(state)
    after = SystemClock().now() - parse_duration(since) if since is not None else None
    reading, data = asyncio.run(_read(stack, whole=export is not None))
    if export is not None:
        export.write_bytes(data)
        show_line(f"wrote {len(reading.entries)} entries to {export}; the last one has the digest {reading.head}")
    else:
        _show(reading.entries, after, model, who, as_json=as_json)
    _end(reading, "the audit log")


@audit_app.command("verify")
def verify_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `slipway audit --export` wrote.")],
    *,
    attesters: Annotated[
        Path | None,
        typer.Option(
            "--attesters", metavar="FILE", help="The public keys, trust/attesters.json (default: the stack's)."
        ),
    ] = None,
    state: StateOption = None,
) -> None:
    """Verify an exported log, without bus and store."""
    keys = Trust(attesters).keys() if attesters is not None else attester_keys(find_stack(state))
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}", Exit.USAGE) from error
    reading = read_export(data, keys)
    _end(reading, str(file))
    show_line(
        f"{file}: {len(reading.entries)} entries in a whole chain, {reading.segments} signed segments; the last entry "
        f"has the digest {reading.head}"
    )


async def _read(stack: StackAddress, *, whole: bool) -> tuple[AuditReading, bytes]:
    """Return the log, and with `whole` its export. The log is read again if a segment is written during the read."""
    keys, store = attester_keys(stack), open_store(stack)
    async with on_bus(stack) as js:
        if await own_models(js) is not None:
            raise CommandError(
                "the audit log tells of all teams, and an identity without a team reads it; see `slipway events`"
            )
        bucket = Bucket(js, "audit", AuditTail)
        for attempt in range(1, READ_TRIES + 1):
            entry = await bucket.get("tail")
            tail = entry.value if entry is not None else None
            reading = await asyncio.to_thread(read_log, store, tail, keys)
            if not reading.problems or attempt == READ_TRIES:
                break
            await asyncio.sleep(1)
        data = await asyncio.to_thread(export_log, store, tail or AuditTail(), reading.segments) if whole else b""
    return reading, data


def _show(
    entries: Sequence[AuditEntry],
    after: datetime | None,
    model: str | None,
    who: str | None,
    *,
    as_json: bool,
) -> None:
    shown = [
        entry
        for entry in entries
        if (after is None or entry.at >= after)
        and model in (None, entry.model, entry.about)
        and who in (None, entry.who)
    ]
    columns = ("entry", "at", "who", "kind", "action", "model", "about", "result")
    data = [entry.model_dump(mode="json") for entry in shown]
    show_list(data, columns, [_row(entry) for entry in shown], as_json=as_json)


def _row(entry: AuditEntry) -> tuple[Any, ...]:
    result = ": ".join(filter(None, (entry.result, entry.code, entry.reason)))
    action = entry.action.removeprefix("slipway.").removesuffix(".v1")
    return (
        entry.index,
        f"{entry.at:%Y-%m-%d %H:%M:%S}",
        entry.who or "-",
        entry.kind,
        action,
        entry.model,
        entry.about,
        result,
    )


def _end(reading: AuditReading, what: str) -> None:
    if reading.distrusted:
        more = f" ({len(reading.distrusted) - 1} more)" if len(reading.distrusted) > 1 else ""
        advice = "who had the key could have written them: compare with an export from before"
        warn(f"{what} has parts by revoked keys: {reading.distrusted[0]}{more}; {advice}")
    if reading.problems:
        more = f" ({len(reading.problems) - 1} more)" if len(reading.problems) > 1 else ""
        raise CommandError(f"{what} was tampered with: {reading.problems[0]}{more}", Exit.FAILED)
    for lost in reading.lost:
        warn(f"{what} has lost entries. {lost}")
    if reading.has_no_end:
        advice = "wait for a registry to go on with it, and read it again; if this lasts, see the registry's log"
        raise CommandError(f"{what} has no end, no entry that is there was altered: {advice}", Exit.FAILED)
