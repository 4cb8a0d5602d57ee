"""The body of a vehicle: a hull lofted along z with wheel arches cut in, and a cabin lofted upwards.

All lengths in metres; z = 0 is the middle of the vehicle, y = 0 the ground.

Shape legend: V vertices, F faces, R rings of a loft, K points of a ring
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from get3d_model.data.vehicles.geometry import (
    Surface,
    face_normals,
    loft,
    rounded_rectangle,
    smooth_profile,
)

ARCH_STEPS = 8  # rings over one wheel arch
SIDE_STEPS = 4  # points between the sill and the shoulder
CROWN_STEPS = 8  # points from the shoulder to the middle of the top


@dataclass(frozen=True)
class Tub:
    """An open hollow in the top of a hull: a cargo bed or the seats of an open car.

    rear, front: along z. rail: width of the wall. floor: height of the bottom.
    """

    rear: float
    front: float
    rail: float
    floor: float


@dataclass(frozen=True)
class Cabin:
    """The greenhouse: windows from `belt` to `roof`, their outline at both heights, and the widths there."""

    rear_belt: float
    front_belt: float
    rear_roof: float
    front_roof: float
    belt: float
    roof: float
    half_belt: float
    half_roof: float
    corner: float
    crown: float

    def rear(self, y: np.ndarray | float) -> np.ndarray | float:
        return self.rear_belt + (self.rear_roof - self.rear_belt) * self._share(y)

    def front(self, y: np.ndarray | float) -> np.ndarray | float:
        return self.front_belt + (self.front_roof - self.front_belt) * self._share(y)

    def half(self, y: np.ndarray | float) -> np.ndarray | float:
        return self.half_belt + (self.half_roof - self.half_belt) * self._share(y)

    def _share(self, y: np.ndarray | float) -> np.ndarray | float:
        return (y - self.belt) / (self.roof - self.belt)


@dataclass(frozen=True)
class Hull:
    """The lower body, or the whole body of a van or bus.

    top: (z, y) points of the upper outline, rear to front, rounded by `top_smoothing`. sill: height of the
    lower edge. shoulder: from the top down to where the sides begin; squareness: exponent of that corner's
    superellipse. bow: how far the middle of the ends stands out over their corners. rake: how far the upper
    edge of the ends leans back. nose: share of width lost at the ends. flare: widening at the wheels.
    """

    length: float
    width: float
    sill: float
    top: tuple[tuple[float, float], ...]
    axles: tuple[float, ...]
    wheel_radius: float
    arch_gap: float
    shoulder: float
    top_smoothing: float = 0.10
    squareness: float = 3.2
    bevel: float = 0.09
    bow: float = 0.12
    rake: float = 0.06
    nose: float = 0.07
    flare: float = 0.02
    tumble: float = 0.02
    tub: Tub | None = None

    @property
    def arch_radius(self) -> float:
        return self.wheel_radius + self.arch_gap

    def height(self, z: np.ndarray | float) -> np.ndarray | float:
        """The top of the hull, without the rounding of its ends."""
        return smooth_profile(list(self.top), self.top_smoothing)(z)


@dataclass(frozen=True)
class HullSurfaces:
    """outer: what is painted. under: the lower side with the wheel wells. tub: the hollow's inside."""

    outer: Surface
    under: Surface
    tub: Surface | None


def _stations(hull: Hull) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where rings stand: z, the lower edge there (NaN for the sill), and whether the ring has the tub."""
    half = hull.length / 2.0
    ends = half - hull.bevel * (1.0 - np.cos(np.linspace(0.0, np.pi / 2.0, 5)))
    z = [*ends, *-ends, *np.linspace(-half + hull.bevel, half - hull.bevel, 14)[1:-1]]
    stops = [(axle - hull.arch_radius, axle + hull.arch_radius) for axle in hull.axles]
    gap = 0.05
    z = [v for v in z if not any(low - gap < v < high + gap for low, high in stops)]
    rows = [(v, np.nan) for v in z]
    for axle in hull.axles:
        for angle in np.linspace(0.0, np.pi, ARCH_STEPS):
            at, edge = axle - hull.arch_radius * np.cos(angle), hull.arch_radius * np.sin(angle)
            rows.append((at, hull.wheel_radius + edge))
        rows += [(axle - hull.arch_radius - 1e-6, np.nan), (axle + hull.arch_radius + 1e-6, np.nan)]
    rows = [(z, edge, False) for z, edge in rows]
    if hull.tub is not None:
        tub = hull.tub
        edges_z = np.array([row[0] for row in rows])
        order = np.argsort(edges_z)
        lower = np.array([np.nan_to_num(row[1], nan=hull.sill) for row in rows])[order]
        rows = [(z, edge, tub.rear < z < tub.front) for z, edge, _ in rows]
        for at, side in ((tub.rear, 1), (tub.front, -1)):
            edge = float(np.interp(at, edges_z[order], lower))
            edge = np.nan if edge <= hull.sill + 1e-3 else edge
            rows += [(at - side * 1e-6, edge, False), (at + side * 1e-6, edge, True)]
    rows.sort(key=lambda row: row[0])
    z, edge, hollow = (np.array(column) for column in zip(*rows, strict=True))
    return z.astype(float), edge.astype(float), hollow.astype(bool)


def build_hull(hull: Hull) -> HullSurfaces:
    """Lofts the hull; closed, with the wheel arches as tunnels through it."""
    z_R, edge_R, hollow_R = _stations(hull)
    half = hull.length / 2.0
    to_end_R = np.clip(half - np.abs(z_R), 0.0, hull.bevel)
    inset_R = hull.bevel - np.sqrt(np.maximum(hull.bevel**2 - (hull.bevel - to_end_R) ** 2, 0.0))
    top_R = hull.height(z_R) - inset_R
    sill_R = hull.sill + 0.8 * inset_R
    # An arch may not pierce a low bonnet.
    low_R = np.where(np.isnan(edge_R), sill_R, np.clip(edge_R, sill_R, top_R - 0.07))
    shoulder_R = np.maximum(top_R - hull.shoulder, low_R + 0.03)
    shoulder_R = np.minimum(shoulder_R, top_R - 0.02)
    width_R = hull.width / 2.0 * (1.0 - hull.nose * np.abs(z_R / half) ** 5) - inset_R
    for axle in hull.axles:
        width_R = width_R + hull.flare * np.exp(-(((z_R - axle) / (1.1 * hull.arch_radius)) ** 2))

    def side_x(y_RK: np.ndarray) -> np.ndarray:
        """The half width at a height: tucked in at the sill, widest at 45 %, leaning in above."""
        share = np.clip((y_RK - sill_R[:, None]) / (shoulder_R - sill_R)[:, None], 0.0, 1.0)
        tuck = 0.05 * np.clip((0.45 - share) / 0.45, 0, 1) ** 2
        lean = hull.tumble * np.clip((share - 0.45) / 0.55, 0, 1) ** 2
        return width_R[:, None] * (1.0 - tuck - lean)

    steps_K = np.linspace(0.0, 1.0, SIDE_STEPS + 1)
    side_y_RK = low_R[:, None] + (shoulder_R - low_R)[:, None] * steps_K
    side_x_RK = side_x(side_y_RK)
    turn_K = np.linspace(0.0, np.pi / 2.0, CROWN_STEPS + 1)[1:]
    crown_x_RK = side_x_RK[:, -1:] * np.cos(turn_K).clip(0.0) ** (2.0 / hull.squareness)
    crown_y_RK = shoulder_R[:, None] + (top_R - shoulder_R)[:, None] * np.sin(turn_K) ** (
        2.0 / hull.squareness
    )
    if hull.tub is not None:
        crown_x_RK, crown_y_RK = _hollow(hull.tub, hollow_R, crown_x_RK, crown_y_RK, side_x_RK[:, -1], top_R)
    bottom_x_RK = np.stack([np.zeros_like(low_R), 0.55 * side_x_RK[:, 0]], axis=1)
    x_RK = np.concatenate([bottom_x_RK, side_x_RK, crown_x_RK], axis=1)
    y_RK = np.concatenate([np.repeat(low_R[:, None], 2, axis=1), side_y_RK, crown_y_RK], axis=1)
    x_RK = np.concatenate([x_RK, -x_RK[:, -2:0:-1]], axis=1)
    y_RK = np.concatenate([y_RK, y_RK[:, -2:0:-1]], axis=1)
    z_RK = np.repeat(z_R[:, None], x_RK.shape[1], axis=1)
    rings_RK3 = np.stack([x_RK, y_RK, z_RK], axis=-1)
    # Rings inside the flat ends, so that these can be bowed.
    rear, front = rings_RK3[0], rings_RK3[-1]
    inner = [[end.mean(axis=0) + (end - end.mean(axis=0)) * s for s in (0.4, 0.75)] for end in (rear, front)]
    surface = loft(np.array([*inner[0], *rings_RK3, *inner[1][::-1]]))
    return _split_hull(hull, Surface(_shaped(hull, surface.vertices_V3), surface.faces_F3))


def _hollow(tub: Tub, hollow_R, crown_x_RK, crown_y_RK, outer_R, top_R) -> tuple[np.ndarray, np.ndarray]:
    """Bends the crown of the hollow's rings into rail, inner wall and floor."""
    inner_R = outer_R - tub.rail
    floor_R = np.full_like(outer_R, tub.floor)
    x = [
        outer_R,
        outer_R - 0.3 * tub.rail,
        inner_R + 0.2 * tub.rail,
        inner_R,
        inner_R,
        0.66 * inner_R,
        0.33 * inner_R,
    ]
    y = [top_R - 0.03, top_R, top_R, top_R - 0.02, floor_R, floor_R, floor_R]
    x_RK = np.stack([*x, np.zeros_like(outer_R)], axis=1)
    y_RK = np.stack([*y, floor_R], axis=1)
    chosen = hollow_R[:, None]
    return np.where(chosen, x_RK, crown_x_RK), np.where(chosen, y_RK, crown_y_RK)


def _shaped(hull: Hull, vertices_V3: np.ndarray) -> np.ndarray:
    """Bows the ends in plan and leans them back."""
    x_V, y_V, z_V = vertices_V3.T
    half = hull.length / 2.0
    # What stands before the first wheel arch and behind the last; the arches keep their shape.
    start_V = np.where(z_V > 0, max(hull.axles), -min(hull.axles)) + hull.arch_radius - 0.02
    depth_V = np.clip((np.abs(z_V) - start_V) / (half - start_V), 0.0, 1.0) ** 2
    middle = 0.5 * (hull.sill + float(hull.height(half)))
    back_V = hull.bow * (2.0 * x_V / hull.width) ** 2 + hull.rake * np.maximum(y_V - middle, 0.0) / middle
    return np.stack([x_V, y_V, z_V - np.sign(z_V) * depth_V * back_V], axis=-1)


def _split_hull(hull: Hull, surface: Surface) -> HullSurfaces:
    centre_F3 = surface.vertices_V3[surface.faces_F3].mean(axis=1)
    normal_F3 = face_normals(surface)
    under_F = (normal_F3[:, 1] < -0.75) & (centre_F3[:, 1] < hull.sill + 2.0 * hull.arch_radius)
    for axle in hull.axles:
        within_F = np.abs(centre_F3[:, 2] - axle) < hull.arch_radius + 2e-6
        # Not the slivers of the side, as thin as the step of the outline, where an arch begins.
        inner_F = np.abs(centre_F3[:, 0]) < 0.94 * hull.width / 2.0
        tunnel_F = within_F & inner_F & (np.abs(normal_F3[:, 0]) < 0.5) & (normal_F3[:, 1] < 0.05)
        under_F |= tunnel_F & (centre_F3[:, 1] < hull.wheel_radius + hull.arch_radius + 0.02)
    tub_F = np.zeros(len(under_F), dtype=bool)
    if hull.tub is not None:
        tub = hull.tub
        inside_F = (centre_F3[:, 2] > tub.rear - 1e-5) & (centre_F3[:, 2] < tub.front + 1e-5)
        inner = hull.width / 2.0 - tub.rail + 0.02
        below_F = centre_F3[:, 1] < hull.height(centre_F3[:, 2]) - 0.015
        facing_F = (normal_F3[:, 0] * centre_F3[:, 0] <= 1e-9) | (np.abs(normal_F3[:, 1]) > 0.9)
        wall_F = np.abs(normal_F3[:, 2]) > 0.9
        tub_F = inside_F & (below_F & facing_F | wall_F) & (np.abs(centre_F3[:, 0]) < inner) & ~under_F
    return HullSurfaces(
        part_of(surface, ~under_F & ~tub_F),
        part_of(surface, under_F),
        part_of(surface, tub_F) if tub_F.any() else None,
    )


def part_of(surface: Surface, chosen_F: np.ndarray) -> Surface:
    """The chosen faces with the vertices that they use."""
    used_U, faces = np.unique(surface.faces_F3[chosen_F], return_inverse=True)
    return Surface(surface.vertices_V3[used_U], faces.reshape(-1, 3))


def build_cabin(cabin: Cabin) -> tuple[Surface, Surface]:
    """The glass band and the roof, together closed except for the hidden lower side."""
    levels = np.array([-0.12, 0.0, 0.33, 0.66, 0.94])
    rings = []
    for level in levels:
        y = cabin.belt + (cabin.roof - cabin.belt) * level
        bulge = 0.015 * np.sin(np.pi * np.clip(level, 0, 1))
        rings.append(_cabin_ring(cabin, y, bulge, 0.0))
    glass_rings = len(rings)
    edge = 0.06 * (cabin.roof - cabin.belt)
    for angle in np.linspace(0.0, np.pi / 2.0, 4)[1:]:
        y = cabin.roof - edge + edge * np.sin(angle)
        rings.append(_cabin_ring(cabin, y, 0.0, 0.12 * (1.0 - np.cos(angle))))
    rim = rings[-1]
    centre_3 = rim.mean(axis=0)
    for share in (0.7, 0.35):
        ring = centre_3 + (rim - centre_3) * share
        ring[:, 1] += cabin.crown * (1.0 - share**2)
        rings.append(ring)
    rings_RK3 = np.array(rings)
    surface = loft(rings_RK3)
    vertices_V3 = surface.vertices_V3.copy()
    vertices_V3[-1, 1] = cabin.roof + cabin.crown
    surface = Surface(vertices_V3, surface.faces_F3)
    glass_height = rings_RK3[glass_rings - 1, 0, 1] - 1e-6
    centre_F3 = surface.vertices_V3[surface.faces_F3].mean(axis=1)
    glass_F = centre_F3[:, 1] < glass_height
    return part_of(surface, glass_F), part_of(surface, ~glass_F)


def _cabin_ring(cabin: Cabin, y: float, bulge: float, inset: float) -> np.ndarray:
    rear, front = float(cabin.rear(y)), float(cabin.front(y))
    half_x = float(cabin.half(y)) + bulge - inset
    half_z = (front - rear) / 2.0 + bulge - inset
    corner = max(min(cabin.corner, 0.9 * half_x, 0.9 * half_z), 0.02)
    outline_K2 = rounded_rectangle(half_x, half_z, corner, corner=4, along=3)
    # The screens are bowed in plan.
    x_K, z_K = outline_K2.T
    z_K = z_K - np.sign(z_K) * 0.10 * (x_K / half_x) ** 2 * np.clip(np.abs(z_K) / half_z, 0, 1) ** 8
    return np.stack([x_K, np.full_like(x_K, y), z_K + (front + rear) / 2.0], axis=-1)


def build_chassis(hull: Hull, track_inside: float) -> Surface:
    """The dark block between the wheels that closes the view through the wheel wells."""
    reach = max(abs(axle) for axle in hull.axles) + hull.arch_radius - 0.01
    low, high = hull.sill + 0.01, hull.wheel_radius + hull.arch_radius + 0.03
    outline_K2 = rounded_rectangle(track_inside, 0.5, 0.05, corner=2, along=0)
    stations = list(np.linspace(-reach, reach, 12))
    if hull.tub is not None:
        stations += [hull.tub.rear - 0.02, hull.tub.rear - 0.01, hull.tub.front + 0.01, hull.tub.front + 0.02]
    rings = []
    for z in sorted(z for z in stations if -reach <= z <= reach):
        # Below the skin, whose sides are lower than its middle, and below the floor of a hollow.
        top = min(high, float(hull.height(z)) - 0.06)
        if hull.tub is not None and hull.tub.rear - 0.015 < z < hull.tub.front + 0.015:
            top = min(top, hull.tub.floor - 0.02)
        y_K = low + (outline_K2[:, 1] + 0.5) * (top - low)
        rings.append(np.stack([outline_K2[:, 0], y_K, np.full(len(y_K), z)], axis=-1))
    return loft(np.array(rings))
