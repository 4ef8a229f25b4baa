"""Plots as SVG without a script or a style in it: classes only, which console.css colours for dark and light."""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final
from xml.etree import ElementTree as ET

import pygal
from markupsafe import Markup

from services.console.domain.canary_screen import Canary, CanaryPoint, EvidenceTest
from services.console.domain.release_data import VariantRow

# pygal adds a finder for plug-ins, which has no `find_spec`: each failed import would warn about it
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]
SVG: Final = "{http://www.w3.org/2000/svg}"
LEAST_SHARE: Final = 1e-5
"""Smaller shares of the line are drawn as this: they all say that there is no evidence."""
PERIOD: Final = 30
"""Pixels after which the dashes of a line begin again."""
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


def pareto_plot(variants: Iterable[VariantRow]) -> Markup | None:
    """Return the variants by price, or size, and loss of quality; None for fewer than two.

    The Pareto front is a line. Prices are shown if each variant has one.
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
    heights = _range(ratios, before=0.08, after=0.25)  # a label is above its dot
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
    """Return the bytes of the unit that a size is written in, and its name."""
    return next((unit for unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if largest >= unit[0]), (1.0, "B"))


def _range(values: Sequence[float], *, before: float, after: float) -> tuple[float, float]:
    """Return the ends of an axis: those of its values, and shares of their span before and after them."""
    least, most = min(values), max(values)
    span = most - least or 0.01 * abs(most) or 1.0
    return least - before * span, most + after * span


def _formatter(ends: tuple[float, float]) -> Callable[[float], str]:
    """Return what writes a figure of an axis, with the digits that tell its labels apart."""
    digits = max(0, -math.floor(math.log10((ends[1] - ends[0]) / OPTIONS["max_scale"])))
    return lambda value: f"{value:,.{digits}f}"


def evidence_plot(canary: Canary, tests: Sequence[EvidenceTest]) -> Markup | None:
    """Return e-values as shares of their lines over time, on a logarithmic scale; the canary is aborted at 1."""
    if len(canary.points) < 2:
        return None
    begin, seconds = _span(canary)
    chart = _over_time("e-value x alpha", lambda power: f"{10**power:,.{max(0, -math.floor(power))}f}", seconds)
    drawn = {
        test: [_evidence(point, test, begin) for point in canary.points if test.key in point.e_values] for test in tests
    }
    chart.y_labels = _powers([height for line in drawn.values() for _, height in line])
    chart.add("line", [(0.0, 0.0), (seconds, 0.0)], show_dots=False)
    for test, line in drawn.items():
        chart.add(test.label, line, show_dots=False)
    label = "Highest e-value of each test over time, as a share of its line"
    return _svg(chart, label, "evidence", _dashes(len(tests)))


def _dashes(lines: int) -> Mapping[str, str]:
    """Return the dashes of each line by its class: the later it is drawn, the shorter, so that equal ones all show."""
    dash = PERIOD // max(1, lines)
    return {f"color-{line + 1}": f"{PERIOD - line * dash} {line * dash}" for line in range(1, lines)}


def _powers(heights: Sequence[float]) -> list[int]:
    """Return the powers of ten at which a logarithmic axis has labels; 0 is one of them."""
    least, most = math.floor(min(heights, default=-3.0)), math.ceil(max(heights, default=0.0))
    step = max(1, math.ceil((max(most, 0) - min(least, 0)) / OPTIONS["max_scale"]))
    return sorted({*range(0, least - step, -step), *range(0, most + step, step)})


def _evidence(point: CanaryPoint, test: EvidenceTest, begin: datetime) -> tuple[float, float]:
    share = max(point.e_values[test.key] / test.line, LEAST_SHARE)
    return (_moment(point.at) - begin).total_seconds(), math.log10(share)


def latency_plot(canary: Canary) -> Markup | None:
    """Return the p95 of the time to first token of candidate and active over time; None for fewer than two figures."""
    known = [entry for entry in canary.ttft if entry.candidate is not None or entry.active is not None]
    if len(known) < 2:
        return None
    begin, seconds = _span(canary)
    figures = [figure for entry in known for figure in (entry.candidate, entry.active) if figure is not None]
    chart = _over_time("TTFT p95 (ms)", _formatter(_range(figures, before=0.25, after=0.25)), seconds)
    for name in ("active", "candidate"):
        values = [
            ((_moment(entry.at) - begin).total_seconds(), getattr(entry, name))
            for entry in canary.ttft
            if getattr(entry, name) is not None
        ]
        chart.add(name, values, show_dots=len(values) < 20)
    return _svg(chart, "Time to first token, p95, of candidate and active", "latency")


def _span(canary: Canary) -> tuple[datetime, float]:
    """Return when the axes of both plots begin, and how many seconds they are long: the same of both."""
    moments = [_moment(at) for at in (*(point.at for point in canary.points), *(entry.at for entry in canary.ttft))]
    return min(moments), (max(moments) - min(moments)).total_seconds()


def _over_time(title: str, formatter: Any, seconds: float) -> Any:
    return pygal.XY(
        **OPTIONS,
        xrange=(0.0, seconds or 1.0),
        y_title=title,
        value_formatter=formatter,
        x_value_formatter=_elapsed,
        x_title="Since the first assessment or window",
    )


def _elapsed(seconds: float) -> str:
    return f"{seconds:.0f} s" if abs(seconds) < 120 else f"{seconds / 60:.0f} min"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _svg(chart: Any, label: str, kind: str, dashes: Mapping[str, str] = MappingProxyType({})) -> Markup:
    """Return a chart as SVG for a page: without the script and the styles that the library adds."""
    root = chart.render_tree()
    for part in [child for child in root if child.tag in ("defs", f"{SVG}defs", "title", f"{SVG}title")]:
        root.remove(part)
    root.attrib.pop("id", None)
    root.attrib |= {"class": f"chart {kind}", "role": "img", "aria-label": label}
    for part in root.iter():
        known = set((part.get("class") or "").split()) & set(dashes)
        for line in part.findall("{*}path") if known else ():
            line.set("stroke-dasharray", dashes[known.pop()])
    return Markup(ET.tostring(_plain(root), encoding="unicode"))  # noqa: S704 - built as a tree, so escaped


def _plain(root: ET.Element) -> ET.Element:
    """Return a tree without comments and styles, whose dots have titles: what browsers show beside the pointer."""
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
