"""`get3d evaluate` on meshes that stand for a data set of five shapes."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from components.evaluate.geometry import evaluate_geometry
from components.evaluate.main import main
from get3d_model.config import EvaluationConfig
from get3d_model.data.manifest import read_manifest, write_manifest
from get3d_model.errors import InputError
from get3d_model.inference import Sampler
from get3d_model.mesh_io import save_mesh
from get3d_model.types import TexturedMesh
from get3d_model.weights import load_tensors, save_tensors
from pipelines import cli
from tests.get3d_model.data.synthetic import SHAPES
from tests.get3d_model.training.tiny import tiny_config, write_params
from tests.serving.tiny import write_checkpoint

SETTINGS = EvaluationConfig(samples_per_reference=3, surface_points=128)


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box of its own proportions for every shape of the data set."""
    folder = tmp_path_factory.mktemp("meshes")
    for index, name in enumerate(SHAPES):
        box = trimesh.creation.box(extents=(1.0, 1.0 + index, 2.0))
        textured = TexturedMesh(
            box.vertices.astype(np.float32), box.faces.astype(np.int32),
            np.zeros((len(box.vertices), 2), np.float32), np.full((4, 4, 3), 128, np.uint8),
        )  # fmt: skip
        save_mesh(textured, folder / f"{name}.glb")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def arguments(checkpoint: Path, data: Path, meshes: Path, out: Path) -> list[str]:
    return ["--checkpoint", str(checkpoint), "--data", str(data), "--meshes", str(meshes), "--out", str(out)]


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_metrics(checkpoint: Path, tiny_data: Path, meshes: Path, tmp_path: Path, capsys) -> None:
    params = write_params(tmp_path / "params.yaml", tiny_config(1))
    out = tmp_path / "new" / "out"
    main([*arguments(checkpoint, tiny_data, meshes, out), "--config", str(params)])
    metrics = json.loads((out / "metrics.json").read_text(), parse_constant=no_constant)
    assert all(value is None or isinstance(value, (int, float, str)) for value in metrics.values())
    assert (metrics["references"], metrics["samples"], metrics["train_control"]) == (2, 2, 2)
    assert metrics["surface_points"] == 64
    assert 0 <= metrics["cd_cov"] <= 1 and metrics["cd_mmd_x1000"] > 0
    assert metrics["checkpoint_sha256"] == Sampler.load(checkpoint).identity.sha256
    printed = capsys.readouterr().out
    assert all(name in printed for name in metrics)
    # The checkpoint's own settings where no params file is given.
    main(arguments(checkpoint, tiny_data, meshes, out))
    assert (
        json.loads((out / "metrics.json").read_text())["surface_points"] == EvaluationConfig().surface_points
    )


def test_the_control_is_measured_like_the_samples(checkpoint: Path, tiny_data: Path, meshes: Path) -> None:
    """Held-out shapes in the place of the training shapes: all are found, at no distance."""
    manifest = read_manifest(tiny_data)
    val = manifest.splits["val"]
    same = replace(manifest, splits={"train": val, "val": val})
    metrics = evaluate_geometry(Sampler.load(checkpoint), same, meshes, SETTINGS)
    assert metrics["train_cd_cov"] == 1.0 and metrics["train_cd_mmd_x1000"] == pytest.approx(0.0, abs=1e-3)
    other = evaluate_geometry(Sampler.load(checkpoint), manifest, meshes, SETTINGS)
    assert other["train_cd_mmd_x1000"] > 1.0
    without = replace(manifest, splits={"val": val})
    assert "train_cd_cov" not in evaluate_geometry(Sampler.load(checkpoint), without, meshes, SETTINGS)


def test_a_model_without_surfaces_has_no_nan(
    checkpoint: Path, tiny_data: Path, meshes: Path, tmp_path: Path
) -> None:
    tensors, description = load_tensors(checkpoint)
    description["config"]["model"]["initial_shape"] = None
    (last,) = (n for n in tensors if n.endswith("mlp_synthesis_sdf.layers.1.bias"))
    save_tensors({**tensors, last: torch.full_like(tensors[last], -1e3)}, tmp_path / "empty", description)
    main(arguments(tmp_path / "empty", tiny_data, meshes, tmp_path))
    metrics = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=no_constant)
    assert metrics["empty_fraction"] == 1.0 and metrics["cd_cov"] == 0.0
    assert metrics["cd_mmd_x1000"] is None and metrics["triangles_median"] is None
    assert math.isfinite(metrics["train_cd_mmd_x1000"])


def test_the_same_again_is_the_same(checkpoint: Path, tiny_data: Path, meshes: Path) -> None:
    manifest = read_manifest(tiny_data)
    first, again = (evaluate_geometry(Sampler.load(checkpoint), manifest, meshes, SETTINGS) for _ in range(2))
    assert first == again


def test_bad_input_is_named(checkpoint: Path, tiny_data: Path, meshes: Path, tmp_path: Path, capsys) -> None:
    manifest = read_manifest(tiny_data)
    with pytest.raises(InputError, match="no val split; render again with a larger --val-fraction"):
        evaluate_geometry(
            Sampler.load(checkpoint), replace(manifest, splits={"train": SHAPES}), meshes, SETTINGS
        )
    unrendered = tmp_path / "unrendered"
    unrendered.mkdir()
    write_manifest(unrendered, replace(manifest, splits={"train": SHAPES[:1], "val": ["ghost"]}))
    fewer = Path(shutil.copytree(meshes, tmp_path / "fewer"))
    (fewer / "torus.glb").unlink()
    for values, expected in (
        ((checkpoint, tiny_data, fewer), str(fewer / "torus.glb")),
        ((checkpoint, unrendered, meshes), "ghost, which was not rendered"),
        ((checkpoint, tmp_path / "nothing", meshes), "manifest.json does not exist"),
        ((tmp_path, tiny_data, meshes), "no checkpoint here"),
    ):
        assert cli.main(["evaluate", *arguments(*values, tmp_path / "out")]) == 2
        message = capsys.readouterr().err
        assert expected in message and message.count("\n") == 1
        assert not (tmp_path / "out").exists()
