"""Panels of Grafana, as its JSON has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24


@dataclass(frozen=True)
class Query:
    """An expression, and the legend of its series."""

    expr: str
    legend: str = "{{target}}"


@dataclass(frozen=True)
class Panel:
    """A panel.

    Attributes:
        title: What question it answers.
        queries: What it shows.
        unit: Unit of its values, as Grafana names it.
        kind: Shape of the panel.
        width: In 24ths of the dashboard.
        danger: From this value on it is red; None for no threshold.
    """

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    width: int = 12
    danger: float | None = None


@dataclass(frozen=True)
class Row:
    """A row of panels below a heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Dashboard:
    """A dashboard; `variable` is a query by whose values the reader chooses."""

    uid: str
    title: str
    about: str
    rows: Sequence[Row]
    variable: tuple[str, str, str] | None = None
    """Its name, the query of its values, and the regular expression that cuts them out."""

    @property
    def queries(self) -> list[str]:
        """Every expression on it."""
        return [query.expr for row in self.rows for panel in row.panels for query in panel.queries]


def render(dashboard: Dashboard) -> dict[str, Any]:
    """Return a dashboard as Grafana imports it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["slipway"],
        "timezone": "utc",
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": 39,
        "version": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [
            {"type": "dashboards", "title": "Slipway", "tags": ["slipway"], "asDropdown": True, "includeVars": True}
        ],
        "templating": {"list": _variables(dashboard)},
        "panels": _panels(dashboard),
    }


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    if dashboard.variable is None:
        return [source]
    name, query, regex = dashboard.variable
    chosen = {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "regex": regex,
        "refresh": 2,
        "sort": 1,
        "label": name.capitalize(),
    }
    return [source, chosen]


def _panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    y = 0
    for row in dashboard.rows:
        panels.append(_row(len(panels) + 1, row.title, y))
        x, y, height = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > _WIDTH:
                x, y, height = 0, y + height, 0
            own = 4 if panel.kind == "stat" else 8
            position = {"x": x, "y": y, "w": panel.width, "h": own}
            panels.append(_panel(len(panels) + 1, panel, position))
            x, height = x + panel.width, max(height, own)
        y += height
    return panels


def _row(number: int, title: str, y: int) -> dict[str, Any]:
    position = {"x": 0, "y": y, "w": _WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": position, "panels": []}


def _panel(number: int, panel: Panel, position: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.danger is not None:
        steps.append({"color": "red", "value": panel.danger})
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.danger is not None and panel.kind == "timeseries":
        defaults["custom"] = {"thresholdsStyle": {"mode": "line"}}
    instant = panel.kind != "timeseries"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": DATASOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + position_),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": instant,
                "range": not instant,
                **({"format": "table"} if panel.kind == "table" else {}),
            }
            for position_, query in enumerate(panel.queries)
        ],
    }
