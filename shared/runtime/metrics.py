"""Makes Prometheus metrics from their declarations, and bounds their labels."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from contracts.metrics import LABEL_VALUES, OTHER, Metric


def counter(declared: Metric, registry: CollectorRegistry) -> Counter:
    """Return a new counter."""
    return Counter(declared.name, declared.text, declared.labels, registry=registry)


def gauge(declared: Metric, registry: CollectorRegistry) -> Gauge:
    """Return a new gauge."""
    mode = declared.shared
    return Gauge(declared.name, declared.text, declared.labels, registry=registry, multiprocess_mode=mode)


def histogram(declared: Metric, registry: CollectorRegistry) -> Histogram:
    """Return a new histogram."""
    return Histogram(declared.name, declared.text, declared.labels, registry=registry, buckets=declared.buckets)


class BoundedLabel:
    """A label with values from outside: the first ones up to a limit are kept, all later ones become `other`."""

    def __init__(self, limit: int = LABEL_VALUES) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, value: object) -> str:
        """Return the label of a value."""
        text = str(value)
        if text not in self._known:
            if len(self._known) >= self._limit:
                return OTHER
            self._known.add(text)
        return text


class Counts:
    """A gauge of counts by labels; each source, a record, replaces its earlier counts. Unused labels are set to 0."""

    def __init__(self, metric: Gauge) -> None:
        self._metric = metric
        self._by_source: dict[str, Mapping[tuple[str, ...], float]] = {}
        self._shown: set[tuple[str, ...]] = set()

    def replace(self, source: str, counts: Mapping[tuple[str, ...], float]) -> None:
        """Replace the counts of a source."""
        if self._by_source.get(source, {}) == counts:
            return
        if counts:
            self._by_source[source] = dict(counts)
        else:
            self._by_source.pop(source, None)
        self._show(counts)

    def keep_only(self, sources: Iterable[str]) -> None:
        """Forget all other sources."""
        gone = self._by_source.keys() - set(sources)
        for source in gone:
            del self._by_source[source]
        if gone:
            self._show(())

    def _show(self, new: Iterable[tuple[str, ...]]) -> None:
        sums = dict.fromkeys((*self._shown, *new), 0.0)
        for counts in self._by_source.values():
            for labels, count in counts.items():
                sums[labels] = sums.get(labels, 0.0) + count
        for labels, total in sums.items():
            (self._metric.labels(*labels) if labels else self._metric).set(total)
        self._shown = set(sums)
