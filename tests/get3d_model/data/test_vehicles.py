"""Procedural vehicles: the promised frame, size and determinism, and shapes that are worth learning from."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from get3d_model.data.vehicles import make_vehicle, vehicle_kinds
from get3d_model.gltf import glb_bytes
from get3d_model.mesh_io import load_textured_mesh, mesh_topology, save_scene
from get3d_model.types import Mesh

KINDS = vehicle_kinds()
MATERIALS = {"paint", "glass", "tyre_wheels", "rim_wheels", "lamps", "trim", "plate"}


@pytest.fixture(scope="module")
def vehicles(tmp_path_factory):
    """One of every kind: kind -> (parts, the merged mesh as loaded from its file)."""
    folder = tmp_path_factory.mktemp("vehicles")
    made = {}
    for index, kind in enumerate(KINDS):
        parts = make_vehicle(index, seed=3)
        save_scene(parts, folder / f"{kind}.glb")
        made[kind] = (parts, load_textured_mesh(folder / f"{kind}.glb"))
    return made


def placed(part) -> list[np.ndarray]:
    return [part.mesh.vertices_V3 @ t[:3, :3].T + t[:3, 3] for t in part.transforms]


def named(parts, name):
    return next(part for part in parts if part.name == name)


def test_kinds_are_many_and_distinct():
    assert len(set(KINDS)) == len(KINDS) >= 9


@pytest.mark.parametrize("kind", KINDS)
def test_size_and_triangles(vehicles, kind):
    _, mesh = vehicles[kind]
    low, high = mesh.vertices_V3.min(axis=0), mesh.vertices_V3.max(axis=0)
    np.testing.assert_allclose(low + high, 0.0, atol=1e-5)
    assert high[2] - low[2] == pytest.approx(1.0, abs=1e-5)  # the length is the longest side
    assert 1500 <= len(mesh.faces_F3) <= 8000


@pytest.mark.parametrize("kind", KINDS)
def test_stands_on_four_wheels_and_looks_along_z(vehicles, kind):
    parts, mesh = vehicles[kind]
    wheels = placed(named(parts, "tyre_wheels"))
    assert len(wheels) == 4
    ground = mesh.vertices_V3[:, 1].min()
    for wheel in wheels:
        assert wheel[:, 1].min() == pytest.approx(ground, abs=0.01)
    centres = np.array([wheel.mean(axis=0) for wheel in wheels])
    assert (np.sign(centres[:, [0, 2]]).astype(int).tolist()) == [[1, -1], [-1, -1], [1, 1], [-1, 1]]
    # Head lamps (the first sixth of the lamp texture) are in front of the tail lamps (the second sixth).
    lamps = named(parts, "lamps")
    points, u = placed(lamps)[0], lamps.mesh.uvs_V2[:, 0]
    assert points[u < 1 / 6, 2].min() > 0.3 and points[(u > 1 / 6) & (u < 2 / 6), 2].max() < -0.3


@pytest.mark.parametrize("kind", KINDS)
def test_left_and_right_are_alike(vehicles, kind):
    """The body is symmetric; asymmetric are only loads, exhausts and steering wheels."""
    body = placed(named(vehicles[kind][0], "paint"))[0].astype(np.float64)
    whole = np.concatenate([piece for part in vehicles[kind][0] for piece in placed(part)])
    distance, _ = cKDTree(whole).query(body * [-1, 1, 1])
    assert distance.max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_is_closed_and_faces_outwards(vehicles, kind):
    """Together the pieces are closed solids: no edge is open, and the volume is positive."""
    _, mesh = vehicles[kind]
    facts = mesh_topology(mesh)
    assert facts.boundary_edges == 0 and facts.winding_consistent
    assert facts.components > 12
    a, b, c = mesh.vertices_V3[mesh.faces_F3].astype(np.float64).swapaxes(0, 1)
    volume = np.einsum("fd,fd->", a, np.cross(b, c)) / 6.0
    box = np.prod(np.ptp(mesh.vertices_V3, axis=0))
    assert 0.2 * box < volume < 1.6 * box  # solids overlap, so more than the box is possible


@pytest.mark.parametrize("kind", KINDS)
def test_materials_and_texture_coordinates(vehicles, kind):
    parts, _ = vehicles[kind]
    names = {part.name for part in parts}
    expected = MATERIALS - {"glass"} if kind == "roadster" else MATERIALS
    assert expected <= names
    for part in parts:
        assert part.mesh.uvs_V2.min() >= 0.0 and part.mesh.uvs_V2.max() <= 1.0
        assert mesh_topology(Mesh(part.mesh.vertices_V3, part.mesh.faces_F3)).degenerate_faces == 0
    # Painted, not flat: the picture of the body has panel gaps, windows or liveries in it.
    assert len(np.unique(named(parts, "paint").mesh.texture_HW3.reshape(-1, 3), axis=0)) > 200


def test_open_cargo_bed_is_a_hollow(vehicles):
    """Straight down on the middle of the bed, the first thing met lies far below the side walls."""
    _, mesh = vehicles["pickup"]
    bed = mesh.vertices_V3[(np.abs(mesh.vertices_V3[:, 2] + 0.33) < 0.08)]
    rail = bed[np.abs(bed[:, 0]) > 0.15, 1].max()
    corners = mesh.vertices_V3[mesh.faces_F3].astype(np.float64)
    a, b, c = corners[..., [0, 2]].swapaxes(0, 1)

    def top_at(x: float, z: float) -> float:
        def cross(p, q):
            return p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]

        point = np.array([x, z])
        area = cross(b - a, c - a)
        area = np.where(np.abs(area) < 1e-12, np.nan, area)
        v, w = cross(point - a, c - a) / area, cross(b - a, point - a) / area
        inside = (v >= 0) & (w >= 0) & (v + w <= 1)
        height = corners[:, 0, 1] * (1 - v - w) + corners[:, 1, 1] * v + corners[:, 2, 1] * w
        return float(height[inside].max())

    heights = [top_at(x, z) for x in (-0.1, -0.04, 0.03, 0.1) for z in (-0.40, -0.33, -0.26)]
    assert min(heights) < rail - 0.04


def test_the_same_seed_and_index_give_the_same_vehicle():
    for index in (0, 5):
        first, second = make_vehicle(index, 7), make_vehicle(index, 7)
        assert glb_bytes(first, {}) == glb_bytes(second, {})
    assert glb_bytes(make_vehicle(0, 7), {}) != glb_bytes(make_vehicle(0, 8), {})


def test_vehicles_of_a_kind_differ():
    """Different outlines and different colours."""
    step, sizes, colours = len(KINDS), [], []
    for index in range(0, 6 * step, step):
        parts = make_vehicle(index, 0)
        body = named(parts, "paint")
        sizes.append(np.ptp(placed(body)[0], axis=0))
        colours.append(body.mesh.texture_HW3.reshape(-1, 3).mean(axis=0))
    assert np.ptp(np.array(sizes)[:, :2], axis=0).max() > 0.01
    assert np.linalg.norm(np.ptp(np.array(colours), axis=0)) > 60


def test_wheel_arches_are_cut_into_the_body(vehicles):
    """No paint where the tyre is: at the front axle the lower edge of the body is above the hub."""
    for kind in ("saloon", "van", "bus", "suv"):
        parts, _ = vehicles[kind]
        wheel = placed(named(parts, "tyre_wheels"))[2]
        hub = wheel.mean(axis=0)
        body = np.concatenate([placed(named(parts, name))[0] for name in ("paint", "glass")])
        radius = 0.5 * np.ptp(wheel[:, 1])
        near = body[np.abs(body[:, 2] - hub[2]) < 0.6 * radius]
        assert near[:, 1].min() > hub[1] + 0.5 * radius
        elsewhere = body[np.abs(body[:, 2]) < 0.2]
        assert elsewhere[:, 1].min() < hub[1]
