"""`slipway events` and `slipway deadletters`: the event log, and the messages that could not be processed."""

import asyncio
import contextlib
import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from nats.js import JetStreamContext

from clients.cli.audit_facts import state_change
from clients.cli.connection import StackAddress, ask_bus, connected, find_stack, sender_of
from clients.cli.events.dead_letters import DeadLetter, find, list_all, requeue
from clients.cli.events.event_log import EventFilter, LoggedEvent
from clients.cli.events.event_selection import Selection, read_selected, types_matching
from clients.cli.events.following import follow
from clients.cli.events.last_events import last_sequences
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import (
    CommandError,
    Exit,
    ended_by_interrupt,
    show_json,
    show_line,
    show_list,
    show_pairs,
    show_result,
)
from clients.cli.parsing import check_model, parse_moment
from clients.cli.releases.resolving import require_model
from clients.cli.views.render import event_line
from contracts.codes import ADVICE
from contracts.envelope import plain
from contracts.vocabulary import Environment
from shared.errors import as_code
from shared.runtime.clock import SystemClock

NumberArgument = Annotated[
    int, typer.Argument(metavar="NUMBER", help="Number of the dead letter, as `slipway deadletters list` shows it.")
]
deadletters_app = typer.Typer(
    help="List, show and requeue dead letters: messages that a service could not process.", no_args_is_help=True
)


def events(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Only events of this model.")] = None,
    *,
    keep_following: Annotated[
        bool, typer.Option("--follow", "-f", help="Then print new events as they arrive, progress included.")
    ] = False,
    kind: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="Only this type: rollback.started, alert.* …; repeatable."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only from then on: 2h, 7d, or 2026-11-27T05:30.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only before then.")] = None,
    environment: Annotated[
        Environment | None,
        typer.Option(help="Only events of this environment; without it those of both."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Only the last N events.")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the event log, oldest first: one line per event; with --json one CloudEvent per line."""
    if model is not None:
        check_model(model)
    if keep_following and until is not None:
        raise CommandError("--follow and --until exclude each other: give one of them", Exit.USAGE)
    now = SystemClock().now()
    selection = Selection(
        types_matching(kind or ()),
        parse_moment(since, now) if since is not None else None,
        parse_moment(until, now) if until is not None else None,
        model,
        limit,
        environment,
    )
    stack = find_stack(state)
    where = EventFilter(("*.*",), "staging") if environment == "staging" else None
    with ended_by_interrupt(following=keep_following):
        asyncio.run(_events(stack, selection, where, keep_following=keep_following, as_json=as_json))


async def _events(
    stack: StackAddress,
    selection: Selection,
    where: EventFilter | None,
    *,
    keep_following: bool,
    as_json: bool,
) -> None:
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        after = await last_sequences(js)
        history = await read_selected(js, selection, where)
        if not history and selection.model is not None:
            await require_model(js, selection.model)
        for logged in history:
            if not keep_following or logged.sequence <= after[logged.stream]:
                _print(logged, as_json)
        if not keep_following:
            return
        async with contextlib.aclosing(follow(client, selection.model, after=after, where=where)) as live:
            async for logged in live:
                if selection.includes(logged.event):
                    _print(logged, as_json)


def _print(logged: LoggedEvent, as_json: bool) -> None:
    if as_json:
        show_line(json.dumps(plain(logged.event), ensure_ascii=False))
    else:
        show_line(event_line(logged.event))


@deadletters_app.command("list")
def list_letters(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List dead letters, oldest first."""
    letters = ask_bus(find_stack(state), list_all)
    rows = [
        (letter.sequence, letter.at[:19], letter.service, letter.subject, letter.code, letter.reason[:100])
        for letter in letters
    ]
    columns = ("number", "at", "service", "subject", "code", "reason")
    show_list([_data(letter) for letter in letters], columns, rows, as_json=as_json, empty="no dead letters")


@deadletters_app.command("show")
def show_letter(number: NumberArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show a dead letter: reason of the failure, advice, message."""
    letter = ask_bus(find_stack(state), lambda js: _find(js, number))
    if as_json:
        show_json(_data(letter))
        return
    show_pairs(
        {
            "number": letter.sequence,
            "at": letter.at,
            "service": letter.service,
            "subject": letter.subject,
            "code": letter.code,
            "reason": letter.reason,
            "what to do": ADVICE[as_code(letter.code)],
            "origin": f"{letter.stream} message {letter.stream_sequence}, delivered {letter.deliveries} times",
        }
    )
    show_line()
    body = _data(letter)["body"]
    show_line(body if isinstance(body, str) else json.dumps(body, indent=2))


async def _find(js: JetStreamContext, number: int) -> DeadLetter:
    letter = await find(js, number)
    if letter is None:
        raise CommandError(f"there is no dead letter {number}; see `slipway deadletters list`")
    return letter


@deadletters_app.command("requeue")
def requeue_letter(number: NumberArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Publish a dead letter again under your name, once the cause is fixed; it takes an administrator's key."""
    stack = find_stack(state)
    letter, sequence = ask_bus(stack, lambda js: _requeue(js, sender_of(stack), number))
    line = f"published dead letter {number} of {letter.service} again: {letter.subject.rpartition('.')[0]}"
    show_result({"number": number, "stream": letter.stream, "sequence": sequence}, line, as_json=as_json)


async def _requeue(js: JetStreamContext, sender: str, number: int) -> tuple[DeadLetter, int]:
    letter = await _find(js, number)
    about = {"subject": letter.subject, "service": letter.service, "code": letter.code}
    await state_change(js, sender, "deadletter.requeue", str(number), about)
    return letter, await requeue(js, letter, sender)


def _data(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as JSON data, with its body parsed if it is JSON."""
    try:
        body: Any = json.loads(letter.body)
    except ValueError:
        body = letter.body.decode(errors="replace")
    return {**asdict(letter), "body": body}
