"""`slipway status`: the progress of releases, once or followed until they end."""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import typer
from nats.js import JetStreamContext

from clients.cli.completion import complete_releases
from clients.cli.connection import JsonOption, StackAddress, StateOption, connected, find_stack
from clients.cli.event_log import OF_RELEASES, LoggedEvent, read_history
from clients.cli.following import follow
from clients.cli.last_events import last_sequences
from clients.cli.names import FORMS, Name, parse_name
from clients.cli.output import CommandError, Exit, ended_by_interrupt, is_terminal, show_json, show_line, warn
from clients.cli.recent_releases import read_recent, whole_releases
from clients.cli.resolving import resolve_text, unknown_release
from clients.cli.serving import read_suspended
from clients.cli.stream_limits import nearly_full
from clients.cli.views import render
from clients.cli.watched import read_blind
from decisions.release_progress import ReleaseProgress
from decisions.release_projection import advance, join, latest, project
from shared.runtime.clock import SystemClock

Draw = Callable[[ReleaseProgress, datetime], None]

MODEL_HELP = f"{FORMS} (default: the newest releases and all under way; with --follow or --until, the newest)."
UNTIL = "finished"


def status(
    *,
    what: Annotated[
        str | None, typer.Argument(metavar="MODEL|RELEASE", help=MODEL_HELP, autocompletion=complete_releases)
    ] = None,
    keep_following: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the release and print its progress.")
    ] = False,
    until: Annotated[
        str | None, typer.Option(metavar="finished", help="Follow the release and return when it has ended.")
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="Show every release that the log has, not only the newest and those under way."),
    ] = False,
    timeout: Annotated[float | None, typer.Option(help="Maximum time to wait for the end, in seconds.")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the progress of releases, the newest first. With --until finished, the exit code is 0 if promoted, else 3.

    An interrupt (Ctrl-C) ends --follow with exit code 0, and --until, which has no answer then, with 130.
    """
    if until not in (None, UNTIL):
        raise CommandError(f"--until {until} is not valid: use --until {UNTIL}", Exit.USAGE)
    stack = find_stack(state)
    if not keep_following and until is None:
        asyncio.run(_show_all(stack, what, every, as_json))
        return
    with ended_by_interrupt(following=until is None):
        asyncio.run(_follow(stack, what, until, timeout, as_json))


def model_of(what: str | None) -> str | None:
    """Return the model that `what` names, or None for a release id."""
    return None if what is None else parse_name(what).model or None


def pick(releases: dict[str, ReleaseProgress], what: str | None) -> ReleaseProgress | None:
    """Return the release that `what` names, or the newest if it is None; None if there is none."""
    name = Name() if what is None else parse_name(what)
    if name.release_id is not None:
        return next((release for release in releases.values() if release.release_id == what), None)
    if name.version is not None:
        named = (name.model, name.version)
        return next((each for each in releases.values() if (each.model, each.version) == named), None)
    return latest(releases, name.model or None)


async def find_release(js: JetStreamContext, named: str) -> ReleaseProgress | None:
    """Return the release of the log that a name means; None if there is none."""
    return pick(_releases(await _read_log(js, model_of(named))), named)


async def _read_log(js: JetStreamContext, model: str | None) -> list[LoggedEvent]:
    """Return the events of the releases that the log has whole, of a model or of all."""
    return whole_releases(await read_history(js, model, OF_RELEASES))


def _releases(history: list[LoggedEvent]) -> dict[str, ReleaseProgress]:
    return join(project(logged.dated for logged in history))


async def _read_releases(js: JetStreamContext, what: str | None, every: bool) -> list[ReleaseProgress]:
    """Return the releases that `what` names: one, those of a model, or the newest and those under way; or every one.

    Raises:
        CommandError: it names one that there is not.
    """
    named = await resolve_text(js, what)
    if every or named is not None:
        history, more = await _read_log(js, model_of(named)), False
    else:
        history, more = await read_recent(js)
    releases = _releases(history)
    if more:
        warn("earlier releases are left out: `slipway status MODEL` or `slipway status --all` shows them")
    if named is None or (parse_name(named).is_model and releases):
        return sorted(releases.values(), key=lambda release: release.began_at)
    release = pick(releases, named)
    if release is None:
        raise CommandError(await unknown_release(js, named))
    return [release]


async def _show_all(stack: StackAddress, what: str | None, every: bool, as_json: bool) -> None:
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        for sentence in await nearly_full(js):
            warn(sentence)
        for sentence in await read_blind(js, model_of(what)):
            warn(sentence)
        for sentence in await read_suspended(js, model_of(what)):
            warn(sentence)
        shown = await _read_releases(js, what, every)
    if as_json:
        show_json([render.as_data(release) for release in shown])
        return
    now = SystemClock().now()
    for release in reversed(shown):
        show_line("\n".join(render.plain_block(release, now)))
    if not shown:
        show_line("no release yet; publish a checkpoint with `slipway publish`")


async def _follow(
    stack: StackAddress, what: str | None, until: str | None, timeout_s: float | None, as_json: bool
) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            with _drawing(as_json) as draw:
                ended = await _watch(stack, what, draw, stop_at_end=until is not None)
    except TimeoutError:
        raise CommandError(f"the release had not ended after {timeout_s:g} s; see `slipway status`") from None
    if ended is not None and ended.outcome != "promoted":
        raise typer.Exit(int(Exit.NOT_PROMOTED))


async def _watch(stack: StackAddress, what: str | None, draw: Draw, *, stop_at_end: bool) -> ReleaseProgress | None:
    """Draw a release at every event and at intervals; return it once it has ended, if `stop_at_end`."""
    clock = SystemClock()
    async with connected(stack) as client:
        js = client.jetstream(timeout=10)
        what, after = await resolve_text(js, what), await last_sequences(js)
        history, _ = await read_recent(js) if what is None else (await _read_log(js, model_of(what)), False)
        releases = project(logged.dated for logged in history if logged.sequence <= after[logged.stream])
        # closed before the connection is: the readers must end while they can still unsubscribe
        async with contextlib.aclosing(_with_ticks(follow(client, model_of(what), after=after))) as live:
            async for logged in live:
                if logged is not None:
                    releases = advance(releases, logged.dated)
                release = pick(join(releases), what)
                if release is not None:
                    draw(release, clock.now())
                    if stop_at_end and release.outcome is not None:
                        return release
    return None


async def _with_ticks(
    source: AsyncGenerator[LoggedEvent, None], every_s: float = 0.5
) -> AsyncGenerator[LoggedEvent | None, None]:
    """Yield the events of a source, and None at once and whenever none has arrived for a while."""
    yield None
    waiting: asyncio.Task[LoggedEvent] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(source))
            done, _ = await asyncio.wait([waiting], timeout=every_s)
            if done:
                logged, waiting = waiting.result(), None
                yield logged
            else:
                yield None
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await source.aclose()


@contextlib.contextmanager
def _drawing(as_json: bool) -> Any:
    if is_terminal() and not as_json:
        from rich.live import Live

        with Live(refresh_per_second=8) as live:
            yield lambda release, now: live.update(render.rich_block(release, now))
    else:
        yield PlainDrawing(as_json=as_json)


class PlainDrawing:
    """Prints changes only: one line per step that changed, and progress in steps of 10 %."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._printed: set[tuple[str, ...]] = set()

    def __call__(self, release: ReleaseProgress, now: datetime) -> None:
        """Print what changed since the last call."""
        if self._as_json:
            self._once((release.key, repr(release)), lambda: show_json(render.as_data(release)))
            return
        self._once((release.key, "head", release.name), lambda: show_line(render.headline(release, now)))
        for step in release.listed():
            if step.state != "waiting":
                line = f"  {render.step_line(step, release.began_at)}"
                self._once((release.key, line), partial(show_line, line))
        for progress in release.work.progress:
            about = re.sub(r"\d s\b", "", progress.detail)  # a note that counts seconds is printed every ten seconds
            key = (release.key, progress.step, progress.variant, about, str(int(progress.ratio * 10)))
            self._once(key, partial(show_line, f"    {render.work_line(progress)} ({progress.ratio:.0%})"))
        if (end := render.ending(release)) is not None:
            self._once((release.key, "end", end), lambda: show_line(f"{release.name}  {end}"))

    def _once(self, key: tuple[str, ...], show: Callable[[], None]) -> None:
        if key not in self._printed:
            self._printed.add(key)
            show()
