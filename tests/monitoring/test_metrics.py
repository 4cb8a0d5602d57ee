"""The table of metrics: names as Prometheus wants them, labels bounded, and one definition of each."""

import re
from pathlib import Path

from monitoring import metrics

ROOT = Path(__file__).parent.parent.parent
UNITS = ("_total", "_seconds", "_bytes")


def test_names_follow_the_conventions():
    for metric in metrics.METRICS.values():
        assert re.fullmatch(r"get3d_[a-z0-9_]+", metric.name) and metric.help, metric
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.kind in ("counter", "gauge", "histogram") and bool(metric.buckets) == (
            metric.kind == "histogram"
        )
        assert list(metric.buckets) == sorted(metric.buckets)
        for word in ("_ms", "_mb", "_percent", "_minutes"):
            assert not metric.name.removesuffix("_total").endswith(word), "base units: seconds, bytes, ratios"
    everything = (*metrics.TRAINING, *metrics.SERVING, *metrics.PROBE, *metrics.PIPELINE)
    assert len({m.name for m in everything}) == len(everything)
    assert len(metrics.RECORDED) == sum(bool(m.record) for m in everything)


def test_the_number_of_series_is_bounded():
    for group in (metrics.TRAINING, metrics.SERVING, metrics.PROBE, metrics.PIPELINE):
        assert sum(map(metrics.max_series, group)) <= metrics.MAX_SERIES
    for metric in metrics.METRICS.values():
        assert set(metric.labels) <= metrics.LABEL_VALUES.keys(), "every label has its bound in LABEL_VALUES"
    for values in metrics.LABEL_VALUES.values():
        assert isinstance(values, int) or len(set(values)) == len(values)


def test_no_metric_is_named_anywhere_without_being_defined():
    """Other modules, rules and dashboards may write names; all of them must be in the table."""
    known = {*metrics.METRICS, *metrics.known_series()}
    recorded = re.compile(
        r"\bget3d_(?:training|pipeline|probe|requests|errors|meshes|stage|shm)_[a-z0-9_]+\b"
    )
    unknown = set()
    for folder in ("monitoring", "serving", "components", "pipelines"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yml", ".yaml", ".json"):
                found = {name for name in recorded.findall(path.read_text()) if not name.endswith("_")}
                unknown |= {(path.name, name) for name in found - known}
    assert unknown == set()
