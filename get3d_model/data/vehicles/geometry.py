"""Small surface builders: lofts, lathes, sweeps, bevelled boxes, and rays against what was built.

Everything is in metres, y up, the front of a vehicle along +z, its right side (seen from above, +x) positive.
Faces are counter-clockwise seen from outside.

Shape legend: V vertices, F faces, R rings of a loft, K points of a ring, P points of a path
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Surface:
    """vertices_V3 float64 metres; faces_F3 int."""

    vertices_V3: np.ndarray
    faces_F3: np.ndarray

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Surface:
        return Surface(self.vertices_V3 + np.array([x, y, z]), self.faces_F3)

    def mirrored(self) -> Surface:
        """The copy on the other side of the plane x = 0."""
        return Surface(self.vertices_V3 * np.array([-1.0, 1.0, 1.0]), self.faces_F3[:, ::-1])

    def turned(self, axis: int, angle_rad: float) -> Surface:
        """Rotated about a coordinate axis (0 x, 1 y, 2 z), right-handed."""
        a, b = (axis + 1) % 3, (axis + 2) % 3
        cos, sin = np.cos(angle_rad), np.sin(angle_rad)
        vertices_V3 = self.vertices_V3.copy()
        vertices_V3[:, a] = cos * self.vertices_V3[:, a] - sin * self.vertices_V3[:, b]
        vertices_V3[:, b] = sin * self.vertices_V3[:, a] + cos * self.vertices_V3[:, b]
        return Surface(vertices_V3, self.faces_F3)


def joined(surfaces: list[Surface]) -> Surface:
    starts = np.cumsum([0] + [len(surface.vertices_V3) for surface in surfaces])
    return Surface(
        np.concatenate([surface.vertices_V3 for surface in surfaces]),
        np.concatenate([s.faces_F3 + start for s, start in zip(surfaces, starts[:-1], strict=True)]),
    )


def both_sides(surface: Surface) -> Surface:
    return joined([surface, surface.mirrored()])


def face_normals(surface: Surface) -> np.ndarray:
    """Unit normals F3; zero for faces without area."""
    a_F3, b_F3, c_F3 = surface.vertices_V3[surface.faces_F3].swapaxes(0, 1)
    normals_F3 = np.cross(b_F3 - a_F3, c_F3 - a_F3)
    return normals_F3 / np.maximum(np.linalg.norm(normals_F3, axis=1, keepdims=True), 1e-12)


def _outward(surface: Surface) -> Surface:
    """Turns a closed surface right side out: its signed volume must be positive."""
    a_F3, b_F3, c_F3 = surface.vertices_V3[surface.faces_F3].swapaxes(0, 1)
    inside_out = np.einsum("fd,fd->", a_F3, np.cross(b_F3, c_F3)) < 0
    return Surface(surface.vertices_V3, surface.faces_F3[:, ::-1]) if inside_out else surface


def loft_faces(rings: int, points: int, closed: bool) -> np.ndarray:
    """Two triangles per cell of a grid of rings; ((rings - 1) * cells * 2, 3), ring by ring."""
    cells = points if closed else points - 1
    ring, cell = np.meshgrid(np.arange(rings - 1), np.arange(cells), indexing="ij")
    a, b = ring * points + cell, ring * points + (cell + 1) % points
    c, d = a + points, b + points
    return np.stack([np.stack([a, b, d], -1), np.stack([a, d, c], -1)], axis=2).reshape(-1, 3)


def _drop_slivers(surface: Surface) -> Surface:
    """Without faces of no area, which lofts have where two rings touch."""
    a_F3, b_F3, c_F3 = surface.vertices_V3[surface.faces_F3].swapaxes(0, 1)
    area_F = np.linalg.norm(np.cross(b_F3 - a_F3, c_F3 - a_F3), axis=1)
    return Surface(surface.vertices_V3, surface.faces_F3[area_F > 1e-9])


def loft(rings_RK3: np.ndarray) -> Surface:
    """A closed surface through closed rings; its ends are capped by fans to their centres."""
    rings, points = rings_RK3.shape[:2]
    faces = [loft_faces(rings, points, closed=True)]
    around = np.arange(points)
    following = (around + 1) % points
    low, high = rings * points, rings * points + 1
    faces.append(np.stack([following, around, np.full(points, low)], axis=-1))
    last = (rings - 1) * points
    faces.append(np.stack([last + around, last + following, np.full(points, high)], axis=-1))
    centres_23 = rings_RK3[[0, -1]].mean(axis=1)
    vertices_V3 = np.concatenate([rings_RK3.reshape(-1, 3), centres_23])
    return _drop_slivers(_outward(Surface(vertices_V3, np.concatenate(faces))))


def lathe(profile_K2: np.ndarray, segments: int) -> Surface:
    """Turns the closed profile (x, radius) about the x axis; a radius of zero makes a pole."""
    angles_R = np.arange(segments) * (2.0 * np.pi / segments)
    x_K, radius_K = profile_K2.T
    rings_RK3 = np.stack(
        np.broadcast_arrays(
            x_K[None], radius_K[None] * np.cos(angles_R)[:, None], radius_K[None] * np.sin(angles_R)[:, None]
        ),
        axis=-1,
    )
    rings_RK3 = np.concatenate([rings_RK3, rings_RK3[:1]])
    faces_F3 = loft_faces(segments + 1, len(x_K), closed=True)
    return _drop_slivers(_outward(Surface(rings_RK3.reshape(-1, 3), faces_F3)))


def rounded_rectangle(half_x: float, half_y: float, radius: float, corner: int, along: int) -> np.ndarray:
    """Counter-clockwise outline, K2: `corner` points per corner, `along` extra points on the long sides."""
    outline = []
    centres = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
    for quarter, (sx, sy) in enumerate(centres):
        angles = (quarter + np.linspace(0.0, 1.0, corner)) * (np.pi / 2.0)
        centre = np.array([sx * (half_x - radius), sy * (half_y - radius)])
        outline.append(centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1))
        sx2, sy2 = centres[(quarter + 1) % 4]
        following = np.array([sx2 * (half_x - radius), sy2 * (half_y - radius)])
        start_angle = (quarter + 1) * (np.pi / 2.0)
        following = following + radius * np.array([np.cos(start_angle), np.sin(start_angle)])
        steps = np.linspace(0.0, 1.0, along + 2)[1:-1, None]
        outline.append(outline[-1][-1] * (1 - steps) + following * steps)
    return np.concatenate(outline)


def bevelled_box(size_3: tuple[float, float, float], bevel: float, taper: float = 1.0) -> Surface:
    """A box around the origin with chamfered edges; `taper` narrows its top."""
    half_x, half_y, half_z = np.array(size_3) / 2.0
    bevel = min(bevel, 0.49 * min(size_3))
    rings = []
    for y, inset in [(-half_y, bevel), (-half_y + bevel, 0.0), (half_y - bevel, 0.0), (half_y, bevel)]:
        narrow = taper if y > 0 else 1.0
        hx, hz = half_x * narrow - inset, half_z * narrow - inset
        corner = bevel * 0.7
        outline_K2 = np.array(
            [
                (hx, hz - corner), (hx - corner, hz), (corner - hx, hz), (-hx, hz - corner),
                (-hx, corner - hz), (corner - hx, -hz), (hx - corner, -hz), (hx, corner - hz),
            ]
        )  # fmt: skip
        rings.append(np.stack([outline_K2[:, 0], np.full(8, y), outline_K2[:, 1]], axis=-1))
    return loft(np.array(rings))


def ellipsoid(
    radii_3: tuple[float, float, float], around: int, levels: int, squareness: float = 1.0
) -> Surface:
    """A superellipsoid around the origin; `squareness` 1 is an ellipsoid, towards 0 a box."""

    def power(value: np.ndarray) -> np.ndarray:
        return np.sign(value) * np.abs(value) ** squareness

    latitude = np.linspace(-0.5, 0.5, levels + 2)[1:-1] * np.pi
    longitude = np.arange(around) * (2.0 * np.pi / around)
    ring_R1, turn_1K = power(np.cos(latitude))[:, None], longitude[None]
    height_RK = np.broadcast_to(power(np.sin(latitude))[:, None], (levels, around))
    points_RK3 = np.stack(
        [ring_R1 * power(np.cos(turn_1K)), height_RK, ring_R1 * power(np.sin(turn_1K))], axis=-1
    )
    surface = loft(points_RK3)
    vertices_V3 = surface.vertices_V3.copy()
    vertices_V3[-2:] = [[0, -1, 0], [0, 1, 0]]
    return Surface(vertices_V3 * np.array(radii_3), surface.faces_F3)


def sweep(
    section_K2: np.ndarray, path_P3: np.ndarray, up_3: tuple[float, float, float] = (0, 1, 0)
) -> Surface:
    """Moves a closed section along an open path. Section axes: sideways (path direction x up) and up."""
    tangents_P3 = np.gradient(path_P3, axis=0)
    tangents_P3 /= np.linalg.norm(tangents_P3, axis=1, keepdims=True)
    side_P3 = np.cross(tangents_P3, np.array(up_3, dtype=float))
    side_P3 /= np.maximum(np.linalg.norm(side_P3, axis=1, keepdims=True), 1e-9)
    over_P3 = np.cross(side_P3, tangents_P3)
    rings = (
        path_P3[:, None]
        + section_K2[None, :, :1] * side_P3[:, None]
        + section_K2[None, :, 1:] * over_P3[:, None]
    )
    return loft(rings)


def tube(
    path_P3: np.ndarray, radius: float, segments: int = 8, up_3: tuple[float, float, float] = (0, 1, 0)
) -> Surface:
    angles = np.arange(segments) * (2.0 * np.pi / segments)
    return sweep(radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1), path_P3, up_3)


class Skin:
    """A surface to shoot axis-parallel rays at."""

    def __init__(self, corners_F33: np.ndarray) -> None:
        self._corners_F33 = corners_F33

    @staticmethod
    def of(surface: Surface) -> Skin:
        return Skin(surface.vertices_V3[surface.faces_F3])

    def hit(self, axis: int, at_2: tuple[float, float], positive: bool) -> float | None:
        """The outermost coordinate along `axis` over a point of the other two axes, or None.

        at_2: the other two coordinates in the order x, y, z. positive: seen from the positive side.
        """
        others = [i for i in range(3) if i != axis]
        flat_F32 = self._corners_F33[:, :, others]
        point_2 = np.array(at_2)
        near_F = ((flat_F32.min(axis=1) <= point_2) & (flat_F32.max(axis=1) >= point_2)).all(axis=1)
        a_F2, b_F2, c_F2 = flat_F32[near_F].swapaxes(0, 1)
        along_F3 = self._corners_F33[near_F][:, :, axis]
        ab_F2, ac_F2, ap_F2 = b_F2 - a_F2, c_F2 - a_F2, point_2 - a_F2
        area_F = ab_F2[:, 0] * ac_F2[:, 1] - ab_F2[:, 1] * ac_F2[:, 0]
        area_F = np.where(np.abs(area_F) < 1e-12, np.inf, area_F)
        v_F = (ap_F2[:, 0] * ac_F2[:, 1] - ap_F2[:, 1] * ac_F2[:, 0]) / area_F
        w_F = (ab_F2[:, 0] * ap_F2[:, 1] - ab_F2[:, 1] * ap_F2[:, 0]) / area_F
        hit_F = (v_F >= -1e-9) & (w_F >= -1e-9) & (v_F + w_F <= 1 + 1e-9) & np.isfinite(area_F)
        if not hit_F.any():
            return None
        reached_F = along_F3[:, 0] * (1 - v_F - w_F) + along_F3[:, 1] * v_F + along_F3[:, 2] * w_F
        return float(reached_F[hit_F].max() if positive else reached_F[hit_F].min())

    def outline(self, level: float, pivot: float, angles: np.ndarray, front: bool) -> np.ndarray:
        """Where level rays from (0, level, pivot) leave the surface; rays that miss are left out. P3.

        angles: from the z axis towards x, looking forwards or backwards as `front` says.
        """
        y_F3 = self._corners_F33[:, :, 1]
        crossing_F = (y_F3.min(axis=1) <= level) & (y_F3.max(axis=1) >= level)
        corners_F33 = self._corners_F33[crossing_F] - np.array([0.0, 0.0, pivot])
        points = []
        for angle in angles:
            cos, sin = np.cos(angle), np.sin(angle)
            turn_33 = np.array([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])
            reach = Skin(corners_F33 @ turn_33.T).hit(2, (0.0, level), positive=front)
            if reach is not None:
                points.append((reach * sin, level, pivot + reach * cos))
        return np.array(points).reshape(-1, 3)


def smooth_profile(points: list[tuple[float, float]], radius: float):
    """A callable curve z -> value: straight pieces between points, corners rounded by `radius`."""
    z, value = np.array(sorted(points), dtype=np.float64).T
    step = max(radius / 6.0, (z[-1] - z[0]) / 2000.0)
    reach = 3.0 * radius
    fine = np.arange(z[0] - reach, z[-1] + reach + step, step)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + step / 2, step) / radius) ** 2)
    padded = np.pad(np.interp(fine, z, value), len(kernel) // 2, mode="edge")
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="same")[len(kernel) // 2 :][: len(fine)]
    return lambda at: np.interp(at, fine, smooth)
