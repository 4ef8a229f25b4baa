"""`slipway status`, `approve`, `cancel`: the road of each release, and what a person may order on it."""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import typer

from clients.cli.connection import JsonOption, Place, StateOption, connected, find_place
from clients.cli.event_log import Said, follow, nearly_full, read_history
from clients.cli.output import Exit, Refused, is_terminal, show_json, show_line, warn
from clients.cli.views import render
from clients.cli.views.release import Road, advance, join, latest, project
from shared.runtime.clock import SystemClock

Draw = Callable[[Road, datetime], None]

MODEL_HELP = "Model name, MODEL@vN, or release id; the newest release without it."
UNTIL = "finished"


def status(
    *,
    what: Annotated[str | None, typer.Argument(metavar="[MODEL]", help=MODEL_HELP)] = None,
    follow_it: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing it as it goes on.")] = False,
    until: Annotated[str | None, typer.Option(help="finished: return when the release has ended.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Give up after so many seconds.")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the road of each release. With --until finished the exit code is 0 when promoted, else 3."""
    if until not in (None, UNTIL):
        raise Refused(f"--until {until} is unknown; say --until {UNTIL}", Exit.USAGE)
    place = find_place(state)
    if not follow_it and until is None:
        asyncio.run(_show_all(place, what, as_json))
        return
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_follow(place, what, until, timeout, as_json))


def model_of(what: str | None) -> str | None:
    """Return the model that a word is about; a release id says none."""
    if what is None or _is_release(what):
        return None
    return what.partition("@")[0]


def _is_release(what: str) -> bool:
    return re.fullmatch(r"r-[0-9a-f]{16}-\d+", what) is not None


def pick(roads: dict[str, Road], what: str | None) -> Road | None:
    """Return the road that a word means, else the newest."""
    if what is not None and _is_release(what):
        return next((road for road in roads.values() if road.release_id == what), None)
    model, _, version = (what or "").partition("@v")
    if version:
        return next((r for r in roads.values() if r.model == model and str(r.version) == version), None)
    return latest(roads, model or None)


async def _roads(place: Place, what: str | None) -> tuple[dict[str, Road], list[Said]]:
    async with connected(place) as client:
        for sentence in await nearly_full(client.jetstream(timeout=10)):
            warn(sentence)
        said = await read_history(client.jetstream(timeout=10), model_of(what))
    return join(project(one.event for one in said)), said


async def _show_all(place: Place, what: str | None, as_json: bool) -> None:
    roads, _ = await _roads(place, what)
    single = what is not None and ("@" in what or _is_release(what))
    chosen = [pick(roads, what)] if single else sorted(roads.values(), key=lambda road: road.began_at)
    shown = [road for road in chosen if road is not None]
    if single and not shown:
        raise Refused(f"there is no release {what}; see `slipway status`")
    if as_json:
        show_json([render.as_data(road) for road in shown])
        return
    now = SystemClock().now()
    for road in shown:
        show_line("\n".join(render.plain_block(road, now)))
    if not shown:
        about = f" of {what}" if what else ""
        show_line(f"no release{about} yet; publish a checkpoint with `slipway publish`")


async def _follow(place: Place, what: str | None, until: str | None, timeout_s: float | None, as_json: bool) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            with _drawing(as_json) as draw:
                ended = await _watch(place, what, draw, stop_at_end=until is not None)
    except TimeoutError:
        raise Refused(f"the release had not ended after {timeout_s:g} s; see `slipway status`") from None
    if ended is not None and ended.outcome != "promoted":
        raise typer.Exit(int(Exit.NOT_PROMOTED))


async def _watch(place: Place, what: str | None, draw: Draw, *, stop_at_end: bool) -> Road | None:
    """Draw the wanted road at every event, and now and then; give it when it has ended and that is awaited."""
    clock = SystemClock()
    async with connected(place) as client:
        said = await read_history(client.jetstream(timeout=10), model_of(what))
        roads = project(one.event for one in said)
        after = {one.stream: one.sequence for one in sorted(said, key=lambda one: one.sequence)}
        # closed before the connection is: the readers must end while they can still be told to
        async with contextlib.aclosing(_with_ticks(follow(client, model_of(what), after=after))) as news:
            async for one in news:
                if one is not None:
                    roads = advance(roads, one.event)
                road = pick(join(roads), what)
                if road is not None:
                    draw(road, clock.now())
                    if stop_at_end and road.outcome is not None:
                        return road
    return None


async def _with_ticks(source: AsyncGenerator[Said, None], every_s: float = 0.5) -> AsyncGenerator[Said | None, None]:
    """Return what comes, and None at once and whenever nothing came for a while."""
    yield None
    waiting: asyncio.Task[Said] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(source))
            done, _ = await asyncio.wait([waiting], timeout=every_s)
            if done:
                said, waiting = waiting.result(), None
                yield said
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
            yield lambda road, now: live.update(render.rich_block(road, now))
    else:
        yield PlainDrawing(as_json=as_json)


class PlainDrawing:
    """Prints what is new: one line per step that changed, and progress in tenths."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._said: set[tuple[str, ...]] = set()

    def __call__(self, road: Road, now: datetime) -> None:
        """Print what changed since the last call."""
        if self._as_json:
            self._once((road.key, repr(road)), lambda: show_json(render.as_data(road)))
            return
        self._once((road.key, "head", road.name), lambda: show_line(render.headline(road, now)))
        for step in road.listed():
            if step.state != "waiting":
                line = f"  {render.step_line(step, road.began_at)}"
                self._once((road.key, line), partial(show_line, line))
        for one in road.work.progress:
            about = re.sub(r"\d s\b", "", one.detail)  # a note that counts seconds is worth a line every ten
            key = (road.key, one.step, one.variant, about, str(int(one.ratio * 10)))
            self._once(key, partial(show_line, f"    {render.at_work(one)} ({one.ratio:.0%})"))
        if (end := render.ending(road)) is not None:
            self._once((road.key, "end"), lambda: show_line(f"{road.name}  {end}"))

    def _once(self, key: tuple[str, ...], say: Callable[[], None]) -> None:
        if key not in self._said:
            self._said.add(key)
            say()
