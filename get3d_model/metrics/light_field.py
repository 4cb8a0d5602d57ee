"""The cameras of the light field descriptor: ten dodecahedra of ten silhouettes each, and their 60 alignments.

A light field is the set of orthographic silhouettes from the 20 corners of a regular dodecahedron; the silhouette
from the opposite corner is its mirror image, which the features cannot tell from it, so ten are kept. The 60
rotations that carry the dodecahedron onto itself permute the ten axes: 60 ways to lay one light field over another.
Ten dodecahedra in different orientations make the comparison robust to rotations in between.

Source: Chen, Tian, Shen, Ouhyoung 2003, "On Visual Similarity Based 3D Model Retrieval", sections 3.1 and 3.2. The
paper's own ten orientations were not published with it; ours are spread as evenly as an optimisation found.

Shape legend: L light fields (10), A axes of a light field (10), K = L A views, G alignments (60)
"""

from __future__ import annotations

from functools import cache

import numpy as np

LIGHT_FIELDS = 10
AXES = 10
ALIGNMENTS = 60

# Unit quaternions (w, x, y, z). The first is the dodecahedron in its standard position; the others were moved
# (random steps, kept when better) until the smallest rotation that carries one of the ten dodecahedra onto another was
# largest: 28.53 degrees.
ORIENTATIONS_L4 = np.array(
    [
        [1.000000, 0.000000, 0.000000, 0.000000],
        [0.967546, 0.190082, 0.092570, 0.138398],
        [0.966500, -0.023647, 0.032144, 0.253544],
        [0.969173, 0.017048, 0.098804, -0.225057],
        [0.967377, 0.066355, -0.244224, -0.011555],
        [0.958779, 0.016927, -0.152400, -0.239228],
        [0.949469, 0.013470, -0.213638, 0.229536],
        [0.967170, -0.242446, -0.075928, 0.006030],
        [0.960800, -0.142692, 0.205359, 0.119708],
        [0.969138, 0.210496, -0.066686, -0.109618],
    ]
)

_GOLDEN = (1 + 5**0.5) / 2


@cache
def axes() -> np.ndarray:
    """One corner of every opposite pair of the standard dodecahedron, A3 of unit length."""
    corners = [(1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1)]
    for sign in (1, -1):
        rectangle = (0.0, 1 / _GOLDEN, sign * _GOLDEN)
        corners += [tuple(np.roll(rectangle, shift)) for shift in range(3)]
    return np.array(corners) / 3**0.5


@cache
def rotations() -> np.ndarray:
    """The 60 rotations of the dodecahedron, the identity first; G33."""
    # By 72 degrees around a face's middle, and by 120 degrees around a corner, generate all of them.
    face_3 = np.array([1.0, 0.0, _GOLDEN]) / np.hypot(1.0, _GOLDEN)
    generators = [_about(face_3, 2 * np.pi / 5), _about(np.ones(3) / 3**0.5, 2 * np.pi / 3)]
    found = [np.eye(3)]
    for rotation in found:  # grows while it is walked
        for generator in generators:
            candidate = generator @ rotation
            if not any(np.abs(candidate - known).max() < 1e-6 for known in found):
                found.append(candidate)
    return np.array(found)


@cache
def alignments() -> np.ndarray:
    """Entry (g, a): the axis that rotation g carries axis a to (or to whose opposite); GA int64."""
    turned_GA3 = np.einsum("gij,aj->gai", rotations(), axes())
    return np.abs(turned_GA3 @ axes().T).argmax(axis=2)


@cache
def view_frames() -> np.ndarray:
    """World to view for every view of every light field, light field by light field; K33.

    Rows: right, up, and towards the camera.
    """
    directions_K3 = np.einsum("lij,aj->lai", orientation_matrices(), axes()).reshape(-1, 3)
    helper_K3 = np.eye(3)[np.argmin(np.abs(directions_K3), axis=1)]
    right_K3 = np.cross(helper_K3, directions_K3)
    right_K3 /= np.linalg.norm(right_K3, axis=1, keepdims=True)
    return np.stack([right_K3, np.cross(directions_K3, right_K3), directions_K3], axis=1)


def orientation_matrices() -> np.ndarray:
    """L33: from the standard dodecahedron to each of the ten."""
    w, x, y, z = ORIENTATIONS_L4.T / np.linalg.norm(ORIENTATIONS_L4, axis=1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def _about(axis_3: np.ndarray, angle_rad: float) -> np.ndarray:
    """Rotation about a unit axis (Rodrigues' formula); 33."""
    x, y, z = axis_3
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle_rad) * cross + (1 - np.cos(angle_rad)) * cross @ cross
