"""Numbers and their text for Prometheus: what is taken, summed up, refused, and how it reads."""

from __future__ import annotations

import math
import threading

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sigul_stack.metrics import OTHER, Histogram, Tally
from sigul_stack.observe.catalogue import BY_NAME, METRICS, SECONDS, Kind
from sigul_stack.observe.exposition import CONTENT_TYPE, Samples, text


def _read(samples: Samples) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What a reader of the text finds, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text(samples).decode())
        for sample in family.samples
    }


def _labels(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


@pytest.mark.parametrize("names", [False, True])
def test_every_metric_of_the_catalogue_can_be_written_and_read(names: bool) -> None:
    samples = Samples(names=names)
    for metric in METRICS:
        labels = dict.fromkeys(metric.labels + (metric.named if names else ()), "a")
        if metric.kind is Kind.HISTOGRAM:
            samples.histogram(metric.name, (1,) * (len(metric.buckets) + 1), 0.0005, **labels)
        else:
            samples.add(metric.name, 1.5, **labels)
    families = {
        family.name: family for family in text_string_to_metric_families(text(samples).decode())
    }
    for metric in METRICS:
        family = families.pop(
            metric.name.removesuffix("_total") if metric.kind is Kind.COUNTER else metric.name
        )
        assert (family.type, family.documentation) == (metric.kind.value, metric.help)
        labels = set(metric.labels + (metric.named if names else ()))
        assert all(set(sample.labels) - {"le"} == labels for sample in family.samples)
    assert families == {}


def test_the_text_has_no_names_unless_they_are_asked_for() -> None:
    for names, expected in (
        (True, {_labels(user="alice"): 2, _labels(user="bob"): 1}),
        (False, {_labels(): 3}),
    ):
        samples = Samples(names=names)
        samples.add(
            "sigul_server_requests_total", 2, op="o", version="1", result="ok", user="alice"
        )
        samples.add("sigul_server_requests_total", 1, op="o", version="1", result="ok", user="bob")
        common = _labels(op="o", version="1", result="ok")
        assert _read(samples) == {
            ("sigul_server_requests_total", common | labels): value
            for labels, value in expected.items()
        }


def test_a_gauge_is_never_summed_up() -> None:
    samples = Samples()
    samples.add("sigul_key_days_left", 3)
    with pytest.raises(ValueError, match="already"):
        samples.add("sigul_key_days_left", 4)
    with pytest.raises(ValueError, match="may have no names"):
        Samples().add("sigul_key_days_left", 3, key="release")


def test_a_value_of_a_label_cannot_end_its_quotes() -> None:
    name = 'a"} 1\nsigul_server_info{version="9\\'
    samples = Samples(names=True)
    samples.add("sigul_key_days_left", 3, key=name)
    assert _read(samples) == {("sigul_key_days_left", _labels(key=name)): 3}


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("sigul_nothing", {}),
        ("sigul_server_phase_seconds", {"phase": "sign"}),
        ("sigul_server_workers", {}),
        ("sigul_server_workers", {"state": "busy", "user": "alice"}),
        ("sigul_server_spool_bytes", {"state": "busy"}),
    ],
)
def test_what_is_not_in_the_catalogue_is_refused(name: str, labels: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        Samples().add(name, 1, **labels)


@pytest.mark.parametrize("counts", [(), (1,), range(17, 0, -1), (0,) * 18])
def test_counts_of_other_buckets_are_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cumulative"):
        Samples().histogram("sigul_server_phase_seconds", counts, 1, phase="sign")
    with pytest.raises(ValueError, match="not a histogram"):
        Samples().histogram("sigul_server_workers", counts, 1, state="busy")


def test_a_histogram_counts_what_is_at_most_a_bound() -> None:
    histogram = Histogram(SECONDS)
    for seconds in (0.0, 0.001, 0.0011, 0.5, 300, 301):
        histogram.observe(seconds, phase="sign")
    samples = Samples()
    samples.add_histogram("sigul_server_phase_seconds", histogram)
    samples.add_histogram("sigul_server_phase_seconds", histogram)
    values = _read(samples)
    for bound, count in (("0.001", 2), ("0.0025", 3), ("0.25", 3), ("0.5", 4), ("300.0", 5)):
        key = "sigul_server_phase_seconds_bucket", _labels(phase="sign", le=bound)
        assert values[key] == 2 * count
    assert values["sigul_server_phase_seconds_bucket", _labels(phase="sign", le="+Inf")] == 12
    assert values["sigul_server_phase_seconds_count", _labels(phase="sign")] == 12
    total = values["sigul_server_phase_seconds_sum", _labels(phase="sign")]
    assert math.isclose(total, 2 * 601.5021)


def test_a_histogram_without_labels_is_there_before_anything_happened() -> None:
    samples = Samples()
    samples.add_histogram("sigul_server_handshake_seconds", Histogram(SECONDS, without_labels=True))
    assert _read(samples)["sigul_server_handshake_seconds_count", frozenset()] == 0
    assert Histogram(SECONDS).snapshot() == []


def test_sets_of_labels_have_a_limit() -> None:
    tally, histogram = Tally(most=2), Histogram((1.0,), most=2)
    for value in ("a", "b", "c", "d", "a"):
        tally.count(user=value)
        histogram.observe(2.0, user=value)
    expected = [({"user": "a"}, 2), ({"user": "b"}, 1), ({"user": OTHER}, 2)]
    assert tally.snapshot() == expected
    assert [(row.labels, row.counts[-1]) for row in histogram.snapshot()] == expected


def test_threads_lose_nothing() -> None:
    tally, histogram = Tally(), Histogram((1.0,))

    def work() -> None:
        for number in range(2000):
            tally.count(a=str(number % 3))
            histogram.observe(1.0, a=str(number % 3))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(value for _, value in tally.snapshot()) == 8000
    assert sum(row.counts[0] for row in histogram.snapshot()) == 8000
    assert sum(row.total for row in histogram.snapshot()) == 8000


def test_the_media_type_is_that_of_the_text() -> None:
    assert prometheus_client.exposition.CONTENT_TYPE_PLAIN_0_0_4 == CONTENT_TYPE


def test_names_of_the_catalogue_follow_the_conventions_of_prometheus() -> None:
    for name, metric in BY_NAME.items():
        assert name.endswith("_total") == (metric.kind is Kind.COUNTER), name
        assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM), name
        assert list(metric.buckets) == sorted(set(metric.buckets)), name
        assert not set(metric.labels) & set(metric.named), name
    assert len(BY_NAME) == len(METRICS)
