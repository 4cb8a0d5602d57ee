"""The textfile sink, read back by Prometheus' own parser."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.metrics import TRAINING_GAUGES
from monitoring.sinks import TextfileSink
from monitoring.tensorboard_sink import TensorBoardSink


def samples(path):
    families = text_string_to_metric_families(path.read_text())
    return {s.name: (s.value, s.labels) for family in families for s in family.samples}


def test_records_become_gauges_and_the_last_one_stays(tmp_path):
    path = tmp_path / "metrics" / "training.prom"
    sink = TextfileSink(path, "demo")
    sink.record(1, {"kimg": 1.5, "loss/r1": 0.25, "something/else": 3.0})
    sink.record(2, {"kimg": 2.5})
    assert samples(path) == {
        "get3d_training_kimg": (2.5, {"model": "demo"}),
        "get3d_training_r1_penalty": (0.25, {"model": "demo"}),
    }
    assert [p.name for p in path.parent.iterdir()] == ["training.prom"], "no temporary file is left"


def test_metric_names_are_unique_and_prefixed():
    names = [item.metric for item in TRAINING_GAUGES]
    assert len(set(names)) == len(names)
    assert all(name.startswith("get3d_training_") for name in names)


def test_tensorboard_reads_the_records_back(tmp_path):
    """Through TensorBoard's own reader; a resumed run replaces what lies beyond its step."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    first = TensorBoardSink(tmp_path, 0)
    for step in (1, 2, 3):
        first.record(step, {"kimg": step / 10, "loss/r1": 0.5 * step})
    time.sleep(1.1)  # event files are ordered by the second they were opened in
    TensorBoardSink(tmp_path, 1).record(2, {"kimg": 9.0})
    reader = accumulator.EventAccumulator(str(tmp_path))
    reader.Reload()
    assert reader.Tags()["scalars"] == ["progress/kimg", "loss/r1"]
    assert [(e.step, round(e.value, 6)) for e in reader.Scalars("progress/kimg")] == [(1, 0.1), (2, 9.0)]
    assert [(e.step, e.value) for e in reader.Scalars("loss/r1")] == [(1, 0.5)]
