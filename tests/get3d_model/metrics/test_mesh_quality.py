"""Mesh quality of meshes that are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import trimesh

from get3d_model.mesh_topology import merge_vertices
from get3d_model.metrics.mesh_quality import (
    measure_quality,
    mesh_quality,
    quality_arrays,
    quality_distributions,
    self_intersection_share,
    texture_utilisation,
)
from get3d_model.types import Mesh, TexturedMesh
from tests.get3d_model.metrics.test_chamfer import mesh

EMPTY = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))


def moved(shape: trimesh.Trimesh, *offset: float) -> trimesh.Trimesh:
    shape = shape.copy()
    shape.apply_translation(offset)
    return shape


def test_known_meshes() -> None:
    box = trimesh.creation.box()
    sphere = trimesh.creation.icosphere(subdivisions=1)
    apart = trimesh.util.concatenate([box, moved(box, 5, 0, 0)])
    open_box = trimesh.Trimesh(box.vertices, box.faces[:-2], process=False)
    qualities = [measure_quality(mesh(m)) for m in (box, sphere, apart, open_box)] + [measure_quality(EMPTY)]
    quality = mesh_quality(qualities)
    expected = {
        "empty_fraction": pytest.approx(1 / 5),
        "watertight_fraction": 3 / 4,
        "manifold_fraction": 1.0,
        "winding_consistent_fraction": 1.0,
        "single_component_fraction": 3 / 4,
        "self_intersecting_fraction": 0.0,
        "components_median": 1.0,
        "components_p95": pytest.approx(1.85),
        "triangles_median": (12 + 24) / 2,
        "degenerate_faces_median": 0.0,
        "euler_characteristic_median": 2.0,
        "boundary_edges_p95": pytest.approx(3.4),
        "self_intersection_share_median": 0.0,
    }
    assert {name: quality[name] for name in expected} == expected
    assert math.isnan(quality["texture_utilisation_median"])
    arrays = quality_arrays(qualities)
    assert arrays["empty"].tolist() == [0, 0, 0, 0, 1]
    assert arrays["triangles"].tolist()[:4] == [12, 80, 24, 10] and math.isnan(arrays["triangles"][4])
    assert arrays["euler_characteristic"].tolist()[:4] == [2, 2, 4, 1]


def test_degenerate_faces() -> None:
    box = trimesh.creation.box()
    faces = np.concatenate([box.faces, [[0, 1, 1], [2, 2, 2]]])
    doubled = Mesh(box.vertices.astype(np.float32), faces.astype(np.int32))
    assert mesh_quality([measure_quality(doubled)])["degenerate_faces_median"] == 2.0


def test_all_empty() -> None:
    qualities = [measure_quality(EMPTY)] * 3
    quality = mesh_quality(qualities)
    assert quality["empty_fraction"] == 1.0
    assert math.isnan(quality["triangles_median"]) and math.isnan(quality["watertight_fraction"])
    assert quality_distributions(qualities) == {}
    assert not qualities[0].manifold


def test_edges_of_many_faces_and_vertices_of_many_fans() -> None:
    box = trimesh.creation.box()
    by_an_edge = measure_quality(mesh(trimesh.util.concatenate([box, moved(box, 1, 1, 0)])))
    assert (by_an_edge.nonmanifold_edges, by_an_edge.nonmanifold_vertices) == (1, 0)
    assert not by_an_edge.manifold and by_an_edge.topology.components == 1
    by_a_corner = measure_quality(mesh(trimesh.util.concatenate([box, moved(box, 1, 1, 1)])))
    assert (by_a_corner.nonmanifold_edges, by_a_corner.nonmanifold_vertices) == (0, 1)
    assert not by_a_corner.manifold and by_a_corner.topology.watertight
    torus = measure_quality(mesh(trimesh.creation.torus(1.0, 0.3)))
    assert torus.manifold and torus.topology.euler_characteristic == 0


def test_faces_through_each_other() -> None:
    box = trimesh.creation.box()
    crossing = merge_vertices(mesh(trimesh.util.concatenate([box, moved(box, 0.4, 0.3, 0.2)])))
    apart = merge_vertices(mesh(trimesh.util.concatenate([box, moved(box, 1.4, 0.3, 0.2)])))
    assert self_intersection_share(crossing) > 0.3 and self_intersection_share(apart) == 0.0
    sphere = trimesh.creation.icosphere(subdivisions=4)
    assert self_intersection_share(merge_vertices(mesh(sphere))) == 0.0
    # Two spheres that cross in a ring: what a sample says against all faces, and the seed decides alone.
    two = merge_vertices(mesh(trimesh.util.concatenate([sphere, moved(sphere, 0.71, 0.013, 0.007)])))
    whole = self_intersection_share(two, sampled_faces=10**6)
    collision = {i for i in range(len(two.faces_F3)) if _crosses_the_other(two, i)}
    assert whole == pytest.approx(len(collision) / len(two.faces_F3), abs=0.002)
    assert self_intersection_share(two, seed=1) == pytest.approx(whole, abs=0.03)
    assert self_intersection_share(two, seed=1) == self_intersection_share(two, seed=1)


def _crosses_the_other(two: Mesh, face: int) -> bool:
    """A face of one sphere meets the other where its corners lie on both sides of that one (roughly)."""
    corners = two.vertices_V3[two.faces_F3[face]].astype(float)
    centres = np.array([[0, 0, 0], [0.71, 0.013, 0.007]])
    radii = np.linalg.norm(corners[:, None] - centres, axis=2)
    own = np.abs(radii - 1).max(axis=0).argmin()
    other = radii[:, 1 - own]
    return other.min() < 1 < other.max()


def textured(uvs: np.ndarray) -> TexturedMesh:
    faces = np.arange(len(uvs), dtype=np.int32).reshape(-1, 3)
    vertices = np.random.default_rng(0).random((len(uvs), 3)).astype(np.float32)
    return TexturedMesh(vertices, faces, uvs.astype(np.float32), np.zeros((8, 8, 3), np.uint8))


def test_texture_utilisation() -> None:
    half = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    quarter = half * 0.5
    assert texture_utilisation(textured(half)) == pytest.approx(0.5, abs=0.003)
    assert texture_utilisation(textured(np.concatenate([quarter, quarter]))) == pytest.approx(
        0.125, abs=0.003
    )
    # Repeated from another tile.
    assert texture_utilisation(textured(quarter + np.array([3.0, -7.0]))) == pytest.approx(0.125, abs=0.003)
    assert math.isnan(texture_utilisation(textured(half * 0)))
    assert measure_quality(textured(half)).texture_utilisation == texture_utilisation(textured(half))
    assert math.isnan(texture_utilisation(textured(half * np.nan)))


def test_distributions() -> None:
    boxes = [trimesh.creation.box()] * 3 + [trimesh.creation.icosphere(subdivisions=2)]
    qualities = [measure_quality(mesh(m)) for m in boxes] + [measure_quality(EMPTY)]
    distributions = quality_distributions(qualities)
    json.dumps(distributions, allow_nan=False)
    triangles = distributions["triangles"]
    assert (
        triangles["quantiles"][0] == 12
        and triangles["quantiles"][-1] == 320
        and triangles["quantiles"][3] == 12
    )
    assert sum(triangles["counts"]) == 4 and len(triangles["edges"]) == len(triangles["counts"]) + 1
    assert distributions["components"]["edges"] == [0.5, 1.5] and distributions["components"]["counts"] == [4]
    assert "texture_utilisation" not in distributions
