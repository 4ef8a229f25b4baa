"""Expressions of PromQL over declared metrics; a label that a metric does not have is refused."""

from contracts.metrics import Metric


def select(metric: Metric, series: str = "", **labels: str) -> str:
    """Return a selector of a metric's series; a value that begins with `~` is a regular expression.

    Raises:
        ValueError: The metric has no such label.
    """
    unknown = set(labels) - set(metric.labels)
    if unknown:
        msg = f"{metric.name} has no label {', '.join(sorted(unknown))}; it has {', '.join(metric.labels) or 'none'}"
        raise ValueError(msg)
    inner = ",".join(_matcher(label, value) for label, value in labels.items())
    return f"{series or metric.name}{{{inner}}}" if inner else series or metric.name


def _matcher(label: str, value: str) -> str:
    return f'{label}=~"{value[1:]}"' if value.startswith("~") else f'{label}="{value}"'


def rate(metric: Metric, window: str, **labels: str) -> str:
    """Return the rate per second of a counter."""
    return f"rate({select(metric, **labels)}[{window}])"


def increase(metric: Metric, window: str, **labels: str) -> str:
    """Return how much a counter rose in a window."""
    return f"increase({select(metric, **labels)}[{window}])"


def total(expr: str) -> str:
    """Return the sum over all series."""
    return f"sum({expr})"


def by(expr: str, *labels: str) -> str:
    """Return the sum by these labels."""
    return f"sum by ({', '.join(labels)}) ({expr})"


def quantile(ratio: float, metric: Metric, window: str, *group: str, **labels: str) -> str:
    """Return a quantile of a histogram, by these labels."""
    buckets = f"rate({select(metric, metric.bucket, **labels)}[{window}])"
    return f"histogram_quantile({ratio:g}, {by(buckets, *group, 'le')})"


def mean(metric: Metric, window: str, *group: str) -> str:
    """Return the mean of what a histogram observed, by these labels."""
    sums, counts = (f"rate({series}[{window}])" for series in (metric.sum, metric.count))
    return f"{by(sums, *group)} / {by(counts, *group)}"
