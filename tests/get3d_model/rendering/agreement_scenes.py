"""The scenes on which our rasteriser is compared with nvdiffrast: procedural, the same on every machine.

Each stands for one way in which two rasterisers may differ: curved silhouettes, holes, surfaces that cross,
triangles thinner than a pixel, open and overlapping triangles, several meshes in range mode, triangles that
cross the near plane and the border of the image, and an isosurface as training draws it.

Shape legend: B images, V packed vertices, F packed faces, H W image size
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from get3d_model.isosurface.grid import bcc_grid
from get3d_model.isosurface.marching_tets import MarchingTetrahedra
from tests.get3d_model.rendering.reference import random_triangles

NEAR, FAR = 0.5, 5.0


@dataclass(frozen=True)
class Scene:
    """Input of `Rasterizer.rasterize`: float32 pos_V4, int32 faces_F3 and ranges_B2, (height, width)."""

    name: str
    pos_V4: np.ndarray
    faces_F3: np.ndarray
    ranges_B2: np.ndarray
    resolution: tuple[int, int]


def pattern(shape: tuple[int, ...], salt: int) -> np.ndarray:
    """Values in (0, 1) without order, float32, from integers alone: every machine gives the same bits."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(salt) * np.uint64(1_000_003)
    # Fibonacci hashing (Knuth, TAOCP 3, section 6.4), the middle bits.
    hashed = (index * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(41)
    mixed = (hashed * np.uint64(2_654_435_761)) % np.uint64(65_521)
    return ((mixed.astype(np.float64) + 0.5) / 65_521).astype(np.float32).reshape(shape)


def to_clip(points_V3: np.ndarray, yaw: float, pitch: float, distance: float) -> np.ndarray:
    """Perspective of a camera at `distance` from the origin; focal length 1.6 half image heights."""
    cos_y, sin_y, cos_p, sin_p = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    turn = np.array([[cos_y, 0, -sin_y], [0, 1, 0], [sin_y, 0, cos_y]])
    nod = np.array([[1, 0, 0], [0, cos_p, sin_p], [0, -sin_p, cos_p]])
    x, y, depth = ((points_V3 @ turn.T) @ nod.T).T
    depth = depth + distance
    z = (FAR + NEAR) / (FAR - NEAR) * depth - 2 * FAR * NEAR / (FAR - NEAR)
    return np.stack([1.6 * x, -1.6 * y, z, depth], axis=1).astype(np.float32)


def ring_surface(
    surface: Callable[[np.ndarray, np.ndarray], np.ndarray], rows: int, columns: int, closed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Triangles over a (rows, columns) grid of parameters in [0, 1); columns wrap, rows wrap when closed."""
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    points = surface(row / (rows if closed else rows - 1), column / columns).reshape(-1, 3)
    r, c = np.meshgrid(np.arange(rows if closed else rows - 1), np.arange(columns), indexing="ij")
    r1, c1 = (r + 1) % rows, (c + 1) % columns
    a, b, d, e = (i * columns + j for i, j in ((r, c), (r, c1), (r1, c), (r1, c1)))
    faces = np.stack([np.stack([a, b, e], -1), np.stack([a, e, d], -1)], axis=2).reshape(-1, 3)
    return points, faces


def sphere(rows: int = 12, columns: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Open by a small hole at each pole, so that no two vertices share a place."""

    def surface(s: np.ndarray, t: np.ndarray) -> np.ndarray:
        polar, around = np.pi * (0.04 + 0.92 * s), 2 * np.pi * t
        return np.stack(
            [np.sin(polar) * np.cos(around), np.cos(polar), np.sin(polar) * np.sin(around)], axis=-1
        )

    points, faces = ring_surface(surface, rows, columns, closed=False)
    return 0.75 * points, faces


def torus(rows: int = 20, columns: int = 10) -> tuple[np.ndarray, np.ndarray]:
    def surface(s: np.ndarray, t: np.ndarray) -> np.ndarray:
        around, tube = 2 * np.pi * s, 2 * np.pi * t
        radius = 0.62 + 0.26 * np.cos(tube)
        return np.stack([radius * np.cos(around), 0.26 * np.sin(tube), radius * np.sin(around)], axis=-1)

    return ring_surface(surface, rows, columns, closed=True)


def box(size: tuple[float, float, float], turn: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * size
    rotation = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return corners @ rotation.T, np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])


def vehicle() -> tuple[np.ndarray, np.ndarray]:
    """Body, cabin and four wheels as one isosurface of marching tetrahedra."""
    grid = bcc_grid(20, 2.0)
    p = grid.vertices_N3.double()

    def block(center: tuple[float, float, float], half: tuple[float, float, float]) -> torch.Tensor:
        return ((p - p.new_tensor(center)).abs() - p.new_tensor(half)).amax(dim=1)

    parts = [block((0, -0.05, 0), (0.83, 0.19, 0.37)), block((-0.1, 0.27, 0), (0.43, 0.21, 0.32))]
    for x in (-0.51, 0.53):
        for z in (-0.34, 0.34):
            disc = torch.hypot(p[:, 0] - x, p[:, 1] + 0.24) - 0.21
            parts.append(torch.maximum(disc, (p[:, 2] - z).abs() - 0.13))
    sdf = -torch.stack(parts).amin(dim=0)
    mesh = MarchingTetrahedra(grid)(sdf[None].float(), torch.zeros(1, len(p), 3)).mesh(0)
    return mesh.vertices_V3.astype(np.float64), mesh.faces_F3


def pack(name: str, meshes: list[tuple[np.ndarray, np.ndarray]], resolution: tuple[int, int]) -> Scene:
    """Clip-space meshes, one after the other, each in an image of its own."""
    faces, ranges, vertices = [], [], 0
    for pos, mesh_faces in meshes:
        ranges.append((sum(map(len, faces)), len(mesh_faces)))
        faces.append(mesh_faces + vertices)
        vertices += len(pos)
    pos_V4 = np.concatenate([pos for pos, _ in meshes]).astype(np.float32)
    faces_F3 = np.concatenate(faces).astype(np.int32)
    return Scene(name, pos_V4, faces_F3, np.array(ranges, np.int32), resolution)


def slivers() -> tuple[np.ndarray, np.ndarray]:
    """Separate triangles 20 to 50 pixels long and 0.2 to 1.5 pixels wide at the base, in all directions."""
    rng = np.random.default_rng(11)
    count = 24
    start_F2 = rng.uniform(-0.9, 0.9, (count, 2))
    angle_F = rng.uniform(0, 2 * np.pi, count)
    along_F2 = np.stack([np.cos(angle_F), np.sin(angle_F)], axis=1)
    across_F2 = np.stack([-along_F2[:, 1], along_F2[:, 0]], axis=1)
    tip_F2 = start_F2 + along_F2 * rng.uniform(0.6, 1.5, (count, 1))
    side_F2 = start_F2 + across_F2 * np.linspace(0.2, 1.5, count)[:, None] / 32
    ndc_F32 = np.stack([start_F2, tip_F2, side_F2], axis=1)
    w_F31 = rng.uniform(0.8, 1.6, (count, 3, 1))
    z_F31 = (np.arange(count)[:, None, None] / count - 0.5) * np.ones((1, 3, 1))
    pos = np.concatenate([ndc_F32 * w_F31, z_F31 * w_F31, w_F31], axis=2).reshape(-1, 4)
    return pos, np.arange(3 * count).reshape(-1, 3)


def through_the_camera() -> tuple[np.ndarray, np.ndarray]:
    """A floor from behind the camera to the far side, and triangles around the camera itself."""
    rng = np.random.default_rng(5)
    floor = np.array([[-6.0, -0.7, -2.0], [5.0, -0.7, -2.5], [4.0, -0.9, 3.5], [-4.0, -0.8, 3.0]])
    loose = rng.uniform(-1, 1, (10, 3, 3)) * (2.0, 1.2, 1.3) + (0.0, 0.45, 0.9)
    points = np.concatenate([floor, loose.reshape(-1, 3)])
    faces = np.concatenate([[[0, 1, 2], [0, 2, 3]], 4 + np.arange(30).reshape(-1, 3)])
    return to_clip(points, 0.0, 0.03, 0.0), faces


def scenes() -> list[Scene]:
    def seen(mesh: tuple[np.ndarray, np.ndarray], yaw: float, pitch: float, distance: float):
        return to_clip(mesh[0], yaw, pitch, distance), mesh[1]

    first, second = box((0.62, 0.45, 0.5)), box((0.85, 0.23, 0.3), 0.6)
    boxes = (
        np.concatenate([first[0], second[0] + (0.07, 0.11, -0.05)]),
        np.concatenate([first[1], second[1] + 8]),
    )
    return [
        pack("sphere", [seen(sphere(), 0.37, 0.41, 2.1)], (64, 64)),
        pack("torus", [seen(torus(), 0.53, 0.71, 2.0)], (48, 72)),
        pack("boxes", [seen(boxes, 0.83, 0.47, 2.4)], (64, 56)),
        pack("slivers", [slivers()], (64, 64)),
        pack("soup", [random_triangles(np.random.default_rng(3), 30)], (45, 61)),
        pack(
            "batch",
            [
                seen(torus(12, 7), -0.6, 1.03, 2.2),
                seen(box((0.5, 0.6, 0.4)), 0.57, -0.39, 2.1),
                seen(sphere(7, 9), 1.13, 0.29, 2.6),
            ],
            (40, 40),
        ),
        pack("near", [through_the_camera()], (48, 64)),
        pack("vehicle", [seen(vehicle(), 0.91, 0.37, 2.3)], (64, 96)),
    ]
