"""`slipway events` and `slipway deadletters`: the event log, and the messages that could not be processed."""

import asyncio
import contextlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from nats.js import JetStreamContext

from clients.cli.archived_events import GROUPS, find_archive, selected
from clients.cli.audit_facts import state_change
from clients.cli.completion import complete_models
from clients.cli.connection import JsonOption, StackAddress, StateOption, connected, find_stack, sender_of
from clients.cli.dead_letters import DeadLetter, find, list_all, requeue
from clients.cli.event_log import EventFilter, LoggedEvent, follow, last_sequences, log_begin, read_history
from clients.cli.event_types import types_matching
from clients.cli.output import CommandError, Exit, show_json, show_line, show_pairs, show_table, warn
from clients.cli.parsing import check_model, parse_moment
from clients.cli.views.render import event_line
from contracts.codes import ADVICE
from contracts.envelope import Event, plain
from contracts.facts import FACTS
from contracts.services import EVENTS, FROM_OUTSIDE, stream_of
from contracts.vocabulary import Environment
from decisions.event_archive import group_of
from decisions.orders import CLOCK_SKEW
from shared.errors import as_code
from shared.runtime.clock import SystemClock

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
NumberArgument = Annotated[
    int, typer.Argument(metavar="NUMBER", help="Number of the dead letter, as `slipway deadletters list` shows it.")
]
deadletters_app = typer.Typer(
    help="List, show and requeue dead letters: messages that a service could not process.", no_args_is_help=True
)


def events(
    *,
    keep_following: Annotated[
        bool, typer.Option("--follow", "-f", help="Then print new events as they arrive, progress included.")
    ] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="Only events of this model.", autocompletion=complete_models)
    ] = None,
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
        typer.Option(help="Environment of the events (default: production); rehearsals may run in staging."),
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
    )
    stack = find_stack(state)
    where = EventFilter(("*.*",), "staging") if (environment or stack.environment) == "staging" else None
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(
            _events(stack, model, where, selection, limit=limit, keep_following=keep_following, as_json=as_json)
        )


_NAMES = {
    type_.removeprefix("slipway.").rpartition(".")[0]: fact
    for type_, fact in FACTS.items()
    if stream_of(fact) == EVENTS
}
"""Events of services, by their names in a filter."""


@dataclass(frozen=True)
class Selection:
    """Which events to print: types, and their time."""

    types: frozenset[str]
    since: datetime | None = None
    until: datetime | None = None

    def filter(self) -> EventFilter | None:
        """Return what is read of the log for these types, of all environments; None for all of it."""
        names = [name for name, fact in _NAMES.items() if fact.TYPE in self.types]
        if len(names) == len(_NAMES):
            return None
        with_orders = any(FACTS[type_] in FROM_OUTSIDE for type_ in self.types)
        return EventFilter(tuple(names), environment=None, with_orders=with_orders)

    def includes(self, event: Event[Any]) -> bool:
        """Return whether to print an event."""
        after = self.since is None or event.time >= self.since
        return after and event.type in self.types and (self.until is None or event.time < self.until)


async def _events(
    stack: StackAddress,
    model: str | None,
    where: EventFilter | None,
    selection: Selection,
    *,
    limit: int | None,
    keep_following: bool,
    as_json: bool,
) -> None:
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        after = await last_sequences(js)
        # an event is stored after its own time, but for the clocks of two machines
        since = None if selection.since is None else max(selection.since, EARLIEST + CLOCK_SKEW) - CLOCK_SKEW
        archived = await _archived(js, stack, selection, model=model, where=where, since=since)
        reading = selection.filter() if where is None else where
        history = archived + await read_history(js, model, reading, since, before_log=bool(archived))
        shown = [logged for logged in history if selection.includes(logged.event)]
        for logged in shown if limit is None else shown[-limit:]:
            _print(logged, as_json)
        if not keep_following:
            return
        after |= {logged.stream: logged.sequence for logged in sorted(history, key=lambda logged: logged.sequence)}
        async with contextlib.aclosing(follow(client, model, after=after, where=where)) as live:
            async for logged in live:
                if selection.includes(logged.event):
                    _print(logged, as_json)


async def _archived(
    js: JetStreamContext,
    stack: StackAddress,
    selection: Selection,
    *,
    model: str | None,
    where: EventFilter | None,
    since: datetime | None,
) -> list[LoggedEvent]:
    """Return the events of selected types from before the log begins: those of a model, or since a time."""
    begin = await log_begin(js)
    if begin is None or (since is not None and since >= begin):
        return []
    if model is None and since is None:
        warn(f"events before {begin:%Y-%m-%d %H:%M} UTC are in the archive: --model or --since reads them, too")
        return []
    archive = await find_archive(js, stack)
    if archive is None:
        warn(f"events before {begin:%Y-%m-%d %H:%M} UTC are in the archive, which this identity may not read")
        return []
    groups = [group for group in GROUPS if group in {group_of(f"{type_}.-.-") for type_ in selection.types}]
    if model is not None:
        return selected(await archive.of_model(model, groups, since), where)
    assert since is not None  # noqa: S101 - for the type checker
    return selected([message async for message in archive.since(since, groups)], where)


def _print(logged: LoggedEvent, as_json: bool) -> None:
    if as_json:
        show_line(json.dumps(plain(logged.event), ensure_ascii=False))
    else:
        show_line(event_line(logged.event))


@deadletters_app.command("list")
def list_letters(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List dead letters, oldest first."""
    letters = asyncio.run(_list(find_stack(state)))
    if as_json:
        show_json([_data(letter) for letter in letters])
        return
    if not letters:
        show_line("no dead letters")
        return
    rows = [
        (letter.sequence, letter.at[:19], letter.service, letter.subject, letter.code, letter.reason[:100])
        for letter in letters
    ]
    show_table(("number", "at", "service", "subject", "code", "reason"), rows)


async def _list(stack: StackAddress) -> list[DeadLetter]:
    async with connected(stack) as client:
        return await list_all(client.jetstream(timeout=10))


@deadletters_app.command("show")
def show_letter(number: NumberArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show a dead letter: why processing failed, what to do, and the message itself."""
    letter = asyncio.run(_find(find_stack(state), number))
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
    show_line(
        _data(letter)["body"] if isinstance(_data(letter)["body"], str) else json.dumps(_data(letter)["body"], indent=2)
    )


async def _find(stack: StackAddress, number: int) -> DeadLetter:
    async with connected(stack) as client:
        letter = await find(client.jetstream(timeout=10), number)
    if letter is None:
        raise CommandError(f"there is no dead letter {number}; see `slipway deadletters list`")
    return letter


@deadletters_app.command("requeue")
def requeue_letter(number: NumberArgument, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Publish a dead letter again under your name, once the cause is fixed; it takes an administrator's key."""
    stack = find_stack(state)
    letter, sequence = asyncio.run(_requeue(stack, number))
    if as_json:
        show_json({"number": number, "stream": letter.stream, "sequence": sequence})
    else:
        show_line(f"published dead letter {number} of {letter.service} again: {letter.subject.rpartition('.')[0]}")


async def _requeue(stack: StackAddress, number: int) -> tuple[DeadLetter, int]:
    letter = await _find(stack, number)
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        about = {"subject": letter.subject, "service": letter.service, "code": letter.code}
        await state_change(js, sender_of(stack), "deadletter.requeue", str(number), details=about)
        return letter, await requeue(js, letter, sender_of(stack))


def _data(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as JSON data, with its body parsed if it is JSON."""
    try:
        body: Any = json.loads(letter.body)
    except ValueError:
        body = letter.body.decode(errors="replace")
    return {**asdict(letter), "body": body}
