"""Mesh quality of meshes that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh

from get3d_model.mesh_topology import MeshTopology, mesh_topology
from get3d_model.metrics.mesh_quality import mesh_quality
from get3d_model.types import Mesh


def topology(mesh: trimesh.Trimesh) -> MeshTopology:
    return mesh_topology(Mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32)))


def test_known_meshes() -> None:
    box = trimesh.creation.box()
    sphere = trimesh.creation.icosphere(subdivisions=1)
    apart = trimesh.util.concatenate([box, box.copy().apply_translation([5, 0, 0])])
    open_box = trimesh.Trimesh(box.vertices, box.faces[:-2], process=False)
    empty = MeshTopology(False, False, 0, 0, 0, 0, 0, 0)
    quality = mesh_quality([topology(m) for m in (box, sphere, apart, open_box)] + [empty])
    assert quality == {
        "empty_fraction": pytest.approx(1 / 5),
        "watertight_fraction": 3 / 4,
        "single_component_fraction": 3 / 4,
        "components_median": 1.0,
        "triangles_median": (12 + 24) / 2,
        "degenerate_faces_median": 0.0,
    }


def test_degenerate_faces() -> None:
    box = trimesh.creation.box()
    faces = np.concatenate([box.faces, [[0, 1, 1], [2, 2, 2]]])
    mesh = Mesh(box.vertices.astype(np.float32), faces.astype(np.int32))
    assert mesh_quality([mesh_topology(mesh)])["degenerate_faces_median"] == 2.0


def test_all_empty() -> None:
    quality = mesh_quality([MeshTopology(False, False, 0, 0, 0, 0, 0, 0)] * 3)
    assert quality["empty_fraction"] == 1.0 and quality["watertight_fraction"] == 0.0
    assert math.isnan(quality["triangles_median"])
