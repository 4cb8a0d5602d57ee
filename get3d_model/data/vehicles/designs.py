"""What a vehicle is before colours and fittings: hull, cabin, windows, lamps. Lengths in metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from get3d_model.data.vehicles.body import Cabin, Hull
from get3d_model.data.vehicles.paint import Points


@dataclass(frozen=True)
class Lamp:
    """A lamp and its mirror image: half distance `x`, height `y`, radii; `square` 1 is round, 0.3 boxy."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    square: float


@dataclass(frozen=True)
class CargoBox:
    """The separate box of a truck."""

    rear: float
    front: float
    floor: float
    roof: float
    width: float


@dataclass(frozen=True)
class Design:
    """A vehicle before colours and fittings. Polygons are in board coordinates (see `paint.VIEWS`)."""

    kind: str
    hull: Hull
    cabin: Cabin | None
    cargo: CargoBox | None
    windows: dict[str, list[Points]]
    panel_lines: list[Points]
    handles: list[tuple[float, float]]
    glass_from: float  # height above which the hull itself carries windows
    head: Lamp
    tail: Lamp
    grille: tuple[float, float, float]  # half width, low, high
    bumper: tuple[float, float]  # height, half height
    wheel_width: float
    mirror: tuple[float, float]  # z, y

    @property
    def height(self) -> float:
        tops = [float(np.max(self.hull.height(np.linspace(-self.hull.length / 2, self.hull.length / 2, 50))))]
        tops += [self.cabin.roof + self.cabin.crown] if self.cabin else []
        tops += [self.cargo.roof] if self.cargo else []
        return max(tops)


def quad(
    low_rear: float, low_front: float, high_front: float, high_rear: float, low: float, high: float
) -> list[tuple[float, float]]:
    """A window between two heights, given by its ends at both."""
    return [(low_rear, low), (low_front, low), (high_front, high), (high_rear, high)]


def cabin_windows(
    cabin: Cabin, posts: list[float], front_post: float, rear_post: float
) -> dict[str, list[Points]]:
    """Side windows between the posts (z), and the two screens."""
    tall = cabin.roof - cabin.belt
    low, high = cabin.belt + 0.05 * tall, cabin.belt + 0.86 * tall
    gap = 0.04
    edges = [(cabin.rear(low) + rear_post, cabin.rear(high) + rear_post)]
    for post in posts:
        edges.append((post, post))
    edges.append((cabin.front(low) - front_post, cabin.front(high) - front_post))
    side = []
    for index in range(len(edges) - 1):
        (rear_low, rear_high), (front_low, front_high) = edges[index], edges[index + 1]
        left, right = (gap if index else 0.0), (gap if index < len(edges) - 2 else 0.0)
        if front_low - rear_low - left - right > 0.08:
            side.append(
                quad(
                    rear_low + left,
                    front_low - right,
                    max(front_high - right, rear_high + left + 0.05),
                    rear_high + left,
                    low,
                    high,
                )
            )
    wide_low, wide_high = cabin.half(low) - 0.10, cabin.half(high) - 0.10
    screen = quad(-wide_low, wide_low, wide_high, -wide_high, low, high)
    return {"side": side, "front": [screen], "rear": [screen]}


def door_lines(hull: Hull, edges: list[float], low: float, high: float) -> list[Points]:
    """Vertical gaps between doors and a line along their lower edge."""
    lines: list[Points] = [[(z, low), (z, high)] for z in edges]
    return [*lines, [(min(edges), low), (max(edges), low)]]
