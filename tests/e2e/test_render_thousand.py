"""A thousand meshes, fifty of them damaged in ten ways, through the real command; killed in the middle and continued.

Prints how long it took, with the load of the machine: `pytest -m e2e -s tests/e2e/test_render_thousand.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from get3d_model.mesh_io import save_mesh
from tests.components.test_render_robust import _damage
from tests.get3d_model.rendering.test_batch_renderer import soft_texture, torus

REPOSITORY = Path(__file__).resolve().parents[2]
COUNT, DIFFERENT, DAMAGED_OF_A_KIND = 1000, 20, 5
KINDS = (
    "truncated.glb",
    "nan.obj",
    "no-faces.obj",
    "huge.obj",
    "picture.glb",
    "buffer.gltf",
    "empty.glb",
    "index.glb",
)
OPTIONS = [
    "--views",
    "4",
    "--resolution",
    "64",
    "--supersample",
    "2",
    "--device",
    "cpu",
    "--max-triangles",
    "3000",
]


def _bomb(path: Path) -> None:
    """An OBJ whose picture claims 60 000 x 60 000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path.with_suffix(".png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    path.with_suffix(".mtl").write_text(f"newmtl a\nmap_Kd {path.stem}.png\n")
    path.write_text(
        f"mtllib {path.stem}.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl a\nf 1/1 2/2 3/3\n"
    )


def _meshes(folder: Path) -> int:
    """Returns how many are damaged."""
    for number in range(DIFFERENT):
        size = 0.5 + 0.5 * np.random.default_rng(number).random()
        save_mesh(torus(40, 25, soft_texture(64, 64, number), size), folder / f"good{number:03d}.glb")
    scratch = folder.parent / "scratch"
    scratch.mkdir()
    shutil.copy(folder / "good000.glb", scratch)
    _damage(scratch)
    damaged = 0
    for number in range(DAMAGED_OF_A_KIND):
        for kind in KINDS:
            shutil.copy(scratch / kind, folder / f"bad-{number}-{kind}")
        _bomb(folder / f"bad-{number}-bomb.obj")
        os.mkfifo(folder / f"bad-{number}-pipe.glb")  # whoever opens it waits for ever
        damaged += len(KINDS) + 2
    for number in range(DIFFERENT, COUNT - damaged):
        shutil.copy(folder / f"good{number % DIFFERENT:03d}.glb", folder / f"good{number:03d}.glb")
    return damaged


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.e2e
def test_a_thousand_meshes(tmp_path: Path) -> None:
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    damaged = _meshes(meshes)
    assert damaged == 50
    command = [sys.executable, "-m", "components.render.main", str(meshes)]
    begin = time.monotonic()
    done = subprocess.run(
        [*command, str(tmp_path / "whole"), *OPTIONS], cwd=REPOSITORY, capture_output=True, text=True
    )
    seconds = time.monotonic() - begin
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-2000:]
    print(
        f"{COUNT} meshes, {damaged} damaged, 4 views of 64 px, {len(os.sched_getaffinity(0))} cores: {seconds:.0f} s"
        f" at a load of {os.getloadavg()[0]:.1f}"
    )
    manifest = json.loads((tmp_path / "whole/manifest.json").read_text())
    rejected = json.loads((tmp_path / "whole/rejected.json").read_text())
    assert len(manifest["shapes"]) == COUNT - damaged and len(rejected) == damaged
    for entry in rejected.values():
        assert entry["file"].startswith("bad-") and entry["reason"].strip() and "\n" not in entry["reason"]
    killed = subprocess.Popen(
        [*command, str(tmp_path / "killed"), *OPTIONS], cwd=REPOSITORY, stderr=subprocess.DEVNULL
    )
    while sum(1 for _ in (tmp_path / "killed").glob(".partial/pieces/*.piece")) < COUNT // 3:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    subprocess.run(
        [*command, str(tmp_path / "killed"), *OPTIONS], cwd=REPOSITORY, check=True, capture_output=True
    )
    assert _files(tmp_path / "killed") == _files(tmp_path / "whole")
