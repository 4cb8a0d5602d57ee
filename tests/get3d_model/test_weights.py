"""Weight files: exact round trips, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from get3d_model.errors import InputError
from get3d_model.inference import Sampler
from get3d_model.weights import load_module, load_tensors, save_tensors

TENSORS = {
    "weight": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)),
    "bias": torch.tensor([1.0, -0.0, torch.inf]),
    "step": torch.tensor(7, dtype=torch.int64),
    "half": torch.ones(2, 2, dtype=torch.bfloat16),
}


class Bomb:
    """Unpickling it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "weights.safetensors"
    save_tensors({**TENSORS, "strided": TENSORS["weight"].T}, path, {"kimg": 1.5, "config": {"a": [1]}})
    tensors, description = load_tensors(path)
    assert description == {"kimg": 1.5, "config": {"a": [1]}}
    for name, expected in {**TENSORS, "strided": TENSORS["weight"].T}.items():
        assert tensors[name].dtype == expected.dtype and torch.equal(tensors[name], expected)
    assert torch.signbit(tensors["bias"][1])
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.safetensors"]


def test_whoever_may_read_other_new_files_may_read_weights(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    save_tensors(TENSORS, tmp_path / "w.safetensors", {})
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_same_weights_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_tensors(TENSORS, tmp_path / name, {"kimg": 1.0})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    mark, path = tmp_path / "exploded", tmp_path / "generator_ema.safetensors"
    torch.save({"weight": Bomb(mark)}, tmp_path / "zip.pt")
    for content in (pickle.dumps(Bomb(mark)), (tmp_path / "zip.pt").read_bytes()):
        path.write_bytes(content)
        for read in (load_tensors, Sampler.load):
            with pytest.raises(InputError, match=f"{path}: not a readable safetensors file"):
                read(path)
        assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists(), "the bomb is a dud"


def test_garbage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(TENSORS, path, {})
    whole = path.read_bytes()
    for content in (
        b"",
        b"\0" * 4,
        b"\xff" * 100,
        b"not weights at all",
        whole[:-1],
        whole + b"\0",
        whole[:20],
    ):
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            load_tensors(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="no such weight file"):
        load_tensors(tmp_path / "missing.safetensors")
    with pytest.raises(InputError, match="no such weight file"):
        load_tensors(tmp_path)


def test_foreign_and_damaged_descriptions(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path)
    with pytest.raises(InputError, match="was not written by get3d"):
        load_tensors(path)
    for text in ("{", "3", json.dumps([1])):
        save_file(TENSORS, path, metadata={"get3d": text})
        with pytest.raises(InputError, match="description is damaged"):
            load_tensors(path)


def test_modules_are_filled_exactly() -> None:
    module, source = nn.Linear(2, 3), Path("some/file")
    weight, bias = torch.ones(3, 2), torch.zeros(3)
    load_module(module, {"weight": weight, "bias": bias}, source)
    assert torch.equal(module.weight, weight) and torch.equal(module.bias, bias)
    for tensors, expected in (
        ({"weight": weight}, "some/file: lacks bias"),
        ({"weight": weight, "bias": bias, "scale": bias}, "some/file: has scale, which"),
        ({"weight": weight.T, "bias": bias}, r"weight has shape \(2, 3\), .* needs \(3, 2\)"),
    ):
        with pytest.raises(InputError, match=expected):
            load_module(module, {name: t + 1 for name, t in tensors.items()}, source)
        assert torch.equal(module.weight, weight), "a file that does not fit must change nothing"
