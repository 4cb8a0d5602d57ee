"""Tyres and rims: their shape and their pictures.

Shape legend: V vertices, K points of a profile
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from get3d_model.data.vehicles.geometry import Surface, lathe
from get3d_model.data.vehicles.paint import Colour, shade


def wheel_surfaces(
    radius: float, width: float, segments: int
) -> tuple[Surface, np.ndarray, Surface, np.ndarray]:
    """Tyre and rim about the x axis, outer side at +x, each with uvs."""
    r, w = radius, width / 2.0
    profile_K2 = np.array(
        [
            (-0.75 * w, 0.60 * r),
            (-w, 0.72 * r),
            (-w, 0.88 * r),
            (-0.76 * w, 0.985 * r),
            (0.0, r),
            (0.76 * w, 0.985 * r),
            (w, 0.88 * r),
            (w, 0.72 * r),
            (0.75 * w, 0.60 * r),
        ]
    )
    tyre = lathe(profile_K2, segments)
    lip = np.array(
        [
            (0.62 * w, 0.0),
            (0.62 * w, 0.10 * r),
            (0.45 * w, 0.16 * r),
            (0.30 * w, 0.50 * r),
            (0.30 * w, 0.56 * r),
            (0.86 * w, 0.60 * r),
            (0.86 * w, 0.655 * r),
            (-0.7 * w, 0.655 * r),
            (-0.7 * w, 0.0),
        ]
    )
    rim = lathe(lip, segments)
    return tyre, _disc_uvs(tyre, 1.02 * r), rim, _disc_uvs(rim, 0.68 * r)


def _disc_uvs(surface: Surface, reach: float) -> np.ndarray:
    """Seen along the axle; the tread, which that would crush, takes the outermost ring."""
    _, y_V, z_V = surface.vertices_V3.T
    return np.stack([0.5 - z_V / (2.0 * reach), 0.5 + y_V / (2.0 * reach)], axis=-1)


def tyre_texture() -> np.ndarray:
    size = 192
    image = Image.new("RGB", (size, size), (30, 30, 32))
    draw = ImageDraw.Draw(image)
    middle, reach = size / 2.0, size / 2.04

    def ring(share: float, colour: Colour) -> None:
        draw.ellipse(
            (middle - share * reach, middle - share * reach, middle + share * reach, middle + share * reach),
            fill=colour,
        )

    for share, colour in [
        (1.0, (38, 38, 40)),
        (0.93, (58, 58, 61)),
        (0.86, (47, 47, 50)),
        (0.74, (64, 64, 67)),
        (0.70, (44, 44, 47)),
    ]:
        ring(share, colour)
    for step in range(40):
        angle = step * (2 * np.pi / 40)
        near, far = 0.92 * reach, 1.03 * reach
        draw.line(
            [
                (middle + near * np.cos(angle), middle + near * np.sin(angle)),
                (middle + far * np.cos(angle), middle + far * np.sin(angle)),
            ],
            fill=(14, 14, 15),
            width=5,
        )
    return np.asarray(image.reduce(2))


def rim_texture(metal: Colour, spokes: int, thickness: float, twist: float) -> np.ndarray:
    """Spokes over dark gaps, a bright lip, a hub with bolts."""
    size = 256
    image = Image.new("RGB", (size, size), shade(metal, 0.8))
    draw = ImageDraw.Draw(image)
    middle, reach = size / 2.0, size / 2.0 / 1.04

    def disc(x: float, y: float, share: float, colour: Colour) -> None:
        draw.ellipse(
            (x - share * reach, y - share * reach, x + share * reach, y + share * reach), fill=colour
        )

    disc(middle, middle, 1.0, shade(metal, 1.05))
    disc(middle, middle, 0.90, shade(metal, 0.62))
    disc(middle, middle, 0.84, (34, 35, 38))
    for index in range(spokes):
        angle = index * 2 * np.pi / spokes
        inner, outer = thickness * 0.75, thickness * 0.5
        corners = [
            (0.16, angle - inner * 2),
            (0.86, angle + twist - outer),
            (0.86, angle + twist + outer),
            (0.16, angle + inner * 2),
        ]
        polygon = [(middle + s * reach * np.cos(a), middle + s * reach * np.sin(a)) for s, a in corners]
        draw.polygon(polygon, fill=metal)
        draw.line([polygon[0], polygon[1]], fill=shade(metal, 1.2), width=3)
        draw.line([polygon[2], polygon[3]], fill=shade(metal, 0.7), width=3)
    disc(middle, middle, 0.27, metal)
    for index in range(5):
        angle = index * 2 * np.pi / 5 + 0.3
        disc(
            middle + 0.19 * reach * np.cos(angle), middle + 0.19 * reach * np.sin(angle), 0.035, (60, 62, 66)
        )
    disc(middle, middle, 0.11, shade(metal, 0.6))
    return np.asarray(image.reduce(2))
