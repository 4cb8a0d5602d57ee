"""`get3d train` as a command; what training does is tested in tests/get3d_model/training."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from components.train.main import main
from components.train.output_lock import only_training
from get3d_model.data.remote import push_dataset
from get3d_model.inference import Sampler
from tests.commands import refusal
from tests.get3d_model.training.tiny import checkpoint_tensors, differing, tiny_config, write_params


def test_trains_and_says_what_it_does(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params, out = tmp_path / "params.yaml", tmp_path / "out"
    command = ["--config", str(params), "--data", str(tiny_data), "--out", str(out)]
    write_params(params, tiny_config(2))
    assert main(command) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"{tiny_data}: shards layout, 5 shapes")
    assert "kimg 0.01/0.01  sec/kimg" in output and "ETA 0:00:00" in output
    assert f"finished: {out / 'checkpoints' / '000000008'}\n" in output
    write_params(params, tiny_config(3))
    assert main(command) == 0
    output = capsys.readouterr().out
    assert f"resuming from {out / 'checkpoints' / '000000008'} at kimg 0.01" in output
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
    ]
    assert Sampler.load(out).identity.kimg == 0.012


def test_two_trainings_do_not_share_a_folder(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params, out = tmp_path / "params.yaml", tmp_path / "runs" / "out"
    write_params(params, tiny_config(1))
    command = ["--config", str(params), "--data", str(tiny_data), "--out", str(out)]
    with only_training(out):
        assert refusal(main, command, capsys) == (
            f"get3d train: another training is writing into {out}; wait for its end, or give another --out\n"
        )
        assert not out.exists()
    assert main(command) == 0
    # A mistake is found before anything is made.
    wrong = [
        "--config",
        str(tmp_path / "none.yaml"),
        "--data",
        str(tiny_data),
        "--out",
        str(tmp_path / "a" / "b"),
    ]
    assert main(wrong) == 2 and not (tmp_path / "a").exists()


def test_the_published_layout_trains_too(tmp_path: Path) -> None:
    from tests.get3d_model.data.synthetic import SPLITS, make_shapes, write_published_dataset

    data = write_published_dataset(tmp_path / "data", make_shapes())
    for name, ids in SPLITS.items():
        (data / f"{name}.txt").write_text("\n".join(ids) + "\n")
    params = write_params(tmp_path / "params.yaml", tiny_config(1))
    assert main(["--config", str(params), "--data", str(data), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "checkpoints" / "000000004").is_dir()


def test_a_missing_params_file_names_the_presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", tmp_path / "none.yaml", "--data", tmp_path, "--out", tmp_path / "out"]
    assert re.search(r"no such params file; start from a preset .*demo", refusal(main, words, capsys))


def test_an_address_trains_as_the_folder_does(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit, whether images come from afar, from the copied shards, or from a staged folder."""
    fsspec = pytest.importorskip("fsspec")
    push_dataset(tiny_data, "memory://train/set")
    params = write_params(tmp_path / "params.yaml", tiny_config(2))
    checkpoints = []
    for number, (data, more) in enumerate(
        (
            (str(tiny_data), []),
            ("memory://train/set", ["--cache-gb", "0"]),
            (str(tiny_data), ["--cache-gb", "1"]),
        )
    ):
        out, cache = tmp_path / f"out-{number}", tmp_path / f"cache-{number}"
        staged = ["--cache-dir", str(cache), *more] if more else []
        assert main(["--config", str(params), "--data", data, "--out", str(out), *staged]) == 0
        checkpoints.append(checkpoint_tensors(out / "checkpoints" / "000000008"))
        output = capsys.readouterr().out
        assert (f"reading {data}: 3 shards" in output) == bool(more)
    assert differing(checkpoints[0], checkpoints[1]) == differing(checkpoints[0], checkpoints[2]) == []
    fsspec.filesystem("memory").store.clear()
    # The same run goes on, wherever the data set has moved to.
    write_params(params, tiny_config(3))
    assert main(["--config", str(params), "--data", str(tiny_data), "--out", str(tmp_path / "out-1")]) == 0
    assert "resuming from" in capsys.readouterr().out
    words = ["--config", params, "--data", "memory://train/set", "--out", tmp_path / "out"]
    message = refusal(main, [*words, "--cache-dir", tmp_path / "cache"], capsys)
    assert "memory://train/set holds no finished data set" in message
