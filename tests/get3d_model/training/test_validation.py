"""The validation metric in a run: what it measures, which checkpoint it keeps, when it ends the run."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from get3d_model.errors import InputError
from get3d_model.inference import Sampler, find_checkpoint
from get3d_model.metrics.swd import SwdReference
from get3d_model.training.best import Best, best_from_dict
from get3d_model.training.checkpoint import list_checkpoints, read_state
from get3d_model.training.distributed import World
from get3d_model.training.sink import JsonLinesSink
from get3d_model.training.trainer import Trainer
from get3d_model.training.validation import KEY, Validator
from tests.get3d_model.data.synthetic import make_shapes, write_shard_dataset
from tests.get3d_model.training.tiny import checkpoint_tensors, differing, tiny_config

ALONE = World(0, 1, torch.device("cpu"))


def script_of(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Validations that give these values, one after the other."""
    scripted = iter(values)
    monkeypatch.setattr(Validator, "measure", lambda self: {KEY: next(scripted)})


def names(out: Path) -> list[str]:
    return [folder.name for folder in list_checkpoints(out)]


def best_json(out: Path) -> dict:
    return json.loads((out / "best.json").read_text())


def test_held_out_views_are_measured_and_logged(tiny_data: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny_config(2, validation_images=256), tiny_data, tmp_path, ALONE)
    assert trainer.validator.images == 6, "all held-out views, when there are fewer"
    trainer.run([JsonLinesSink(tmp_path / "metrics.jsonl", 0)])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(line[KEY] == line[f"{KEY}_16"] > 0 for line in lines)
    assert lines[-1][KEY] == trainer.validator.measure()[KEY], (
        "the same seeds, cameras and patches every time"
    )
    best = min(lines, key=lambda line: line[KEY])
    assert (best_json(tmp_path)["value"], best_json(tmp_path)["kimg"]) == (best[KEY], best["kimg"])


def test_the_metric_is_zero_for_the_held_out_views_themselves(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = Trainer(tiny_config(1, validation_images=6), tiny_data, tmp_path, ALONE).validator
    assert validator.measure()[KEY] > 0.05
    monkeypatch.setattr(validator, "_generated", validator._real)
    assert validator.measure() == {KEY: 0.0, f"{KEY}_16": 0.0}
    assert isinstance(validator._reference, SwdReference)


def test_it_changes_nothing_in_what_is_trained(tiny_data: Path, tmp_path: Path) -> None:
    for name, images in (("with", 6), ("without", 0)):
        Trainer(tiny_config(3, validation_images=images), tiny_data, tmp_path / name, ALONE).run()
    first, second = (list_checkpoints(tmp_path / name)[-1] for name in ("with", "without"))
    assert differing(checkpoint_tensors(first), checkpoint_tensors(second)) == []
    assert not (tmp_path / "without" / "best.json").exists()


def test_the_best_checkpoint_outlives_newer_ones(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(6, validation_images=6)
    script_of(monkeypatch, [0.5, 0.2, 0.4, float("nan"), 0.3, 0.25])
    Trainer(config, tiny_data, tmp_path, ALONE).run()
    assert names(tmp_path) == ["000000008", "000000020", "000000024"]
    assert best_json(tmp_path) == {
        "metric": "swd of 6 held-out views",
        "value": 0.2,
        "kimg": 0.008,
        "checkpoint": "checkpoints/000000008",
    }
    assert find_checkpoint(tmp_path).parent.name == "000000024"
    assert find_checkpoint(tmp_path / "best.json").parent.name == "000000008"
    assert Sampler.load(tmp_path / "best.json").identity.kimg == 0.008
    # Another run of the folder goes on with the record, and lets the old best go when it finds a better one.
    script_of(monkeypatch, [0.3, 0.1, 0.2, 0.2])
    trainer = Trainer(
        dataclasses.replace(config, training=dataclasses.replace(config.training, total_kimg=0.040)),
        tiny_data, tmp_path, ALONE,
    )  # fmt: skip
    trainer.resume()
    assert trainer.best.worse_since == 4
    trainer.run()
    assert names(tmp_path) == ["000000032", "000000036", "000000040"]
    assert best_json(tmp_path)["checkpoint"] == "checkpoints/000000032"


def test_a_lost_record_is_written_again_and_a_restart_removes_it(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_of(monkeypatch, [0.5, 0.6])
    config = tiny_config(2, validation_images=6)
    Trainer(config, tiny_data, tmp_path, ALONE).run()
    written = (tmp_path / "best.json").read_text()
    (tmp_path / "best.json").unlink()
    trainer = Trainer(config, tiny_data, tmp_path, ALONE)
    trainer.resume()
    trainer.run()
    assert (tmp_path / "best.json").read_text() == written
    other = Trainer(tiny_config(1, seed=5), tiny_data, tmp_path, ALONE)
    other.resume(restart_on_change=True)
    other.run()
    with pytest.raises(InputError, match=r"best.json cannot be read"):
        find_checkpoint(tmp_path / "best.json")


def test_training_ends_when_the_metric_gets_no_better(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(50, validation_images=6, early_stopping_patience=3)
    script_of(monkeypatch, [0.5, 0.4, 0.45, 0.41, 0.3, 0.31, 0.32, 0.33])
    last = Trainer(config, tiny_data, tmp_path, ALONE).run()
    assert last.name == "000000032" and read_state(last).step == 8
    assert "stopped early at kimg 0.03: 3 validations in a row not below 0.3000" in capsys.readouterr().out
    assert (tmp_path / "images" / "fakes_000000032.png").is_file(), "the last pictures, as at any end"
    # Once more: it stays ended, until it is given more patience.
    trainer = Trainer(config, tiny_data, tmp_path, ALONE)
    trainer.resume()
    assert trainer.run() == last
    script_of(monkeypatch, [0.4, 0.4])
    patient = tiny_config(50, validation_images=6, early_stopping_patience=5)
    trainer = Trainer(patient, tiny_data, tmp_path, ALONE)
    trainer.resume()
    assert read_state(trainer.run()).step == 10


def test_early_stopping_without_a_metric_is_refused(tmp_path: Path) -> None:
    everything = write_shard_dataset(tmp_path / "data", make_shapes(), splits={"train": list(make_shapes())})
    config = tiny_config(1, validation_images=6, early_stopping_patience=1)
    with pytest.raises(InputError, match=r"early_stopping_patience needs a validation metric: .*data has no"):
        Trainer(config, everything, tmp_path / "out", ALONE)
    config = tiny_config(1, validation_images=6)
    assert Trainer(config, everything, tmp_path / "out", ALONE).validator.images == 0


def test_a_best_json_that_leads_nowhere_is_explained(tiny_data: Path, tmp_path: Path) -> None:
    Trainer(tiny_config(1, validation_images=6), tiny_data, tmp_path, ALONE).run()
    shutil.rmtree(tmp_path / "checkpoints" / "000000004")
    with pytest.raises(InputError, match=r"names .*000000004.* which is gone"):
        find_checkpoint(tmp_path / "best.json")
    (tmp_path / "best.json").write_text("{}")
    with pytest.raises(InputError, match=r"best.json is damaged"):
        find_checkpoint(tmp_path / "best.json")


def test_records_of_another_metric_do_not_count() -> None:
    best = Best("swd of 6 held-out views").updated(0.5, 8)
    assert best_from_dict(dataclasses.asdict(best), best.metric) == best
    assert best_from_dict(dataclasses.asdict(best), "swd of 7 held-out views") == Best(
        "swd of 7 held-out views"
    )
    assert best_from_dict(None, best.metric) == Best(best.metric), (
        "checkpoints from before there was a record"
    )
    with pytest.raises(InputError, match="damaged"):
        best_from_dict({"metric": best.metric, "worth": 1}, best.metric)
