"""Comparing samples with a version's reference sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from get3d_model.errors import InputError
from get3d_model.inference import Sampler
from get3d_model.mesh_io import mesh_bytes
from get3d_model.types import TexturedMesh
from serving.codec import SampleRequest
from serving.reference import (
    REFERENCE_MESH_FILE,
    ReferenceMismatch,
    compare,
    read_reference,
    write_reference,
)
from tests.serving.tiny import write_checkpoint

REQUEST = SampleRequest(0, 0.7, 64, "glb")


@pytest.fixture(scope="module")
def mesh(checkpoint: Path) -> TexturedMesh:
    return Sampler.load(checkpoint).generate([0], 0.7, 64)[0]


def test_it_comes_back_from_its_folder(mesh: TexturedMesh, tmp_path: Path) -> None:
    content = mesh_bytes(mesh, "glb")
    write_reference(tmp_path, REQUEST, content)
    reference = read_reference(tmp_path)
    assert (reference.request, reference.mesh) == (REQUEST, content)
    assert compare(reference.mesh, content).identical


def test_other_rounding_is_accepted(mesh: TexturedMesh) -> None:
    noise = np.random.default_rng(0).normal(0.0, 1e-4, mesh.vertices_V3.shape).astype(np.float32)
    brighter = np.clip(mesh.texture_HW3.astype(int) + 1, 0, 255).astype(np.uint8)
    order = np.random.default_rng(1).permutation(len(mesh.faces_F3))
    other = replace(
        mesh, vertices_V3=mesh.vertices_V3 + noise, texture_HW3=brighter, faces_F3=mesh.faces_F3[order]
    )
    result = compare(mesh_bytes(mesh, "glb"), mesh_bytes(other, "glb"))
    assert not result.identical
    assert 0.0 < result.distance < 1e-3 and 0.0 < result.colour_difference < 0.01


@pytest.mark.parametrize("seed", range(1, 5))
def test_other_seeds_and_models_are_refused(
    mesh: TexturedMesh, tmp_path: Path, seed: int, checkpoint: Path
) -> None:
    content = mesh_bytes(mesh, "glb")
    others = [
        Sampler.load(checkpoint).generate([seed], 0.7, 64)[0],
        Sampler.load(write_checkpoint(tmp_path, seed)).generate([0], 0.7, 64)[0],
    ]
    for other in others:
        with pytest.raises(ReferenceMismatch):
            compare(content, mesh_bytes(other, "glb"))


def test_what_is_wrong_is_said(mesh: TexturedMesh) -> None:
    content = mesh_bytes(mesh, "glb")
    nan = mesh.vertices_V3.copy()
    nan[0, 0] = np.nan
    cases = {
        "no GLB": b"nothing",
        "not a whole GLB": content[:-4],
        "triangles": mesh_bytes(replace(mesh, faces_F3=mesh.faces_F3[::2]), "glb"),
        "surface": mesh_bytes(replace(mesh, vertices_V3=mesh.vertices_V3 * 1.2), "glb"),
        "mean colour": mesh_bytes(replace(mesh, texture_HW3=255 - mesh.texture_HW3), "glb"),
        "not finite": mesh_bytes(replace(mesh, vertices_V3=nan), "glb"),
    }
    for words, sample in cases.items():
        with pytest.raises(ReferenceMismatch, match=words):
            compare(content, sample)


def test_a_missing_or_damaged_one_is_named(mesh: TexturedMesh, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"reference\.json: no reference sample here; export the model again"
    ):
        read_reference(tmp_path)
    write_reference(tmp_path, REQUEST, mesh_bytes(mesh, "glb"))
    (tmp_path / REFERENCE_MESH_FILE).write_bytes(b"glTF")
    with pytest.raises(InputError, match="not a reference sample"):
        read_reference(tmp_path)
    with pytest.raises(InputError, match="truncation_psi and texture_resolution given"):
        write_reference(tmp_path, SampleRequest(0), b"")
