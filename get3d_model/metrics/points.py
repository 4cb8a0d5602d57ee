"""Surface points of a mesh for the metrics: seeded, in one of three conventions of scale, of all or of the outer
surface only.

Generated and collected meshes differ in what they hide: a scanned car has an engine, a generated one is a shell.
Points spread over hidden faces too, so a distance between the two measures interiors that nobody sees. `outer`
keeps the points that some of 42 directions around the shape see.

Shape legend: V vertices, F faces, N points, K directions, H W image size
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from get3d_model.errors import InputError
from get3d_model.mesh_topology import sample_surface, sample_surface_faces
from get3d_model.types import Mesh, TexturedMesh

Normalization = Literal["box", "sphere", "none"]
Surface = Literal["all", "outer"]
NORMALIZATIONS: tuple[Normalization, ...] = ("box", "sphere", "none")
SURFACES: tuple[Surface, ...] = ("all", "outer")

# Of the pictures that decide what is hidden. A pixel is 1/128 of the bounding sphere's radius.
_RESOLUTION = 256
# A shape whose outer surface is less than a 500th of all is not looked at for ever.
_MAX_ROUNDS = 40


def normalized_mesh(mesh: Mesh | TexturedMesh, normalize: Normalization = "box") -> Mesh | TexturedMesh:
    """The mesh in the convention of a metric.

    box: bounding box centred at the origin, longest side 1 (GET3D's Chamfer distance). sphere: bounding box
    centred at the origin, farthest vertex at distance 1. none: as it is.
    Raises InputError for a mesh without vertices or without extent, and for another convention.
    """
    if normalize not in NORMALIZATIONS:
        raise InputError(f"normalize '{normalize}' is not known; choose one of {', '.join(NORMALIZATIONS)}")
    if not len(mesh.faces_F3):
        raise InputError("a mesh without area: it has no faces")
    if normalize == "none":
        return mesh
    vertices_V3 = mesh.vertices_V3.astype(np.float64)
    # Vertices that no face uses are not part of the shape.
    used_V = np.zeros(len(vertices_V3), bool)
    used_V[mesh.faces_F3.reshape(-1)] = True
    used_V3 = vertices_V3[used_V]
    low_3, high_3 = used_V3.min(axis=0), used_V3.max(axis=0)
    centre_3 = (low_3 + high_3) / 2
    size = (high_3 - low_3).max() if normalize == "box" else np.linalg.norm(used_V3 - centre_3, axis=1).max()
    if not size > 0.0:
        raise InputError("a mesh without area: all its vertices are at one point")
    return replace(mesh, vertices_V3=((vertices_V3 - centre_3) / size).astype(np.float32))


def surface_points(
    mesh: Mesh | TexturedMesh,
    count: int,
    seed: int,
    normalize: Normalization = "box",
    surface: Surface = "all",
) -> np.ndarray:
    """`count` points uniform by area over the surface, in the convention of `normalized_mesh`; (count, 3) float32.

    The same mesh, count, seed and options give the same points. Raises InputError for a mesh without area, and
    for an outer surface that is too small a part of the whole to be sampled.
    """
    if surface not in SURFACES:
        raise InputError(f"surface '{surface}' is not known; choose one of {', '.join(SURFACES)}")
    mesh = normalized_mesh(mesh, normalize)
    return sample_surface(mesh, count, seed) if surface == "all" else _outer_points(mesh, count, seed)


def _outer_points(mesh: Mesh | TexturedMesh, count: int, seed: int) -> np.ndarray:
    """Points are drawn from the whole surface until enough of them are seen from outside."""
    sight = _Sight(mesh)
    random = np.random.default_rng(seed)
    kept, found = [], 0
    for _ in range(_MAX_ROUNDS):
        points_N3, face_N = sample_surface_faces(mesh, 2 * count, random)
        visible_N3 = points_N3[sight.visible(points_N3, face_N)]
        kept.append(visible_N3)
        found += len(visible_N3)
        if found >= count:
            return np.concatenate(kept)[:count]
    raise InputError(
        f"only {found} of {2 * count * _MAX_ROUNDS} surface points can be seen from outside; "
        "sample the whole surface instead"
    )


class _Sight:
    """What can be seen of a mesh from directions all around it, by pictures of face numbers and depths."""

    def __init__(self, mesh: Mesh | TexturedMesh) -> None:
        from get3d_model.rendering.cpu import CpuRasterizer

        vertices_V3 = mesh.vertices_V3.astype(np.float64)
        used_V3 = vertices_V3[np.unique(mesh.faces_F3)]
        self._centre_3 = (used_V3.min(axis=0) + used_V3.max(axis=0)) / 2
        # A little room, so that the outline keeps a pixel of background around it.
        self._radius = 1.02 * float(np.linalg.norm(used_V3 - self._centre_3, axis=1).max())
        self._frames_K33 = _frames(_directions())
        frames, faces, vertices = len(self._frames_K33), len(mesh.faces_F3), len(vertices_V3)
        clip_KV4 = np.concatenate([self._clip(vertices_V3), np.ones((frames, vertices, 1))], axis=2)
        first_K = np.arange(frames)
        packed_faces = mesh.faces_F3[None] + (first_K * vertices)[:, None, None]
        rast_KHW4 = CpuRasterizer().rasterize(
            torch.from_numpy(clip_KV4.reshape(-1, 4).astype(np.float32)),
            torch.from_numpy(packed_faces.reshape(-1, 3).astype(np.int32)),
            torch.from_numpy(np.stack([first_K * faces, np.full(frames, faces)], axis=1).astype(np.int32)),
            (_RESOLUTION, _RESOLUTION),
        )
        rast_KHW4 = rast_KHW4.numpy()
        covered_KHW = rast_KHW4[..., 3] > 0
        self._face_KHW = np.where(
            covered_KHW, rast_KHW4[..., 3].astype(np.int64) - 1 - (first_K * faces)[:, None, None], -1
        )
        self._depth_KHW = np.where(covered_KHW, rast_KHW4[..., 2], np.inf)

    def visible(self, points_N3: np.ndarray, face_N: np.ndarray) -> np.ndarray:
        """Whether some direction sees the point, N bool: its face is at its pixel or beside it, or nothing lies
        more than a quarter of a pixel in front of it (faces smaller than a pixel are in no picture)."""
        clip_KN3 = self._clip(points_N3.astype(np.float64))
        pixel_KN2 = np.clip(
            ((clip_KN3[..., :2] + 1) * (_RESOLUTION / 2)).astype(np.int64), 1, _RESOLUTION - 2
        )
        column_KN, row_KN = pixel_KN2[..., 0], pixel_KN2[..., 1]
        direction_K1 = np.arange(len(clip_KN3))[:, None]
        nearest_KN = self._depth_KHW[direction_K1, row_KN, column_KN]
        seen_KN = clip_KN3[..., 2] <= nearest_KN + 0.5 / _RESOLUTION
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                seen_KN |= self._face_KHW[direction_K1, row_KN + down, column_KN + right] == face_N
        return seen_KN.any(axis=0)

    def _clip(self, points_N3: np.ndarray) -> np.ndarray:
        """Orthographic clip positions from every direction, KN3; what is nearer has the smaller third number."""
        return np.einsum("kij,nj->kni", self._frames_K33, (points_N3 - self._centre_3) / self._radius)


def _directions() -> np.ndarray:
    """The vertices of an icosahedron and the middles of its edges, 42 directions, K3 of unit length."""
    golden = (1 + 5**0.5) / 2
    corners = [np.roll([0.0, a, b * golden], shift) for a in (-1, 1) for b in (-1, 1) for shift in range(3)]
    corners_C3 = np.array(corners)
    middles = [
        (p + q) / 2
        for i, p in enumerate(corners_C3)
        for q in corners_C3[i + 1 :]
        if np.linalg.norm(p - q) < 2.1
    ]
    all_K3 = np.concatenate([corners_C3, middles])
    return all_K3 / np.linalg.norm(all_K3, axis=1, keepdims=True)


def _frames(directions_K3: np.ndarray) -> np.ndarray:
    """Rotations whose third row points away from a viewer in that direction; K33."""
    helper_K3 = np.eye(3)[np.argmin(np.abs(directions_K3), axis=1)]
    right_K3 = np.cross(helper_K3, directions_K3)
    right_K3 /= np.linalg.norm(right_K3, axis=1, keepdims=True)
    return np.stack([right_K3, np.cross(directions_K3, right_K3), -directions_K3], axis=1)
