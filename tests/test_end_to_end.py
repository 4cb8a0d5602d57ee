"""The whole path at a tiny size, every step a `get3d` process of its own, as a user would run it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import trimesh
import yaml
from PIL import Image

from get3d_model.config import config_to_dict
from tests.get3d_model.training.tiny import tiny_config

SHAPES, VIEWS, STEPS, SAMPLES = 4, 4, 4, 2
RESOLUTION = 32
FREE_PORTS = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]


def get3d(*arguments: object) -> str:
    """Runs one step; returns what it printed."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, f"get3d {arguments[0]}: {done.stderr}"
    return done.stdout


@contextmanager
def served(repository: Path) -> Iterator[str]:
    """The gRPC endpoint of `get3d serve`, which stops in order at the end."""
    process = subprocess.Popen(
        command("serve", "--repository", repository, *FREE_PORTS), stdout=subprocess.PIPE, text=True
    )
    try:
        output = ""
        for line in process.stdout:
            output += line
            if line.startswith("READY"):
                break
        assert "READY" in output, output
        yield line.split()[2]
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
        process.stdout.close()
    assert code == 0


@pytest.mark.slow
def test_from_meshes_to_served_samples(tmp_path: Path) -> None:
    meshes, data, training = tmp_path / "meshes", tmp_path / "rendered", tmp_path / "training"
    repository, samples, metrics_dir = tmp_path / "repository", tmp_path / "samples", tmp_path / "evaluation"
    params = tmp_path / "params.yaml"
    config = config_to_dict(tiny_config(STEPS))
    config["meshes"]["path"] = str(meshes)
    config["render"]["resolution"] = config["model"]["image_resolution"] = RESOLUTION
    params.write_text(yaml.safe_dump(config))

    get3d("synth", meshes, "--count", SHAPES, "--seed", 0)
    get3d("render", meshes, data, "--views", VIEWS, "--resolution", RESOLUTION, "--supersample", 1)
    manifest = json.loads((data / "manifest.json").read_text())
    assert len(manifest["shapes"]) == SHAPES and not manifest["rejected"]
    assert sum(shard["samples"] for shard in manifest["shards"]) == SHAPES * VIEWS

    get3d("train", "--config", params, "--data", data, "--out", training)
    lines = [json.loads(line) for line in (training / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    reals = np.asarray(Image.open(training / "images" / "reals.png"))
    assert reals.shape == (4 * RESOLUTION, 8 * RESOLUTION, 3) and reals.std() > 10

    get3d(
        "evaluate", "--checkpoint", training, "--data", data, "--meshes", meshes,
        "--out", metrics_dir, "--config", params,
    )  # fmt: skip
    metrics = json.loads((metrics_dir / "metrics.json").read_text())
    assert metrics["references"] == len(manifest["splits"]["val"]) and metrics["kimg"] == lines[-1]["kimg"]

    get3d("export", "--checkpoint", training, "--repository", repository, "--config", params)
    with served(repository) as url:
        get3d("sample", "--url", url, "--seed", 5, "--count", SAMPLES, "--out", samples, "--timeout", 60)
    described = json.loads((samples / "samples.json").read_text())
    assert [sample["seed"] for sample in described] == [5, 6]
    assert {sample["checkpoint_sha256"] for sample in described} == {metrics["checkpoint_sha256"]}
    for sample in described:
        check_glb((samples / sample["file"]).read_bytes(), sample["faces"])

    page = tmp_path / "page"
    get3d(
        "report", "--config", params, "--data", data, "--meshes", meshes, "--training", training,
        "--metrics", metrics_dir / "metrics.json", "--samples", samples, "--out", page,
    )  # fmt: skip
    assert np.asarray(Image.open(page / "contact_sheet.png")).std() > 5
    html = (page / "report.html").read_text()
    assert metrics["checkpoint_sha256"][:8] in html
    loaded = re.findall(r"src=[\"']?([^\"' >]{1,40})", html)
    assert loaded and all(source.startswith("data:") for source in loaded), "the page loads other files"


def check_glb(content: bytes, faces: int) -> None:
    """It opens in trimesh, with a texture that is more than one colour."""
    scene = trimesh.load(io.BytesIO(content), file_type="glb")
    (mesh,) = scene.geometry.values()
    assert len(mesh.faces) == faces > 0
    assert np.isfinite(mesh.vertices).all() and np.abs(mesh.vertices).max() < 1
    texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"))
    assert texture.shape == (64, 64, 3) and texture.std() > 1
    assert mesh.visual.uv.min() >= 0 and mesh.visual.uv.max() <= 1
