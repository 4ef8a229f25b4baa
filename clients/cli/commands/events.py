"""`slipway events` and `slipway deadletters`: the log itself, and what failed for good."""

import asyncio
import contextlib
import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from clients.cli.connection import JsonOption, Place, StateOption, connected, find_place
from clients.cli.dead_letters import DeadLetter, find, list_all, requeue
from clients.cli.event_log import Part, Said, follow, read_history
from clients.cli.output import Refused, show_json, show_line, show_pairs, show_table
from clients.cli.views.render import event_line
from contracts.codes import ADVICE
from contracts.envelope import plain
from shared.errors import as_code

deadletters_app = typer.Typer(help="List, show and requeue what failed for good.", no_args_is_help=True)


def events(
    *,
    follow_it: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, progress included.")
    ] = False,
    model: Annotated[str | None, typer.Option("--model", help="Only about this model.")] = None,
    staging: Annotated[bool, typer.Option("--staging", help="What rehearsals said in staging.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", "-n", help="Only the last so many.")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the event log: one line an event, oldest first; with --json whole CloudEvents, one a line."""
    with contextlib.suppress(KeyboardInterrupt):
        part = Part(("*.*",), "staging") if staging else None
        asyncio.run(_events(find_place(state), model, part, limit=limit, follow_it=follow_it, as_json=as_json))


async def _events(
    place: Place, model: str | None, part: Part | None, *, limit: int | None, follow_it: bool, as_json: bool
) -> None:
    async with connected(place) as client:
        said = await read_history(client.jetstream(timeout=10), model, part)
        for one in said[-limit:] if limit is not None and limit > 0 else said:
            _print(one, as_json)
        if follow_it:
            after = {one.stream: one.sequence for one in sorted(said, key=lambda one: one.sequence)}
            async with contextlib.aclosing(follow(client, model, after=after, part=part)) as news:
                async for one in news:
                    _print(one, as_json)


def _print(one: Said, as_json: bool) -> None:
    if as_json:
        show_line(json.dumps(plain(one.event), ensure_ascii=False))
    else:
        show_line(event_line(one.event))


@deadletters_app.command("list")
def list_letters(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List what failed for good, oldest first."""
    letters = asyncio.run(_list(find_place(state)))
    if as_json:
        show_json([_data(letter) for letter in letters])
        return
    if not letters:
        show_line("no dead letters")
        return
    rows = [(one.sequence, one.at[:19], one.service, one.subject, one.code, one.reason[:100]) for one in letters]
    show_table(("number", "at", "service", "subject", "code", "reason"), rows)


async def _list(place: Place) -> list[DeadLetter]:
    async with connected(place) as client:
        return await list_all(client.jetstream(timeout=10))


@deadletters_app.command("show")
def show_letter(number: int, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show one dead letter: why it failed, what to do, and the message itself."""
    letter = asyncio.run(_find(find_place(state), number))
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
            "from": f"{letter.stream} message {letter.stream_sequence}, delivered {letter.deliveries} times",
        }
    )
    show_line()
    show_line(
        _data(letter)["body"] if isinstance(_data(letter)["body"], str) else json.dumps(_data(letter)["body"], indent=2)
    )


async def _find(place: Place, number: int) -> DeadLetter:
    async with connected(place) as client:
        letter = await find(client.jetstream(timeout=10), number)
    if letter is None:
        raise Refused(f"there is no dead letter {number}; see `slipway deadletters list`")
    return letter


@deadletters_app.command("requeue")
def requeue_letter(number: int, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Publish a dead letter again where it came from, once its cause is mended."""
    place = find_place(state)
    letter, sequence = asyncio.run(_requeue(place, number))
    if as_json:
        show_json({"number": number, "stream": letter.stream, "sequence": sequence})
    else:
        show_line(f"published dead letter {number} again on {letter.subject}")


async def _requeue(place: Place, number: int) -> tuple[DeadLetter, int]:
    letter = await _find(place, number)
    async with connected(place) as client:
        return letter, await requeue(client.jetstream(timeout=10), letter)


def _data(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as JSON data; its body as JSON where it is any."""
    try:
        body: Any = json.loads(letter.body)
    except ValueError:
        body = letter.body.decode(errors="replace")
    return {**asdict(letter), "body": body}
