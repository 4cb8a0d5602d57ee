"""What stops a run before or while it trains: changed settings, bad data, divergence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from get3d_model.errors import InputError
from get3d_model.files import write_json_atomic
from get3d_model.inference import Sampler, find_checkpoint
from get3d_model.training import checkpoint as checkpoint_module
from get3d_model.training.checkpoint import list_checkpoints, read_state, save_checkpoint
from get3d_model.training.distributed import World
from get3d_model.training.phases import Report
from get3d_model.training.sink import JsonLinesSink
from get3d_model.training.step import TrainingStep
from get3d_model.training.trainer import Trainer, TrainingDiverged
from pipelines import cli
from tests.get3d_model.data.synthetic import make_shapes, make_views, write_shard_dataset
from tests.get3d_model.training.tiny import tiny_config, write_params

ONE_PROCESS = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """Two steps; copied by tests that change it."""
    out = tmp_path_factory.mktemp("trained")
    Trainer(tiny_config(2), tiny_data, out, ONE_PROCESS).run()
    return out


def copy_of(out: Path, target: Path) -> Path:
    import shutil

    return Path(shutil.copytree(out, target))


def get3d_train(params: Path, data: Path, out: Path, *options: str) -> int:
    return cli.main(["train", "--config", str(params), "--data", str(data), "--out", str(out), *options])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"r1_gamma": 2.0}, r"training.r1_gamma was 1.0, is now 2.0"),
        ({"seed": 1}, r"training.seed was 0, is now 1"),
        ({"batch_size": 2}, r"training.batch_size was 4, is now 2"),
    ],
)
def test_a_changed_setting_is_named(changes: dict, named: str, trained: Path, tiny_data: Path) -> None:
    trainer = Trainer(tiny_config(2, **changes), tiny_data, trained, ONE_PROCESS)
    with pytest.raises(
        InputError, match=rf"000000008 belongs to another run \({named}\).*--restart-on-change"
    ):
        trainer.resume()


def test_a_changed_model_or_data_set_is_named(trained: Path, tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(2)
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, mlp_width=8))
    with pytest.raises(InputError, match=r"model\.mlp_width was 16, is now 8"):
        Trainer(wider, tiny_data, trained, ONE_PROCESS).resume()
    shapes = {name: views[::-1] for name, views in make_shapes().items()}
    other = write_shard_dataset(tmp_path / "other", shapes)
    with pytest.raises(InputError, match="the data set has changed"):
        Trainer(config, other, trained, ONE_PROCESS).resume()


def test_a_run_may_grow_and_the_data_may_move(trained: Path, tmp_path: Path) -> None:
    moved = write_shard_dataset(tmp_path / "moved", make_shapes())
    out = copy_of(trained, tmp_path / "out")
    trainer = Trainer(tiny_config(3, checkpoint_interval_kimg=9.0), moved, out, ONE_PROCESS)
    assert trainer.resume().name == "000000008"
    assert (trainer.step, trainer.images_seen) == (2, 8)
    assert read_state(trainer.run()).step == 3
    assert [read_state(f).step for f in list_checkpoints(out)] == [2, 3]


def test_a_finished_run_does_nothing(trained: Path, tiny_data: Path, tmp_path: Path) -> None:
    out = copy_of(trained, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    trainer = Trainer(tiny_config(2), tiny_data, out, ONE_PROCESS)
    trainer.resume()
    assert trainer.run().name == "000000008"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_restart_on_change(
    trained: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Afresh from step 0; the retired checkpoint, trained for longer, is never taken for the new model."""
    out = copy_of(trained, tmp_path / "out")
    params = write_params(tmp_path / "params.yaml", tiny_config(1, seed=5))
    assert get3d_train(params, tiny_data, out) == 2
    message = capsys.readouterr().err
    assert "training.seed was 0, is now 5" in message and message.count("\n") == 1
    assert get3d_train(params, tiny_data, out, "--restart-on-change") == 0
    assert "starting afresh: training.seed" in capsys.readouterr().out
    assert find_checkpoint(out).parent.name == "000000004"
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["000000004"]
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1]
    # And back again, which retires a second time.
    write_params(params, tiny_config(1))
    assert get3d_train(params, tiny_data, out, "--restart-on-change") == 0
    assert Sampler.load(out).config == tiny_config(1)


def test_a_retired_checkpoint_is_not_found(trained: Path, tiny_data: Path, tmp_path: Path) -> None:
    out = copy_of(trained, tmp_path / "out")
    Trainer(tiny_config(1, seed=5), tiny_data, out, ONE_PROCESS).resume(restart_on_change=True)
    assert list_checkpoints(out) == []
    with pytest.raises(InputError, match="no checkpoint here"):
        find_checkpoint(out)


def test_half_a_checkpoint_is_never_seen(
    trained: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copy_of(trained, tmp_path / "out")
    trainer = Trainer(tiny_config(3), tiny_data, out, ONE_PROCESS)
    trainer.resume()
    before = list_checkpoints(out)

    def disk_full(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint_module, "write_json_atomic", disk_full)
    with pytest.raises(OSError, match="no space"):
        trainer.run()
    assert list_checkpoints(out) == before
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [f.name for f in before]


def test_leftovers_of_a_killed_run_go(trained: Path, tiny_data: Path, tmp_path: Path) -> None:
    out = copy_of(trained, tmp_path / "out")
    for name in (".000000012.999.tmp", "stale-000000004"):
        (out / "checkpoints" / name).mkdir()
    trainer = Trainer(tiny_config(2), tiny_data, out, ONE_PROCESS)
    state = dataclasses.replace(read_state(trainer.resume()), images_seen=12)
    save_checkpoint(out, trainer.modules, state)
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["000000008", "000000012"]


def test_what_a_run_killed_while_removing_left_does_not_stop_a_restart(
    trained: Path, tiny_data: Path, tmp_path: Path
) -> None:
    out = copy_of(trained, tmp_path / "out")
    names = [folder.name for folder in list_checkpoints(out)]
    (out / "checkpoints" / f"stale-{names[0]}" / "rest").mkdir(parents=True)
    assert Trainer(tiny_config(2, seed=9), tiny_data, out, ONE_PROCESS).resume(restart_on_change=True) is None
    assert not list_checkpoints(out)


def test_a_damaged_checkpoint_is_named(trained: Path, tiny_data: Path, tmp_path: Path) -> None:
    for number, (file, content) in enumerate(
        [
            ("checkpoint.json", b"{"),
            ("checkpoint.json", b"{}"),
            ("checkpoint.json", b"[]"),
            ("checkpoint.json", b'{"step": 1, "images_seen": 4, "config": [], "dataset": {}}'),
            ("checkpoint.json", b'{"step": "1", "images_seen": 4, "config": {}, "dataset": {}}'),
            ("checkpoint.json", b'{"step": 1, "images_seen": 4, "config": {"model": 1}, "dataset": {}}'),
            ("optimizers.safetensors", b"\0" * 50),
            ("optimizers.safetensors", "generator.safetensors"),
        ]
    ):
        out = copy_of(trained, tmp_path / str(number))
        folder = list_checkpoints(out)[-1]
        path = folder / file
        path.write_bytes(content if isinstance(content, bytes) else (folder / content).read_bytes())
        with pytest.raises(InputError, match=f"{path}.*; remove {folder} to use an older one"):
            Trainer(tiny_config(2), tiny_data, out, ONE_PROCESS).resume()


@pytest.mark.parametrize("network", ["generator", "discriminator"])
@pytest.mark.parametrize("log_every_kimg", [0.004, 9.0])
def test_divergence_names_the_last_good_checkpoint(
    network: str, log_every_kimg: float, trained: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """A poisoned parameter; found before the next checkpoint, whether or not a log line is due."""
    out = copy_of(trained, tmp_path / "out")
    trainer = Trainer(tiny_config(4, log_interval_kimg=log_every_kimg), tiny_data, out, ONE_PROCESS)
    good = trainer.resume()
    with torch.no_grad():
        for parameter in getattr(trainer.modules, network).parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(TrainingDiverged, match=rf"NaN or infinite.*last good checkpoint is {good}"):
        trainer.run()
    assert list_checkpoints(out)[-1] == good


def test_divergence_is_one_line_and_exit_code_2(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingStep.step

    def poisoned(
        self: TrainingStep,
        real: torch.Tensor,
        angles: torch.Tensor,
        index: int,
        *rest: torch.Tensor,
        **options: bool,
    ) -> Report:
        if index == 1:
            next(self.modules.discriminator.parameters()).data.fill_(torch.inf)
        return step(self, real, angles, index, *rest, **options)

    monkeypatch.setattr(TrainingStep, "step", poisoned)
    params = write_params(tmp_path / "params.yaml", tiny_config(4))
    assert get3d_train(params, tiny_data, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert message.startswith("get3d train: loss/") and message.count("\n") == 1
    assert str(tmp_path / "out" / "checkpoints" / "000000004") in message and "r1_gamma" in message


def test_bad_data_stops_before_any_step(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path / "params.yaml", tiny_config(2))
    empty = write_shard_dataset(tmp_path / "empty", make_shapes(), splits={"train": [], "val": ["cube"]})
    views = {name: make_views(name, resolution=24) for name in make_shapes()}  # no multiple of 16
    large = write_shard_dataset(tmp_path / "large", views)
    unfinished = tmp_path / "unfinished"
    (unfinished / "shards").mkdir(parents=True)
    for data, expected in (
        (empty, "split 'train'"),
        (large, "--resolution 16"),
        (unfinished, "run the same `get3d render` again"),
        (tmp_path / "missing", "does not exist"),
    ):
        assert get3d_train(params, data, tmp_path / "out") == 2
        message = capsys.readouterr().err
        assert str(data) in message and expected in message and message.count("\n") == 1
        assert not (tmp_path / "out").exists()
    write_params(params, tiny_config(2)).write_text("training: {batch_sice: 4}\n")
    assert get3d_train(params, tiny_data, tmp_path / "out") == 2
    assert "did you mean batch_size?" in capsys.readouterr().err


def test_the_batch_must_divide(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size 4 does not divide over 3 processes"):
        Trainer(tiny_config(1), tiny_data, tmp_path, World(0, 3, torch.device("cpu")))


def test_records_beyond_the_resumed_step_and_half_lines_go(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    sink = JsonLinesSink(path, 0)
    for step in (1, 2, 3):
        sink.record(step, {"kimg": step / 10})
    path.write_text(path.read_text() + '{"step": 4, "ki')
    JsonLinesSink(path, 2).record(3, {"kimg": 9.0})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "kimg": 0.1},
        {"step": 2, "kimg": 0.2},
        {"step": 3, "kimg": 9.0},
    ]
    path.write_text('4\n{"other": 1}\n{"step": 1}\n')
    JsonLinesSink(path, 2)
    assert path.read_text() == '{"step": 1}\n'


def test_a_description_of_another_kind(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "checkpoint.json", {"step": 1})
    with pytest.raises(InputError, match=f"not a readable checkpoint.*remove {tmp_path}"):
        read_state(tmp_path)
