"""Shading normals from geometry: smooth across soft edges, flat across creases.

Shape legend: V vertices, F faces, P distinct positions, K = 3 F corners
"""

from __future__ import annotations

import math

import numpy as np

from get3d_model.jit import kernel

# Positions closer than this fraction of the mesh's size are one point (files store float32 at best).
MERGE_FRACTION = 1e-6
CREASE_ANGLE_RAD = math.radians(40.0)


def merge_positions(vertices_V3: np.ndarray) -> np.ndarray:
    """For every vertex the number of its position, V int64; vertices split along a seam share theirs."""
    if not len(vertices_V3):
        return np.zeros(0, np.int64)
    low_3 = vertices_V3.min(0).astype(np.float64)
    step = max(float((vertices_V3.max(0) - low_3).max()), 1e-30) * MERGE_FRACTION
    # 21 bits for each axis: 1e6 steps fit.
    grid_V3 = np.rint((vertices_V3 - low_3) / step).astype(np.int64)
    key_V = (grid_V3[:, 0] << 42) | (grid_V3[:, 1] << 21) | grid_V3[:, 2]
    return np.unique(key_V, return_inverse=True)[1].reshape(-1)


def face_normals(vertices_V3: np.ndarray, faces_F3: np.ndarray) -> np.ndarray:
    """Unit normals by winding, F3 float64; zero for faces without area."""
    a_F3, b_F3, c_F3 = (vertices_V3[faces_F3[:, k]].astype(np.float64) for k in range(3))
    normal_F3 = np.cross(b_F3 - a_F3, c_F3 - a_F3)
    length_F1 = np.linalg.norm(normal_F3, axis=1, keepdims=True)
    return normal_F3 / np.where(length_F1 > 0, length_F1, 1.0)


def crease_normals(
    vertices_V3: np.ndarray, faces_F3: np.ndarray, crease_angle_rad: float = CREASE_ANGLE_RAD
) -> np.ndarray:
    """Unit normals of every corner, F33 float32.

    A corner averages the faces around its position that turn away from its own by less than the crease angle,
    weighted by their angle there (Thuermer and Wuethrich 1998). Faces wound the other way count with their
    normal turned around, because meshes in the wild are not wound consistently.
    """
    position_V = merge_positions(vertices_V3)
    corner_position_K = position_V[faces_F3.reshape(-1)]
    order_K = np.argsort(corner_position_K, kind="stable")
    positions = int(position_V.max()) + 1 if len(position_V) else 0
    starts_P = np.searchsorted(corner_position_K[order_K], np.arange(positions + 1))
    normals_F33 = np.zeros((len(faces_F3), 3, 3), np.float32)
    _crease_kernel(
        face_normals(vertices_V3, faces_F3),
        _corner_angles(vertices_V3, faces_F3),
        order_K,
        starts_P,
        math.cos(crease_angle_rad),
        normals_F33,
    )
    return normals_F33


def _corner_angles(vertices_V3: np.ndarray, faces_F3: np.ndarray) -> np.ndarray:
    corners_F33 = vertices_V3[faces_F3].astype(np.float64)
    to_next_F33 = np.roll(corners_F33, -1, axis=1) - corners_F33
    length_F3 = np.linalg.norm(to_next_F33, axis=2)
    unit_F33 = to_next_F33 / np.where(length_F3 > 0, length_F3, 1.0)[..., None]
    cosine_F3 = -(unit_F33 * np.roll(unit_F33, 1, axis=1)).sum(2)
    return np.arccos(np.clip(cosine_F3, -1.0, 1.0))


@kernel
def _crease_kernel(normals_F3, angles_F3, order_K, starts_P, min_cosine, out_F33):
    for position in range(len(starts_P) - 1):
        for k in range(starts_P[position], starts_P[position + 1]):
            face = order_K[k] // 3
            nx, ny, nz = normals_F3[face]
            sx = sy = sz = 0.0
            for other_k in range(starts_P[position], starts_P[position + 1]):
                other = order_K[other_k] // 3
                mx, my, mz = normals_F3[other]
                cosine = nx * mx + ny * my + nz * mz
                if abs(cosine) >= min_cosine:
                    weight = angles_F3[other, order_K[other_k] % 3]
                    if cosine < 0.0:
                        weight = -weight
                    sx += weight * mx
                    sy += weight * my
                    sz += weight * mz
            length = np.sqrt(sx * sx + sy * sy + sz * sz)
            corner = order_K[k] % 3
            if length > 0.0:
                out_F33[face, corner, 0] = sx / length
                out_F33[face, corner, 1] = sy / length
                out_F33[face, corner, 2] = sz / length
            else:
                out_F33[face, corner, 0] = nx
                out_F33[face, corner, 1] = ny
                out_F33[face, corner, 2] = nz
