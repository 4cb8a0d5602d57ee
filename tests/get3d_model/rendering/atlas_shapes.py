"""Meshes that are hard on a UV atlas, and what is measured on the result; no code of the atlas is used."""

from __future__ import annotations

import numpy as np
import torch
import trimesh

from get3d_model.isosurface.grid import bcc_grid
from get3d_model.isosurface.marching_tets import MarchingTetrahedra
from get3d_model.types import Mesh


def from_trimesh(mesh: trimesh.Trimesh) -> Mesh:
    return Mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32))


def sphere(subdivisions: int = 4) -> Mesh:
    return from_trimesh(trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.45))


def torus() -> Mesh:
    return from_trimesh(trimesh.creation.torus(0.35, 0.12, major_sections=96, minor_sections=40))


def isosurface(sdf_of, resolution: int) -> Mesh:
    """`sdf_of` maps N3 points to values, positive inside."""
    extractor = MarchingTetrahedra(bcc_grid(resolution, 1.0))
    points_N3 = extractor.grid.vertices_N3
    return extractor(sdf_of(points_N3)[None].float(), torch.zeros(1, len(points_N3), 3)).mesh(0)


def _box(points_N3: torch.Tensor, center: list[float], half: list[float], round_off: float) -> torch.Tensor:
    q = (points_N3 - torch.tensor(center)).abs() - torch.tensor(half) + round_off
    return round_off - q.clamp(min=0).norm(dim=1) - q.amax(dim=1).clamp(max=0)


def _wheel(points_N3: torch.Tensor, center: list[float]) -> torch.Tensor:
    d = points_N3 - torch.tensor(center)
    q = torch.stack([d[:, 1:].norm(dim=1) - 0.075, d[:, 0].abs() - 0.04], dim=1)
    return -q.clamp(min=0).norm(dim=1) - q.amax(dim=1).clamp(max=0)


def vehicle_sdf(points_N3: torch.Tensor) -> torch.Tensor:
    """A body, a cabin and four wheels."""
    parts = [_box(points_N3, [0, -0.03, 0], [0.18, 0.07, 0.4], 0.03)]
    parts.append(_box(points_N3, [0, 0.08, -0.05], [0.15, 0.08, 0.2], 0.05))
    parts += [_wheel(points_N3, [x, -0.11, z]) for x in (-0.17, 0.17) for z in (-0.25, 0.25)]
    return torch.stack(parts).amax(dim=0)


def vehicle(resolution: int = 48) -> Mesh:
    return isosurface(vehicle_sdf, resolution)


def crumbs(resolution: int = 24) -> Mesh:
    """Many pieces, holes and handles: waves in all directions, cut off by a cube."""
    random = torch.Generator().manual_seed(0)
    waves_123 = torch.randn(12, 3, generator=random) * 14
    phase_12, weight_12 = torch.rand(12, generator=random) * 6.28, torch.randn(12, generator=random)

    def sdf(points_N3: torch.Tensor) -> torch.Tensor:
        value = (torch.sin(points_N3 @ waves_123.T + phase_12) * weight_12).sum(dim=1) / 3 - 0.3
        return torch.minimum(value, 0.45 - points_N3.abs().amax(dim=1))

    return isosurface(sdf, resolution)


def spiral_ramp(turns: float = 2.5, steps: int = 60) -> Mesh:
    """One connected piece that faces up everywhere and lies above itself."""
    angle = np.linspace(0, 2 * np.pi * turns, steps)
    rings = [np.stack([r * np.sin(angle), 0.02 * angle, r * np.cos(angle)], axis=1) for r in (0.2, 0.3, 0.4)]
    faces = []
    for ring in range(2):
        for step in range(steps - 1):
            a, b = ring * steps + step, (ring + 1) * steps + step
            faces += [[a, b, b + 1], [a, b + 1, a + 1]]
    return Mesh(np.concatenate(rings).astype(np.float32), np.array(faces, np.int32))


def double_cone(steps: int = 14) -> Mesh:
    """Triangles that wind twice around one vertex: every face looks up, none overlaps its neighbours."""
    angle = np.arange(steps) * 4 * np.pi / steps
    rim = np.stack([np.sin(angle), 0.1 * np.cos(angle / 2), np.cos(angle)], axis=1)
    faces = [[0, 1 + step, 1 + (step + 1) % steps] for step in range(steps)]
    return Mesh(np.concatenate([np.zeros((1, 3)), rim]).astype(np.float32), np.array(faces, np.int32))


def uv_areas(uvs_W2: np.ndarray, faces_F3: np.ndarray) -> np.ndarray:
    """Signed areas of the faces in the atlas, as shares of it; float64."""
    a, b, c = uvs_W2.astype(np.float64)[faces_F3].swapaxes(0, 1)
    return 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])


def coverage(uvs_W2: np.ndarray, faces_F3: np.ndarray, size: int) -> np.ndarray:
    """How many faces cover each texel's centre (their open interiors, in float64), int HH."""
    count_HH = np.zeros((size, size), np.int16)
    corners_F32 = uvs_W2.astype(np.float64)[faces_F3] * size
    low_F2 = np.ceil(corners_F32.min(axis=1) - 0.5).astype(int).clip(0)
    high_F2 = np.floor(corners_F32.max(axis=1) - 0.5).astype(int).clip(max=size - 1)
    for (a, b, c), low, high in zip(corners_F32, low_F2, high_F2, strict=True):
        if (low > high).any():
            continue
        x, y = np.meshgrid(np.arange(low[0], high[0] + 1) + 0.5, np.arange(low[1], high[1] + 1) + 0.5)
        sides = [(q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for p, q in ((a, b), (b, c), (c, a))]
        inside = (np.stack(sides) > 0).all(axis=0) | (np.stack(sides) < 0).all(axis=0)
        count_HH[low[1] : high[1] + 1, low[0] : high[0] + 1] += inside
    return count_HH


def surface_samples(
    positions_W3: np.ndarray, uvs_W2: np.ndarray, faces_F3: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(points N3, their uvs N2): uniform by area, half of them on an edge, where the seams are."""
    random = np.random.default_rng(0)
    a, b, c = positions_W3.astype(np.float64)[faces_F3].swapaxes(0, 1)
    area_F = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    faces = faces_F3[random.choice(len(faces_F3), count, p=area_F / area_F.sum())]
    weight_N31 = random.dirichlet(np.ones(3), count)[:, :, None]
    weight_N31[::2, 0] = 0
    weight_N31 /= weight_N31.sum(axis=1, keepdims=True)
    return tuple(
        (values.astype(np.float64)[faces] * weight_N31).sum(axis=1) for values in (positions_W3, uvs_W2)
    )


def bilinear(texture_HW3: np.ndarray, uv_N2: np.ndarray) -> np.ndarray:
    """The lookup of a viewer: texel centres at half-integers, v up."""
    size = texture_HW3.shape[0]
    x, y = uv_N2[:, 0] * size - 0.5, (1 - uv_N2[:, 1]) * size - 0.5
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    result = 0.0
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        weight = np.abs(1 - dx - (x - x0)) * np.abs(1 - dy - (y - y0))
        texel = texture_HW3[np.clip(y0 + dy, 0, size - 1), np.clip(x0 + dx, 0, size - 1)].astype(float)
        result = result + weight[:, None] * texel
    return result
