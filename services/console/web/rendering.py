"""Renders templates; formats figures, times and series for readers, and escapes all other values."""

import hashlib
import math
from asyncio import to_thread
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.types import Receive, Scope, Send

from services.console.domain.canary_screen import label_of
from services.console.domain.incident import Incident
from services.console.domain.people import Person
from services.console.domain.screens import IndexState, Points
from services.console.follower import Progress
from services.console.protection import Protection
from services.console.web.access import SignedIn
from shared.runtime.clock import Clock

FOLDER: Final = Path(__file__).resolve().parents[1]
RUNBOOKS: Final = {
    f"docs/runbooks/{path.name}": path.stem for path in (FOLDER.parents[1] / "docs/runbooks").glob("*.md")
}
"""Names of the available runbooks by path; empty in an installation without documentation."""
NONE: Final = "\N{EN DASH}"
MOST_INCIDENTS: Final = 3
"""Incidents shown at the top of a page; further ones are folded."""
WIDTH, HEIGHT = 120.0, 28.0
LARGEST_WRITTEN_OUT: Final = 1e12
LONGEST_READ_S: Final = 2.0
"""Longest time between reading a page's data and rendering it, in seconds."""
SCRIPTS: Final = {"htmx.js": ("django_htmx", "static/django_htmx/htmx-2.min.js")}
"""Scripts of packages: address below `/assets/`, package, and file in it."""
GOOD: Final = frozenset(
    {"pass", "serving", "promoted", "completed", "done", "hot", "resolved", "accepted", "chosen", "proven"}
)
BAD: Final = frozenset(
    {"fail", "failed", "rejected", "aborted", "critical", "refused", "expired", "not ready", "not proven"}
    | {"rollback", "rolled back", "quarantined", "suspended", "ejected", "silent", "fenced"}
)
BUSY: Final = frozenset(
    {"running", "shadow", "canary", "promoting", "draining", "started", "open", "warning", "awaiting approval"}
    | {"paused"}
)

SHARES: Final = frozenset({"latency", "errors", "quality"})
"""Kinds of alerts that measure shares of bad requests."""
METRICS: Final = {
    "drift": "Kolmogorov-Smirnov distance",
    "quality": "share of bad requests, or loss of score",
}


@dataclass
class Renderer:
    """Renders pages from templates.

    Attributes:
        clock: Clock for ages such as `2 min ago`.
        progress: State of the index, for the page head.
        protection: Health of automatic rollback, for the page head.
        incidents: Returns the incidents that a person may see.
        has_playground: Whether a gateway is configured.
    """

    clock: Clock
    progress: Progress
    protection: Protection
    incidents: Callable[[Person], tuple[Incident, ...]] = lambda _person: ()
    has_playground: bool = False
    _templates: Jinja2Templates = field(init=False)

    def __post_init__(self) -> None:
        """Create the template environment."""
        environment = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {
            "ago": lambda text: ago(text, self.clock.now()),
            "left": lambda text: left(text, self.clock.now()),
            "time": short_time,
            "number": number,
            "ms": milliseconds,
            "span": span,
            "duration": duration,
            "alert_figure": alert_figure,
            "alert_metric": lambda kind: METRICS.get(kind, "share of bad requests" if kind in SHARES else "value"),
            "percent": lambda value: "" if value is None else f"{value:.1%}".replace(".0%", "%"),
            "size": size,
            "tone": tone,
            "line": sparkline,
            "test_label": label_of,
        }
        environment.globals |= {
            "assets": asset_version(),
            "has_playground": self.has_playground,
            "runbooks": RUNBOOKS,
            "most_incidents": MOST_INCIDENTS,
        }
        self._templates = Jinja2Templates(env=environment)

    def __call__(
        self, request: Request, signed: SignedIn | None, template: str, status: int = 200, /, **values: Any
    ) -> Response:
        """Render a template for a request and its signed-in person, if any."""
        common = {
            "path": request.url.path,
            "query": request.url.query,
            "address": _address_of(request),
            "person": signed.person if signed is not None else None,
            "csrf": signed.session.csrf if signed is not None else "",
            "theme": request.cookies.get("theme", ""),
            "incidents": self.incidents(signed.person) if signed is not None and self.progress.is_current else (),
            "index": self._index_state(),
            "silent": {name: since.isoformat() for name, since in self.protection.silent().items()},
            "read_at": max(0.0, self.clock.monotonic() - LONGEST_READ_S),
        }
        return self._templates.TemplateResponse(request, template, common | values, status)

    async def in_thread(
        self, request: Request, signed: SignedIn | None, template: str, status: int = 200, /, **values: Any
    ) -> Response:
        """Render a template in a thread, because rendering reads the index."""
        return await to_thread(self, request, signed, template, status, **values)

    def _index_state(self) -> IndexState:
        """Return the index's lag."""
        ready = bool(self.progress.last) and self.progress.is_current
        return IndexState(behind=self.progress.behind, ratio=round(self.progress.ratio, 4), ready=ready)


def _address_of(request: Request) -> str:
    """Return the path and query of the page that a request belongs to; a page fragment names its page."""
    if request.method != "GET":
        return "/fleet"
    opened = request.headers.get("hx-current-url") or str(request.url)
    return "/" + opened.partition("://")[2].partition("/")[2]


def ago(text: str | None, now: datetime) -> str:
    """Return the age of a time: `4 s`, `12 min`, `3 h`, `5 d`."""
    if not text:
        return NONE
    return _rounded((now - datetime.fromisoformat(text)).total_seconds())


def left(text: str, now: datetime) -> str:
    """Return the time left, in the form of `ago`; `0 s` once passed."""
    return _rounded((datetime.fromisoformat(text) - now).total_seconds())


def _rounded(seconds: float) -> str:
    seconds = max(0.0, seconds)
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} d"


def short_time(text: str | None) -> str:
    """Format a time as `2026-11-27 02:31:27`."""
    return NONE if not text else text[:19].replace("T", " ")


def number(value: float | None) -> str:
    """Format a figure: three significant digits, integers in full, very large ones in scientific notation."""
    if value is None:
        return NONE
    if abs(value) >= LARGEST_WRITTEN_OUT:
        return f"{value:.2e}".replace("e+", "e") if math.isfinite(value) else "∞"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def milliseconds(value: float | None) -> str:
    """Format milliseconds: `840 µs`, `36 ms`, `2.10 s`, `3.5 min`."""
    if value is None:
        return NONE
    if value == 0:
        return "0 s"
    if abs(value) < 1:
        return f"{value * 1000:.0f} µs"
    if abs(value) < 1000:
        return f"{value:.0f} ms"
    return f"{value / 1000:.2f} s" if abs(value) < 60_000 else f"{value / 60_000:.1f} min"


def alert_figure(value: float | None, kind: str) -> str:
    """Format an alert's value or limit with its unit."""
    if value is None:
        return NONE
    if kind in SHARES:
        return f"{100 * value:.3g}%"
    return number(value)


def span(seconds: float | None) -> str:
    """Format seconds in the form of `milliseconds`."""
    return NONE if seconds is None else milliseconds(seconds * 1000)


def duration(seconds: float) -> str:
    """Format seconds like the CLI: `40 s`, `1 min 35 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(value: float | None) -> str:
    """Format bytes with a unit."""
    if value is None:
        return NONE
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def tone(state: str | None) -> str:
    """Return the CSS class of a state: `good`, `bad`, `busy` or `calm`."""
    for name, states in (("good", GOOD), ("bad", BAD), ("busy", BUSY)):
        if state in states:
            return name
    return "calm"


def sparkline(points: Points, width: float = WIDTH, height: float = HEIGHT) -> Mapping[str, Any]:
    """Return a series as SVG polylines, one per run without gaps, and its highest figure."""
    known = [value for value in points.values if value is not None]
    highest = max(known, default=0.0)
    runs: list[list[tuple[float, float]]] = [[]]
    step = width / max(1, len(points.values) - 1)
    for position, value in enumerate(points.values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((position * step, height - 2 - (value / (highest or 1.0)) * (height - 4)))
    drawn = [_line(run, step, width) for run in runs if run]
    return {"runs": drawn, "highest": highest, "width": width, "height": height}


def _line(run: list[tuple[float, float]], step: float, width: float) -> str:
    """Format the points of a polyline; a single point becomes a line of one step."""
    if len(run) == 1:
        (x, y) = run[0]
        begin = min(x, width - step) if step < width else 0.0
        run = [(begin, y), (begin + step, y)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in run)


def asset_version() -> str:
    """Return a digest of scripts and styles, so that browsers can cache them."""
    digest = hashlib.sha256()
    for file in sorted((FOLDER / "static").iterdir()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


class Assets:
    """Serves scripts and styles of the console and of packages."""

    def __init__(self) -> None:
        self._own = StaticFiles(directory=FOLDER / "static")
        self._shipped = {name: Path(str(files(package) / path)) for name, (package, path) in SCRIPTS.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for a file."""
        name = scope["path"].removeprefix("/assets/")

        async def keep(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["cache-control"] = "public, max-age=86400"
            await send(message)

        shipped = self._shipped.get(name)
        if shipped is not None:
            await Response(shipped.read_bytes(), media_type="text/javascript")(scope, receive, keep)
            return
        await self._own(scope, receive, keep)
