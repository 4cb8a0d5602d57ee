"""A vehicle being put together, and the textures that its small parts share.

Shape legend: V vertices, H W texture height and width
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from PIL import Image, ImageDraw

from get3d_model.data.vehicles.designs import Design
from get3d_model.data.vehicles.geometry import Skin, Surface
from get3d_model.data.vehicles.livery import Scheme
from get3d_model.data.vehicles.paint import Colour, Sheet, shade

SWATCH = 16  # texels; width of a column of the trim texture
LAMP_CELL = 48  # texels; side of a cell of the lamp texture
# Columns of the trim texture; `body` and `second` are the vehicle's own colours.
PLASTIC, RUBBER, CHROME, STEEL, PALE, TAN, WOOD, BODY, SECOND, PANE = range(10)
SWATCHES: list[Colour] = [
    (52, 54, 58),
    (26, 26, 28),
    (208, 212, 218),
    (120, 126, 134),
    (226, 226, 222),
    (168, 124, 84),
    (150, 104, 58),
]
HEAD, TAIL, AMBER, BLUE, RED, SIGN = range(6)


class Assembly:
    """A vehicle being put together: its design, its solid skin for rays, and pieces by material."""

    def __init__(self, design: Design, scheme: Scheme, skin: Skin, random: np.random.Generator) -> None:
        self.design, self.scheme, self.skin, self.random = design, scheme, skin, random
        self.pieces: dict[str, list[tuple[Surface, np.ndarray]]] = defaultdict(list)
        self.sheets: dict[str, Sheet] = {}

    def add(self, material: str, surface: Surface, uvs_V2: np.ndarray) -> None:
        self.pieces[material].append((surface, uvs_V2))

    def trim(self, surface: Surface, swatch: int) -> None:
        """Adds a plain-coloured surface, lighter towards its top."""
        y_V = surface.vertices_V3[:, 1]
        share = (y_V - y_V.min()) / max(float(np.ptp(y_V)), 1e-6)
        u = (swatch + 0.5) / (len(SWATCHES) + 3)
        self.add("trim", surface, np.stack([np.full_like(share, u), 0.06 + 0.88 * share], axis=-1))

    def lamp(self, lens: Surface, cell: int, places: list[Surface] | None = None) -> None:
        """Adds a lens, its picture seen along z. places: the copies to add instead of the lens itself."""
        low_3, extent_3 = lens.vertices_V3.min(axis=0), np.ptp(lens.vertices_V3, axis=0)
        share_V3 = (lens.vertices_V3 - low_3) / np.maximum(extent_3, 1e-6)
        uvs_V2 = np.stack(
            [(cell + 0.04 + 0.92 * share_V3[:, 0]) / 6.0, 0.04 + 0.92 * share_V3[:, 1]], axis=-1
        )
        for place in places or [lens]:
            self.add("lamps", place, uvs_V2)

    def skin_z(self, x: float, y: float, front: bool) -> float:
        hit = self.skin.hit(2, (x, y), positive=front)
        return hit if hit is not None else (1 if front else -1) * (self.design.hull.length / 2.0 - 0.15)

    def skin_x(self, y: float, z: float) -> float:
        hit = self.skin.hit(0, (y, z), positive=True)
        return hit if hit is not None else self.design.hull.width / 2.0

    def skin_y(self, x: float, z: float) -> float:
        hit = self.skin.hit(1, (x, z), positive=True)
        return hit if hit is not None else self.design.height


def trim_texture(scheme: Scheme) -> np.ndarray:
    columns = [*SWATCHES, scheme.body, scheme.second, shade(scheme.glass, 1.25)]
    rise_H = np.linspace(1.12, 0.72, 32)[:, None]
    texture_HW3 = np.zeros((32, SWATCH * len(columns), 3))
    for index, colour in enumerate(columns):
        texture_HW3[:, index * SWATCH : (index + 1) * SWATCH] = (rise_H * np.array(colour))[:, None]
    chrome = slice(CHROME * SWATCH, (CHROME + 1) * SWATCH)
    texture_HW3[14:19, chrome] *= 0.55  # the horizon in polished metal
    return np.clip(texture_HW3, 0, 255).astype(np.uint8)


def lamp_texture() -> np.ndarray:
    """Six cells side by side: head, tail, amber, blue and red beacons, lit sign."""
    size = LAMP_CELL * 2
    image = Image.new("RGB", (size * 6, size))
    draw = ImageDraw.Draw(image)
    grounds = [(206, 216, 226), (186, 20, 24), (246, 150, 30), (40, 92, 236), (232, 36, 40), (252, 236, 160)]
    for index, ground in enumerate(grounds):
        left = index * size
        draw.rectangle((left, 0, left + size, size), fill=shade(ground, 0.62))
        draw.ellipse((left + 6, 6, left + size - 6, size - 6), fill=ground)
        draw.rectangle(
            (left + 10, int(size * 0.16), left + size - 10, int(size * 0.30)), fill=shade(ground, 1.22)
        )
    for centre, radius in ((0.36, 0.22), (0.74, 0.13)):
        x, y, reach = size * centre, size * 0.52, size * radius
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=(120, 130, 142))
        draw.ellipse(
            (x - 0.8 * reach, y - 0.8 * reach, x + 0.8 * reach, y + 0.8 * reach), fill=(252, 252, 244)
        )
    left = TAIL * size
    draw.rectangle((left + size * 0.62, size * 0.34, left + size - 8, size * 0.54), fill=(246, 240, 236))
    draw.rectangle((left + size * 0.62, size * 0.58, left + size - 8, size * 0.78), fill=(246, 150, 30))
    draw.ellipse((left + size * 0.12, size * 0.36, left + size * 0.54, size * 0.78), fill=(240, 52, 48))
    return np.asarray(image.reduce(2))
