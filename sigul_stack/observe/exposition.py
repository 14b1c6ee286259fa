"""Numbers of one moment, and their text for Prometheus.

`Samples` takes values by the names of `catalogue` and refuses what is not in there: a wrong name,
a label that is missing, one that is not known. `text` has the help and the kind of each from there
too. What makes the text is prometheus_client, which is loaded only when a text is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..metrics import Histogram, Tally
from .catalogue import BY_NAME, Kind, Metric

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

#: The media type of what `text` returns.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Buckets:
    """`counts`: how many were at most each bound, and all; `total`: their sum."""

    counts: tuple[int, ...]
    total: float


_Labels = tuple[str, ...]


class Samples:
    """Values of metrics at one moment. Not for several threads.

    `names` says whether labels of `Metric.named` are given away. Where not, they are left out of
    counters and histograms, and what differs in nothing else is summed up. A gauge cannot be summed
    up by somebody who does not know what it is: whoever adds it leaves that label out.
    """

    def __init__(self, *, names: bool = False) -> None:
        self.names = names
        self._values: dict[Metric, dict[_Labels, float]] = {}
        self._buckets: dict[Metric, dict[_Labels, _Buckets]] = {}

    def add(self, name: str, value: float, /, **labels: str) -> None:
        """A counter's or a gauge's value. A counter's for the same labels are summed up.

        All of the metric's `labels` must be there, those of `named` may be.

        Raises:
            ValueError: There is no such counter or gauge, a label is missing or too many, or the
                gauge has a value already.
        """
        metric = _metric(name, Kind.COUNTER, Kind.GAUGE)
        key = self._key(metric, labels)
        values = self._values.setdefault(metric, {})
        if metric.kind is Kind.COUNTER:
            value += values.get(key, 0)
        elif key in values:
            raise ValueError(f"{name}{labels} has a value already")
        values[key] = value

    def histogram(self, name: str, counts: Sequence[int], total: float, /, **labels: str) -> None:
        """A histogram's values for these labels, as `Histogram.snapshot` has them.

        `counts` is cumulative: for each of the metric's buckets how many were at most its bound,
        and at last how many there were. `total` is their sum. Those for the same labels are summed
        up.

        Raises:
            ValueError: There is no such histogram, a label is missing or too many, or these are
                not the counts of its buckets.
        """
        metric = _metric(name, Kind.HISTOGRAM)
        if len(counts) != len(metric.buckets) + 1 or list(counts) != sorted(counts):
            raise ValueError(f"{list(counts)} are not cumulative counts of {name}'s buckets")
        key = self._key(metric, labels)
        rows = self._buckets.setdefault(metric, {})
        if (before := rows.get(key)) is not None:
            counts = [one + other for one, other in zip(counts, before.counts, strict=True)]
            total += before.total
        rows[key] = _Buckets(tuple(counts), total)

    def add_tally(self, name: str, tally: Tally, /) -> None:
        """A counter's values for all labels that were counted; see `add`."""
        for labels, value in tally.snapshot():
            self.add(name, value, **labels)

    def add_histogram(self, name: str, histogram: Histogram, /) -> None:
        """A histogram's values for all labels that were observed; see `histogram`.

        One without labels is there from the beginning, with zeros.
        """
        for row in histogram.snapshot():
            self.histogram(name, row.counts, row.total, **row.labels)

    def families(self) -> Iterator[Family]:
        """All of it for prometheus_client, in the order of the catalogue."""
        from prometheus_client.metrics_core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        for metric in BY_NAME.values():
            names = self._names(metric)
            if metric in self._buckets:
                bounds = [*map(str, metric.buckets), "+Inf"]
                histogram = HistogramMetricFamily(metric.name, metric.help, labels=names)
                for key, row in sorted(self._buckets[metric].items()):
                    counts = zip(bounds, map(float, row.counts), strict=True)
                    histogram.add_metric(key, list(counts), row.total)
                yield histogram
            elif metric in self._values:
                kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
                family = kind(metric.name, metric.help, labels=names)
                for key, value in sorted(self._values[metric].items()):
                    family.add_metric(key, value)
                yield family

    def _names(self, metric: Metric) -> tuple[str, ...]:
        return metric.labels + metric.named if self.names else metric.labels

    def _key(self, metric: Metric, labels: dict[str, str]) -> _Labels:
        """The values of `labels` in the order of `_names`; "" is one that is not there."""
        missing = set(metric.labels) - set(labels)
        unknown = set(labels) - set(metric.labels) - set(metric.named)
        if missing or unknown:
            raise ValueError(f"{metric.name} has the labels {metric.labels}, not {labels}")
        if metric.kind is Kind.GAUGE and not self.names and set(labels) & set(metric.named):
            raise ValueError(f"{metric.name} may have no names: {labels}")
        return tuple(labels.get(name, "") for name in self._names(metric))


class _Collector:
    """A collector, as prometheus_client asks for metrics."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Family]:
        return self._samples.families()


def text(samples: Samples) -> bytes:
    """`samples` in Prometheus' text format (`CONTENT_TYPE`)."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(samples))
    return generate_latest(registry)


def _metric(name: str, *kinds: Kind) -> Metric:
    metric = BY_NAME.get(name)
    if metric is None or metric.kind not in kinds:
        raise ValueError(f"{name} is not a {' or '.join(kinds)} of the catalogue")
    return metric
