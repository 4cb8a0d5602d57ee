"""Sinks, read back by Prometheus' own parser, over HTTP where they serve it."""

import shutil
import threading
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from components.train.monitor import monitored
from get3d_model.errors import InputError
from get3d_model.training.trainer import TrainingDiverged
from monitoring.metrics import TRAINING_STATES
from monitoring.sinks import Exporter, MetricSet, TextfileSink, TrainingFacts, TrainingMetrics
from monitoring.tensorboard_sink import TensorBoardSink

FACTS = TrainingFacts("demo", 100.0, 1.0, 10.0, batch_size=4, world_size=2, first_step=0)


def parsed(text):
    families = text_string_to_metric_families(text)
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples, name, **labels):
    return samples[(f"get3d_training_{name}", *sorted({"model": "demo", **labels}.items()))]


def test_records_become_gauges_and_the_last_one_stays(tmp_path):
    path = tmp_path / "metrics" / "training.prom"
    metrics = TrainingMetrics(FACTS)
    sink = TextfileSink(path, metrics)
    records = (
        {"kimg": 1.5, "loss/r1": 0.25, "something/else": 3.0, "data_wait_s": 2.0},
        {"kimg": 2.5, "data_wait_s": 0.5},
    )
    for step, record in enumerate(records, 1):
        metrics.record(step, record)
        sink.record(step, record)
    samples = parsed(path.read_text())
    assert value(samples, "kimg") == 2.5 and value(samples, "r1_penalty") == 0.25
    assert value(samples, "data_wait_seconds_total") == 2.5, "a counter adds what the records say"
    assert value(samples, "images_total") == 8 and value(samples, "world_size") == 2
    assert not any("something" in name for name, *_ in samples)
    assert [p.name for p in path.parent.iterdir()] == ["training.prom"], "no temporary file is left"


def test_a_textfile_that_cannot_be_written_any_more_is_one_line(tmp_path, capsys):
    """At the start it is the user's mistake; later, no reason to end a training."""
    path = tmp_path / "metrics" / "training.prom"
    metrics = TrainingMetrics(FACTS)
    with pytest.raises(
        InputError, match=r"training\.txt: the node exporter reads no other files than \*\.prom"
    ):
        TextfileSink(path.with_suffix(".txt"), metrics)
    with pytest.raises(OSError):
        TextfileSink(tmp_path / ("x" * 300) / "y.prom", metrics)
    sink = TextfileSink(path, metrics)
    shutil.rmtree(path.parent)
    for step in (1, 2):
        sink.record(step, {})
    path.parent.mkdir()
    sink.record(3, {})
    assert path.is_file()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"metrics are not written to {path}: No such file or directory; the training goes on"]


def test_counters_begin_at_zero_and_do_not_fall(tmp_path):
    metrics = TrainingMetrics(FACTS)
    metrics.record(1, {"gradients/replaced_count": float("nan"), "shapes/empty_fraction": 0.5})
    metrics.record(2, {"gradients/replaced_count": 7.0, "shapes/empty_fraction": float("nan")})
    path = tmp_path / "x.prom"
    TextfileSink(path, metrics)
    samples = parsed(path.read_text())
    assert value(samples, "replaced_gradients_total") == 7 and value(samples, "empty_shapes_total") == 2


def test_a_label_value_that_is_not_listed_makes_no_series():
    gate = MetricSet(["get3d_pipeline_step_duration_seconds", "get3d_pipeline_run_outcome"])
    for number in range(50):
        gate.set("get3d_pipeline_step_duration_seconds", 1.0, step=f"shard-{number}")
    gate.set("get3d_pipeline_step_duration_seconds", 2.0, step="render")
    labels = [s.labels for family in gate.registry.collect() for s in family.samples]
    assert labels == [{"step": "other"}, {"step": "render"}]
    with pytest.raises(KeyError, match="outcome takes"):
        gate.set("get3d_pipeline_run_outcome", 1.0, outcome="whatever")


def fetch(url):
    return parsed(urllib.request.urlopen(url, timeout=5).read().decode())


def test_the_exporter_shows_how_the_training_ended(tmp_path, capsys):
    """Once scraped, it waits for one more scrape, which then sees the end."""
    seen = []

    def scrape_late(url):
        time.sleep(0.3)
        seen.append(fetch(url))

    textfile = tmp_path / "t.prom"
    with pytest.raises(TrainingDiverged), monitored(FACTS, 0, "127.0.0.1", textfile) as sinks:
        url = capsys.readouterr().out.split()[-1]
        sinks[0].record(3, {"kimg": 0.5})
        assert value(fetch(url), "state", state="running") == 1
        late = threading.Thread(target=scrape_late, args=(url,))
        late.start()
        raise TrainingDiverged("NaN")
    late.join()
    for samples in (*seen, parsed(textfile.read_text())):
        states = {state: value(samples, "state", state=state) for state in TRAINING_STATES}
        assert states == {state: float(state == "diverged") for state in TRAINING_STATES}
    with pytest.raises(OSError):
        fetch(url)


def test_a_port_in_use_is_one_clear_line():
    registry = TrainingMetrics(FACTS).registry
    first = Exporter(registry, 0).start()
    try:
        with pytest.raises(
            InputError, match=f"cannot listen on 127.0.0.1:{first.port} .*choose another port"
        ):
            Exporter(registry, first.port).start()
    finally:
        started = time.monotonic()
        first.stop()
    assert time.monotonic() - started < 2, "nobody had scraped it"


def test_the_address_of_an_exporter_can_be_read():
    for host in ("127.0.0.1", "0.0.0.0", "::1"):
        try:
            exporter = Exporter(TrainingMetrics(FACTS).registry, 0, host).start()
        except InputError:
            assert host == "::1", "only IPv6 may be missing here"
            continue
        assert value(fetch(exporter.url), "world_size") == 2
        exporter.stop(wait_s=0)


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
