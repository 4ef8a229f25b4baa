"""`slipway status`: the progress of releases, once or followed until they end."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated

import nats.errors
import typer
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from clients.cli.connection import StackAddress, connected, find_stack, on_bus
from clients.cli.events.event_log import parse
from clients.cli.options import JsonOption, StateOption
from clients.cli.output import CommandError, Exit, ended_by_interrupt, show_json, show_line, warn
from clients.cli.reading import own_models
from clients.cli.releases.names import FORMS, Name, parse_name
from clients.cli.releases.recorded_releases import (
    Release,
    last_announced,
    newest_release,
    read_releases,
    release_of_checkpoint,
)
from clients.cli.releases.resolving import resolve_text, unknown_release
from clients.cli.releases.serving import read_suspended
from clients.cli.views import render
from clients.training import Published
from contracts.envelope import Event, nats_subject
from contracts.facts import WorkProgressed
from contracts.facts.progress import ReleaseProgress
from decisions.releases.work_progress import ongoing
from shared.errors import Transient
from shared.runtime.clock import SystemClock

EVERY_S = 0.5

MODEL_HELP = f"{FORMS} (default: the newest of each model and all under way; with --follow or --until, the newest)."
UNTIL = "finished"


def status(
    *,
    what: Annotated[str | None, typer.Argument(metavar="MODEL|RELEASE", help=MODEL_HELP)] = None,
    keep_following: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the release and print its progress.")
    ] = False,
    until: Annotated[
        str | None, typer.Option(metavar="finished", help="Follow the release and return when it has ended.")
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="Show every release with its steps, not only the newest and those under way."),
    ] = False,
    timeout: Annotated[float | None, typer.Option(help="Maximum time to wait for the end, in seconds.")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the progress of releases, the newest first. With --until finished, the exit code is 0 if promoted, else 3.

    An interrupt (Ctrl-C) ends --follow with exit code 0, and --until with 130.
    """
    if until not in (None, UNTIL):
        raise CommandError(f"--until {until} is not valid: use --until {UNTIL}", Exit.USAGE)
    stack = find_stack(state)
    if not keep_following and until is None:
        asyncio.run(_show_all(stack, what, every, as_json))
        return
    with ended_by_interrupt(following=until is None):
        asyncio.run(follow_release(stack, what, until, timeout, as_json))


async def _read(js: JetStreamContext, what: str | None, every: bool) -> list[Release]:
    """Return the named release or the releases of a model; by default the newest and all in progress, or all.

    Raises:
        CommandError: The named release does not exist.
    """
    named = await resolve_text(js, what)
    if named is None:
        return await read_releases(js, None, every=every)
    name = parse_name(named)
    releases = [await newest_release(js, name, None)] if not name.is_model else await read_releases(js, name.model)
    known = [release for release in releases if release is not None]
    if not known:
        raise CommandError(await unknown_release(js, named))
    return known


async def _show_all(stack: StackAddress, what: str | None, every: bool, as_json: bool) -> None:
    async with on_bus(stack) as js:
        for sentence in await read_suspended(js, None if what is None else parse_name(what).model or None):
            warn(sentence)
        shown = await _read(js, what, every)
    if as_json:
        show_json([render.as_data(release) for release in shown])
        return
    now, newest = SystemClock().now(), {release.progress.model: release for release in shown}
    for release in reversed(shown):
        progress = release.progress
        is_whole = every or progress.outcome is None or newest[progress.model] is release
        since = "; rolled back since then" if release.rolled_back else ""
        lines = render.block(release, now) if is_whole else [f"{render.headline(progress, now)}{since}"]
        show_line("\n".join(lines))
    if not shown:
        show_line("no release yet; publish a checkpoint with `slipway publish`")


async def follow_release(
    stack: StackAddress,
    what: str | None,
    until: str | None,
    timeout_s: float | None,
    as_json: bool,
    *,
    published: Published | None = None,
) -> None:
    """Draw the progress of a release; return after its end if `until` is set.

    With `published`, it is the release of this checkpoint.

    Raises:
        CommandError: The release has not ended after `timeout_s`.
        typer.Exit: The release was not promoted.
    """
    try:
        async with asyncio.timeout(timeout_s):
            draw = Drawing(as_json=as_json)
            ended = await _watch(stack, what, draw, stop_at_end=until is not None, published=published)
    except TimeoutError:
        raise CommandError(f"the release had not ended after {timeout_s:g} s; see `slipway status`") from None
    if ended is not None and ended.progress.outcome != "promoted":
        raise typer.Exit(int(Exit.NOT_PROMOTED))


async def _watch(
    stack: StackAddress, what: str | None, draw: "Drawing", *, stop_at_end: bool, published: Published | None
) -> Release:
    """Draw the progress of a release, also after restarts of the bus; return it after its end if `stop_at_end`."""
    clock, reports = SystemClock(), Reports()
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        name = parse_name(await resolve_text(js, what) or await _newest_model(js))
        announced = await last_announced(js, name.model) if name.is_model else None
        followed = [name.model] if name.model else await own_models(js) or ["*"]
        for model in followed:
            await client.subscribe(nats_subject(WorkProgressed.TYPE, model, "*"), cb=reports.take)
        while True:
            with contextlib.suppress(TimeoutError, nats.errors.Error, Transient):
                if published is not None and name.is_model:
                    release = await release_of_checkpoint(js, published)
                else:
                    release = await newest_release(js, name, announced)
                if release is not None:
                    if published is not None and release.progress.release_id is not None:
                        name = Name(release_id=release.progress.release_id)
                    draw(release, ongoing(release.progress, reports.about(release.progress)), clock.now())
                    if stop_at_end and release.progress.outcome is not None:
                        return release
            await asyncio.sleep(EVERY_S)


async def _newest_model(js: JetStreamContext) -> str:
    """Return the model of the newest release.

    Raises:
        CommandError: there is no release.
    """
    releases = await read_releases(js, None)
    if not releases:
        raise CommandError("no release yet; publish a checkpoint with `slipway publish`")
    return releases[-1].progress.model


class Reports:
    """Keeps the last reports of work, by release and variant."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str | None], Event[WorkProgressed]] = {}

    async def take(self, message: Msg) -> None:
        """Keep the report of a message."""
        event = parse(message.subject, message.data)
        if event is not None and isinstance(event.data, WorkProgressed):
            self._last[event.correlationid, event.data.variant] = event

    def about(self, release: ReleaseProgress) -> list[Event[WorkProgressed]]:
        """Return the last reports about a release."""
        return [event for (release_id, _), event in self._last.items() if release_id == release.release_id]


class Drawing:
    """Prints changes of a release: a line for each step that changed, and progress in steps of 10 %."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._printed: set[tuple[str, ...]] = set()

    def __call__(self, release: Release, work: Sequence[WorkProgressed], now: datetime) -> None:
        """Print the changes since the last call."""
        progress = release.progress
        key = progress.release_id or release.source_id
        if self._as_json:
            self._once((key, repr((release, work))), lambda: show_json(render.as_data(release, work)))
            return
        self._once((key, "head", progress.name), lambda: show_line(render.headline(progress, now)))
        for step in progress.steps:
            if step.state != "waiting":
                line = f"  {render.step_line(step, progress.opened_at)}"
                self._once((key, line), partial(show_line, line))
        for each in work:
            about = re.sub(r"\d s\b", "", each.detail)  # a note that counts seconds is printed every ten seconds
            tenth = (key, each.step, each.variant or "", about, str(int(each.ratio * 10)))
            self._once(tenth, partial(show_line, f"    {render.work_line(each)} ({each.ratio:.0%})"))
        if (end := render.ending(release)) is not None:
            self._once((key, "end", end), lambda: show_line(f"{progress.name}  {end}"))

    def _once(self, key: tuple[str, ...], show: Callable[[], None]) -> None:
        if key not in self._printed:
            self._printed.add(key)
            show()
