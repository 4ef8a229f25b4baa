"""Plots as SVG without scripts or styles: console.css colours their classes for dark and light."""

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final
from xml.etree import ElementTree as ET

import pygal
from markupsafe import Markup

from services.console.domain.alert_data import Figures
from services.console.domain.canary_screen import Canary, CanaryPoint, EvidenceTest
from services.console.domain.release_data import VariantRow
from services.console.domain.screens import Moment

# pygal's import hook lacks `find_spec`, so every later failed import would warn
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]
SVG: Final = "{http://www.w3.org/2000/svg}"
LEAST_SHARE: Final = 1e-5
"""Smallest drawn share of a line: smaller ones all mean no evidence."""
STEPS_S: Final = (5, 10, 30, 60, 120, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600, 86_400)
"""Possible distances between labels of a time axis, in seconds."""
COLOUR: Final = re.compile(r"\bcolor-(\d+)")
PERIOD: Final = 30
"""Period of a dash pattern, in pixels."""
OPTIONS: Final[Mapping[str, Any]] = {
    "width": 640,
    "height": 260,
    "margin": 4,
    "spacing": 8,
    "js": (),
    "css": (),
    "show_legend": False,
    "dots_size": 3.5,
    "max_scale": 6,
    "min_scale": 3,
    "disable_xml_declaration": True,
}


@dataclass(frozen=True)
class Line:
    """A line over time: name, CSS class, and figures; None for a gap."""

    name: str
    css: str
    points: Sequence[tuple[str, float | None]]


@dataclass(frozen=True)
class Plot:
    """A plot, and its legend as pairs of class and text."""

    svg: Markup
    legend: tuple[tuple[str, str], ...]


def pareto_plot(variants: Iterable[VariantRow]) -> Markup | None:
    """Plot variants by price, or else size, and perplexity ratio; None for fewer than two.

    The Pareto front is a line. Prices are used if every variant has one.
    """
    known = [row for row in variants if row.size_bytes is not None and row.perplexity_ratio is not None]
    if len(known) < 2:
        return None
    priced = all(row.million_tokens_price is not None for row in known)
    factor, unit = _unit_of(max(row.size_bytes or 0 for row in known))
    across = {
        row.variant: (row.million_tokens_price or 0.0) if priced else (row.size_bytes or 0) / factor for row in known
    }
    widths = _range(list(across.values()), before=0.08, after=0.08)
    ratios = [row.perplexity_ratio or 0.0 for row in known]
    heights = _range(ratios, before=0.08, after=0.25)  # space for labels above dots
    chart = pygal.XY(
        **OPTIONS,
        print_labels=True,
        xrange=widths,
        range=heights,
        x_title="Price of a million tokens" if priced else f"Size of the weights ({unit})",
        y_title="Perplexity ratio",
        x_value_formatter=_formatter(widths),
        value_formatter=_formatter(heights),
    )
    front = sorted((row for row in known if row.on_pareto_front or row.chosen), key=lambda row: across[row.variant])
    dots = {row.variant: {"value": (across[row.variant], row.perplexity_ratio), "label": row.variant} for row in known}
    chart.add("front", [dots[row.variant] for row in front], show_dots=False)
    chart.add("others", [dots[row.variant] for row in known if row not in front], stroke=False)
    chart.add("on the front", [dots[row.variant] for row in front if not row.chosen], stroke=False)
    chart.add("chosen", [dots[row.variant] for row in known if row.chosen], stroke=False, dots_size=6)
    return _svg(chart, f"Variants by {'price' if priced else 'size'} and perplexity", "pareto")


def _unit_of(largest: float) -> tuple[float, str]:
    """Return a fitting unit for a size: its bytes and its name."""
    return next((unit for unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if largest >= unit[0]), (1.0, "B"))


def _range(values: Sequence[float], *, before: float, after: float) -> tuple[float, float]:
    """Return the ends of an axis: the range of values, widened by shares of its span."""
    least, most = min(values), max(values)
    span = most - least or 0.01 * abs(most) or 1.0
    return least - before * span, most + after * span


def _formatter(ends: tuple[float, float], factor: int = 1, unit: str = "") -> Callable[[float], str]:
    """Return the label formatter of an axis, with enough digits to distinguish labels."""
    digits = max(0, -math.floor(math.log10(factor * (ends[1] - ends[0]) / OPTIONS["max_scale"])))
    return lambda value: f"{factor * value:,.{digits}f}{unit}"


def evidence_plot(canary: Canary, tests: Sequence[EvidenceTest]) -> Plot | None:
    """Plot e-values as shares of their lines, on a logarithmic scale; at 1 the canary is aborted.

    Each test keeps its colour, whatever its evidence.
    """
    if len(canary.points) < 2:
        return None
    colours = sorted(canary.points[-1].e_values)
    lines = [
        Line(test.label, f"tint-{colours.index(test.key) % 5}", [_evidence(point, test) for point in canary.points])
        for test in tests
    ]
    powers = _powers([height for line in lines for _, height in line.points if height is not None])
    return over_time(
        "Highest e-value of each test over time, as a share of its line",
        lines,
        kind="evidence",
        title="e-value x alpha",
        ends=(powers[0], powers[-1]),
        span=_span(canary),
        moments=canary.moments,
        limit=(0.0, "at 1 the canary is aborted"),
        formatter=lambda power: f"{10**power:,.{max(0, -math.floor(power))}f}",
        labels=powers,
        dashes=_dashes(len(tests)),
    )


def _dashes(lines: int) -> Mapping[str, str]:
    """Return dash patterns by class, shorter for later lines, so that overlapping lines stay visible."""
    dash = PERIOD // max(1, lines)
    return {f"color-{line + 1}": f"{PERIOD - line * dash} {line * dash}" for line in range(1, lines)}


def _powers(heights: Sequence[float]) -> list[int]:
    """Return the powers of ten to label on a logarithmic axis, including 0."""
    least, most = math.floor(min(heights, default=-3.0)), math.ceil(max(heights, default=0.0))
    step = max(1, math.ceil((max(most, 0) - min(least, 0)) / OPTIONS["max_scale"]))
    return sorted({*range(0, least - step, -step), *range(0, most + step, step)})


def _evidence(point: CanaryPoint, test: EvidenceTest) -> tuple[str, float | None]:
    e_value = point.e_values.get(test.key)
    return point.at, None if e_value is None else math.log10(max(e_value / test.line, LEAST_SHARE))


def latency_plot(canary: Canary) -> Plot | None:
    """Plot TTFT p95 of candidate and active target; None for fewer than two figures."""
    lines = [
        Line(name, name, [(entry.at, getattr(entry, name)) for entry in canary.ttft])
        for name in ("active", "candidate")
    ]
    figures = [figure for line in lines for _, figure in line.points if figure is not None]
    if sum(entry.candidate is not None or entry.active is not None for entry in canary.ttft) < 2:
        return None
    return over_time(
        "Time to first token, p95, of candidate and active",
        lines,
        kind="latency",
        title="TTFT p95 (ms)",
        ends=_range(figures, before=0.25, after=0.25),
        span=_span(canary),
        moments=canary.moments,
    )


def _span(canary: Canary) -> tuple[str, str]:
    """Return the common time range of both plots."""
    happened = (moment.at for moment in canary.moments)
    times = [*(point.at for point in canary.points), *(entry.at for entry in canary.ttft), *happened]
    return min(times), max(times)


def figure_plots(figures: Figures, limit: float | None = None) -> Mapping[str, Plot | None]:
    """Return the plots of windows: `requests`, `bad` with its limit, and `ttft` p95 by target."""
    if len(figures.ends) < 2:
        return {"requests": None, "bad": None, "ttft": None}
    traffic = [Line("requests", "active", list(zip(figures.ends, figures.requests.values, strict=True)))]
    bad = [Line("bad", "candidate", list(zip(figures.ends, figures.bad_ratio, strict=True)))]
    names = sorted(figures.ttft_p95_ms, key=lambda name: name == figures.target)  # last, so drawn on top
    ttft = [
        Line(name, "candidate" if name == figures.target else "active", list(zip(figures.ends, values, strict=True)))
        for name, values in ((name, figures.ttft_p95_ms[name]) for name in names)
    ]
    span = figures.ends[0], figures.ends[-1]
    shared: dict[str, Any] = {"span": span, "moments": figures.moments}
    shown = None if limit is None else (limit, f"limit {100 * limit:.3g}%")
    return {
        "requests": over_time("Requests per window", traffic, title="requests", ends=_above(traffic), **shared),
        "bad": over_time(
            "Share of bad requests",
            bad,
            title="bad",
            ends=_above(bad, limit),
            limit=shown,
            formatter=_formatter(_above(bad, limit), factor=100, unit="%"),
            **shared,
        ),
        "ttft": over_time("Time to first token, p95", ttft, title="TTFT p95 (ms)", ends=_above(ttft), **shared),
    }


def _above(lines: Iterable[Line], limit: float | None = None) -> tuple[float, float]:
    """Return the ends of an axis from 0 to above all figures and the limit."""
    figures = [figure for line in lines for _, figure in line.points if figure is not None]
    return 0.0, 1.15 * max([*figures, limit or 0.0], default=0.0) or 1.0


def over_time(
    label: str,
    lines: Sequence[Line],
    *,
    title: str,
    ends: tuple[float, float],
    span: tuple[str, str],
    kind: str = "",
    moments: Iterable[Moment] = (),
    limit: tuple[float, str] | None = None,
    formatter: Callable[[float], str] | None = None,
    labels: Sequence[float] | None = None,
    dashes: Mapping[str, str] = MappingProxyType({}),
) -> Plot | None:
    """Plot lines over the time of day, with events and a limit; None for fewer than two figures.

    Args:
        label: Text for screen readers.
        lines: The lines.
        title: Title of the y axis.
        ends: Ends of the y axis.
        span: Begin and end of the time axis.
        kind: CSS class of the plot.
        moments: Events, drawn as vertical lines.
        limit: Height and legend of a horizontal line.
        formatter: Formats labels of the y axis.
        labels: Values to label on the y axis.
        dashes: Dash pattern by class.
    """
    if sum(figure is not None for line in lines for _, figure in line.points) < 2:
        return None
    begin = datetime.fromisoformat(span[0])
    seconds = (datetime.fromisoformat(span[1]) - begin).total_seconds() or 1.0
    chart = pygal.XY(
        **OPTIONS,
        xrange=(0.0, seconds),
        range=ends,
        y_title=title,
        value_formatter=formatter or _formatter(ends),
        x_value_formatter=lambda after: f"{begin + timedelta(seconds=after):%H:%M:%S}",
        x_title="UTC",
        allow_interruptions=True,
    )
    chart.x_labels = _ticks(begin, seconds)
    if labels is not None:
        chart.y_labels = labels
    drawn: list[tuple[str, str, list[tuple[float, float | None]]]] = []
    if limit is not None:
        drawn.append(("limit", limit[1], [(0.0, limit[0]), (seconds, limit[0])]))
    known = {line.name: [(_after(at, begin), figure) for at, figure in line.points] for line in lines}
    drawn += [(line.css, line.name, known[line.name]) for line in lines]
    for moment in moments:
        after = _after(moment.at, begin)
        if 0.0 <= after <= seconds:
            text = f"{moment.what} {moment.at[11:19]}"
            drawn.append((f"moment {moment.kind}", text, [(after, ends[0]), (after, ends[1])]))
    for _, name, points in drawn:
        figures = sum(figure is not None for _, figure in points)
        chart.add(name, points, show_dots=name in known and figures < 20 and not dashes)
    svg = _svg(chart, label, kind, dashes, [css for css, _, _ in drawn])
    return Plot(svg, tuple((css, name) for css, name, _ in drawn))


def _ticks(begin: datetime, seconds: float) -> list[float]:
    """Return the labelled positions of a time axis in seconds: round times, at most seven."""
    step = next((step for step in STEPS_S if seconds / step <= OPTIONS["max_scale"]), STEPS_S[-1])
    first = -(begin.timestamp() % step) % step
    fits = seconds * 0.97 - first  # a label at the end would be cut off
    return [first + step * number for number in range(int(fits // step) + 1)]


def _after(at: str, begin: datetime) -> float:
    return (datetime.fromisoformat(at) - begin).total_seconds()


def _svg(
    chart: Any, label: str, kind: str, dashes: Mapping[str, str] = MappingProxyType({}), classes: Sequence[str] = ()
) -> Markup:
    """Render a chart as SVG, without the library's script and styles.

    Args:
        chart: The chart.
        label: Text for screen readers.
        kind: CSS class of the plot.
        dashes: Dash pattern by class.
        classes: CSS class of each line, in drawing order.
    """
    root = chart.render_tree()
    for part in [child for child in root if child.tag in ("defs", f"{SVG}defs", "title", f"{SVG}title")]:
        root.remove(part)
    root.attrib.pop("id", None)
    root.attrib |= {"class": f"chart {kind}", "role": "img", "aria-label": label}
    for part in root.iter():
        known = set((part.get("class") or "").split()) & set(dashes)
        for line in part.findall("{*}path") if known else ():
            line.set("stroke-dasharray", dashes[known.pop()])
        for number in COLOUR.findall(part.get("class") or "") if classes else ():
            part.set("class", f"{part.get('class')} {classes[int(number)]}")
    return Markup(ET.tostring(_plain(root), encoding="unicode"))  # noqa: S704 - built as a tree, so escaped


def _plain(root: ET.Element) -> ET.Element:
    """Remove comments and styles, and give each dot a tooltip."""
    for parent in list(root.iter()):
        parent.attrib.pop("style", None)
        if parent.get("class") == "dots":
            texts = {child.get("class"): child.text or "" for child in parent}
            title = ET.SubElement(parent, "title")
            title.text = " ".join(filter(None, (texts.get("label"), texts.get("value"))))
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag.removeprefix(SVG) == "desc":
                parent.remove(child)
    return root
