"""The fast UV atlas: nothing lost, flipped or on top of something else, and little space wasted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from get3d_model.generator import build_generator
from get3d_model.mesh_topology import face_areas
from get3d_model.rendering.charts import MIN_COSINE
from get3d_model.rendering.grid_atlas import GridAtlas
from get3d_model.rendering.uv_atlas import UnwrappedMesh, UvAtlas, XatlasAtlas
from get3d_model.types import Mesh
from tests.get3d_model.rendering import atlas_shapes as shapes
from tests.serving.tiny import MODEL

ATLAS = GridAtlas()


def random_shape() -> Mesh:
    """What an untrained generator makes."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(4)
        generator = build_generator(MODEL).eval()
        ws_geo, ws_tex = generator.map(*torch.randn(2, 1, MODEL.z_dim))
        planes_geo, _ = generator.synthesis.planes(ws_geo, ws_tex)
        geometry = generator.synthesis.geometry(planes_geo, ws_geo)
        return generator.synthesis.extractor(geometry.sdf_BN, geometry.deform_BN3).mesh(0)


MESHES: dict[str, Callable[[], Mesh]] = {
    "sphere": shapes.sphere,
    "torus": shapes.torus,
    "vehicle": shapes.vehicle,
    "coarse vehicle": lambda: shapes.vehicle(24),
    "crumbs": shapes.crumbs,
    "random": random_shape,
    "spiral ramp": shapes.spiral_ramp,
    "double cone": shapes.double_cone,
}
# Few or ragged faces: no packing is asked of them.
SMALL = ("random", "spiral ramp", "double cone")


@pytest.fixture(scope="module", params=MESHES)
def unwrapped(request: pytest.FixtureRequest) -> tuple[str, Mesh, UnwrappedMesh]:
    mesh = MESHES[request.param]()
    return request.param, mesh, ATLAS.unwrap(mesh, 1024)


def test_the_surface_stays_what_it_was(unwrapped: tuple[str, Mesh, UnwrappedMesh]) -> None:
    _, mesh, result = unwrapped
    assert np.array_equal(result.mesh.vertices_V3[result.mesh.faces_F3], mesh.vertices_V3[mesh.faces_F3])
    assert set(np.unique(result.mesh.faces_F3)) == set(range(len(result.mesh.vertices_V3)))
    assert result.uvs_W2.shape == (len(result.mesh.vertices_V3), 2) and result.uvs_W2.dtype == np.float32


def test_nothing_overlaps(unwrapped: tuple[str, Mesh, UnwrappedMesh]) -> None:
    _, _, result = unwrapped
    count_HH = shapes.coverage(result.uvs_W2, result.mesh.faces_F3, 4096)
    assert count_HH.max() == 1
    # And nothing lies outside: the samples find all of the faces' area.
    area = shapes.uv_areas(result.uvs_W2, result.mesh.faces_F3).sum()
    assert count_HH.mean() == pytest.approx(area, rel=2e-3)


def test_no_face_is_flipped_and_none_stretched_without_bound(
    unwrapped: tuple[str, Mesh, UnwrappedMesh],
) -> None:
    _, mesh, result = unwrapped
    area_uv_F = shapes.uv_areas(result.uvs_W2, result.mesh.faces_F3)
    area_F = face_areas(mesh)
    corners_F33 = mesh.vertices_V3[mesh.faces_F3].astype(np.float64)
    longest_F = np.linalg.norm(corners_F33 - np.roll(corners_F33, 1, axis=1), axis=2).max(axis=1)
    # Thicker than a thousandth of a texel: thinner ones are lost in the rounding of float32 coordinates.
    texel = np.sqrt(area_F.sum() / area_uv_F.sum()) / 1024
    solid_F = area_F > 0.5e-3 * texel * longest_F
    assert solid_F.mean() > 0.95
    assert (area_uv_F[solid_F] > 0).all()
    scale = (area_uv_F[solid_F] / area_F[solid_F]).max()
    thick_F = area_F > 0.1 * texel * longest_F
    assert (area_uv_F[thick_F] > 0.95 * MIN_COSINE * scale * area_F[thick_F]).all()


def test_most_texels_are_covered(unwrapped: tuple[str, Mesh, UnwrappedMesh]) -> None:
    name, _, result = unwrapped
    used = (shapes.coverage(result.uvs_W2, result.mesh.faces_F3, 1024) > 0).mean()
    assert used > (0.3 if name in SMALL else 0.6)


def test_charts_keep_their_distance(unwrapped: tuple[str, Mesh, UnwrappedMesh]) -> None:
    """Texels of other charts are out of reach of a bilinear lookup, and so is the border of the texture."""
    _, _, result = unwrapped
    assert result.uvs_W2.min() * 1024 >= 1.0 and result.uvs_W2.max() * 1024 <= 1023.0
    chart_W = _chart_of_vertices(result)
    count = chart_W.max() + 1
    # Chart numbers at the texels within 1.5 of a chart's faces: no texel may be within reach of two.
    owner_HH = np.full((1024, 1024), -1)
    # The atlas itself takes the place of the surface, the number of the chart that of its uvs.
    numbered_W3 = np.pad(result.uvs_W2, ((0, 0), (0, 1)))
    points, charts = shapes.surface_samples(
        numbered_W3, np.stack([chart_W] * 2, axis=1), result.mesh.faces_F3, 200_000
    )
    uvs, chart_N = points[:, :2], charts[:, 0].round().astype(int)
    assert count > 1 and np.abs(charts[:, 0] - chart_N).max() < 1e-6
    x, y = (uvs * 1024 - 0.5).T
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = np.floor(x).astype(int) + dx, np.floor(y).astype(int) + dy
            free = owner_HH[row, column] < 0
            owner_HH[row[free], column[free]] = chart_N[free]
            assert (owner_HH[row, column] == chart_N).all()


def _chart_of_vertices(result: UnwrappedMesh) -> np.ndarray:
    import trimesh

    faces_F3 = result.mesh.faces_F3
    components = trimesh.graph.connected_component_labels(
        np.concatenate([faces_F3[:, :2], faces_F3[:, 1:]]), node_count=len(result.mesh.vertices_V3)
    )
    return components


def test_what_lies_above_itself_is_cut() -> None:
    for name in ("spiral ramp", "double cone"):
        assert _chart_of_vertices(ATLAS.unwrap(MESHES[name](), 256)).max() > 0


@pytest.mark.parametrize("resolution", [64, 256, 512, 2048])
def test_other_texture_sizes(resolution: int) -> None:
    result = ATLAS.unwrap(shapes.vehicle(24), resolution)
    assert shapes.coverage(result.uvs_W2, result.mesh.faces_F3, 2048).max() == 1
    assert result.uvs_W2.min() > 0 and result.uvs_W2.max() < 1


def test_more_charts_than_a_small_texture_has_room_for() -> None:
    """1000 separate triangles in 64 x 64 texels: the gutters go, the charts stay apart."""
    random = np.random.default_rng(0)
    corners = random.normal(size=(1000, 1, 3)) + 0.1 * random.normal(size=(1000, 3, 3))
    mesh = Mesh(corners.reshape(-1, 3).astype(np.float32), np.arange(3000, dtype=np.int32).reshape(-1, 3))
    result = ATLAS.unwrap(mesh, 64)
    assert shapes.coverage(result.uvs_W2, result.mesh.faces_F3, 4096).max() == 1
    assert (shapes.uv_areas(result.uvs_W2, result.mesh.faces_F3) > 0).mean() > 0.99


@pytest.mark.parametrize("name", ["vehicle", "spiral"])
def test_equal_meshes_give_equal_atlases_on_any_thread(name: str) -> None:
    mesh = shapes.vehicle(24) if name == "vehicle" else shapes.spiral_ramp()
    first = ATLAS.unwrap(mesh, 512)
    with ThreadPoolExecutor(4) as pool:
        for other in pool.map(lambda threads: ATLAS.unwrap(mesh, 512, threads), (1, 1, 2, 5)):
            assert np.array_equal(first.uvs_W2, other.uvs_W2)
            assert np.array_equal(first.mesh.faces_F3, other.mesh.faces_F3)


@pytest.mark.parametrize("atlas", [GridAtlas(), XatlasAtlas()], ids=["fast", "xatlas"])
def test_degenerate_input(atlas: UvAtlas) -> None:
    empty = atlas.unwrap(Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)), 64)
    assert len(empty.mesh.faces_F3) == len(empty.mesh.vertices_V3) == len(empty.uvs_W2) == 0


def test_faces_without_area_get_a_place_too() -> None:
    vertices_V3 = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.5, 0, 0], [0, 0, 1]], np.float32)
    faces_F3 = np.array([[0, 1, 2], [0, 3, 1], [4, 4, 4], [0, 1, 1]], np.int32)
    result = ATLAS.unwrap(Mesh(vertices_V3, faces_F3), 64)
    assert np.array_equal(result.mesh.vertices_V3[result.mesh.faces_F3], vertices_V3[faces_F3])
    assert np.isfinite(result.uvs_W2).all() and result.uvs_W2.min() > 0 and result.uvs_W2.max() < 1
    nothing = ATLAS.unwrap(Mesh(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.int32)), 64)
    assert np.isfinite(nothing.uvs_W2).all()


def test_impossible_meshes_are_refused() -> None:
    mesh = shapes.sphere(1)
    for vertex, faces_F3, expected in (
        (np.nan, mesh.faces_F3, "NaN"),
        (np.inf, mesh.faces_F3, "infinite"),
        (0.0, mesh.faces_F3 + 1, "outside of the 42"),
        (0.0, mesh.faces_F3 - 1, "outside of the 42"),
    ):
        vertices_V3 = mesh.vertices_V3.copy()
        vertices_V3[5] += np.float32(vertex)
        with pytest.raises(ValueError, match=expected):
            ATLAS.unwrap(Mesh(vertices_V3, faces_F3), 64)


def test_soups_of_triangles() -> None:
    """Random indices into few points: edges of many faces, faces on faces, both windings."""
    random = np.random.default_rng(3)
    for points, faces, scale in ((5, 40, 1.0), (30, 300, 1e-6), (200, 400, 1e6), (4, 3, 1.0)):
        vertices_V3 = (random.normal(size=(points, 3)) * scale).astype(np.float32)
        mesh = Mesh(vertices_V3, random.integers(0, points, (faces, 3)).astype(np.int32))
        result = ATLAS.unwrap(mesh, 128)
        assert np.array_equal(result.mesh.vertices_V3[result.mesh.faces_F3], vertices_V3[mesh.faces_F3])
        assert result.uvs_W2.min() >= 0 and result.uvs_W2.max() <= 1
        assert shapes.coverage(result.uvs_W2, result.mesh.faces_F3, 2048).max() == 1
