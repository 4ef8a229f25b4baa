"""The table of Prometheus metrics, from their declarations."""

from contracts.metrics import METRICS, Metric
from contracts.services import SERVICES
from deploy.documentation.markdown import code, escape, table

EVERY_SERVICE = "Every service"


def render() -> str:
    """Return a section for each group of services that exports the same metrics."""
    groups: dict[tuple[str, ...], list[Metric]] = {}
    for metric in METRICS:
        groups.setdefault(metric.services, []).append(metric)
    return "\n".join(f"## {_heading(services)}\n\n{_table(metrics)}" for services, metrics in groups.items())


def _heading(services: tuple[str, ...]) -> str:
    names = ", ".join(name for name in SERVICES if name in services)
    return names[:1].upper() + names[1:] if names else EVERY_SERVICE


def _table(metrics: list[Metric]) -> str:
    return table(("metric", "kind", "labels", "meaning"), [_row(metric) for metric in metrics])


def _row(metric: Metric) -> tuple[str, str, str, str]:
    labels = ", ".join(code(label) for label in metric.labels)
    return code(metric.name), metric.kind, labels, escape(metric.text)
