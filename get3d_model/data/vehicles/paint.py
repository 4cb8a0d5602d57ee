"""Painting in metres: boards that a surface is projected onto, packed into one texture.

A board shows a vehicle from one side; its drawing coordinates are the vehicle's own metres, so windows and
stripes land where the geometry has them.

Shape legend: H W height and width in texels, V vertices, P points
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from get3d_model.data.vehicles.body import part_of
from get3d_model.data.vehicles.geometry import Surface, face_normals

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

SUPERSAMPLE = 2
GUTTER = 3  # texels between boards
# The vehicle axes (0 x, 1 y, 2 z) along a board's horizontal and vertical.
VIEWS = {"side": (2, 1), "top": (2, 0), "front": (0, 1), "rear": (0, 1)}


def mix(first: Colour, second: Colour, share: float) -> Colour:
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def shade(colour: Colour, factor: float) -> Colour:
    return tuple(int(np.clip(round(value * factor), 0, 255)) for value in colour)


def rounded(points: Points, radius: float, steps: int = 4) -> list[tuple[float, float]]:
    """The polygon with its corners replaced by arcs (quadratic curves) of about this radius."""
    corner_P2 = np.array(points, dtype=float)
    ends = []
    for shift in (1, -1):
        towards_P2 = np.roll(corner_P2, shift, axis=0) - corner_P2
        reach_P1 = np.maximum(np.linalg.norm(towards_P2, axis=1, keepdims=True), 1e-9)
        ends.append(corner_P2 + towards_P2 * np.minimum(radius / reach_P1, 0.48))
    t_S1 = np.linspace(0.0, 1.0, steps)[:, None]
    weights = ((1 - t_S1) ** 2, 2 * t_S1 * (1 - t_S1), t_S1**2)
    curve_PS2 = (
        weights[0] * ends[0][:, None] + weights[1] * corner_P2[:, None] + weights[2] * ends[1][:, None]
    )
    return [tuple(point) for point in curve_PS2.reshape(-1, 2).tolist()]


class Board:
    """One drawing, in metres: `low` and `high` are the corners of what it shows."""

    def __init__(self, low: tuple[float, float], high: tuple[float, float], texels_per_m: float) -> None:
        self.low, self.high, self.texels_per_m = low, high, texels_per_m
        self.width = max(round((high[0] - low[0]) * texels_per_m), 4)
        self.height = max(round((high[1] - low[1]) * texels_per_m), 4)
        self._scale = texels_per_m * SUPERSAMPLE
        self.image = Image.new("RGB", (self.width * SUPERSAMPLE, self.height * SUPERSAMPLE))
        self.draw = ImageDraw.Draw(self.image)

    def _px(self, points: Points) -> list[tuple[float, float]]:
        return [((x - self.low[0]) * self._scale, (self.high[1] - y) * self._scale) for x, y in points]

    def fill(self, colour: Colour) -> None:
        self.image.paste(colour, (0, 0, *self.image.size))

    def polygon(self, points: Points, colour: Colour, corner: float = 0.0) -> None:
        self.draw.polygon(self._px(rounded(points, corner) if corner else points), fill=colour)

    def rectangle(
        self, low: tuple[float, float], high: tuple[float, float], colour: Colour, corner=0.0
    ) -> None:
        self.polygon([low, (high[0], low[1]), high, (low[0], high[1])], colour, corner)

    def line(self, points: Points, colour: Colour, width: float) -> None:
        self.draw.line(self._px(points), fill=colour, width=max(round(width * self._scale), 1), joint="curve")

    def disc(self, centre: tuple[float, float], radius: float, colour: Colour) -> None:
        ((x, y),) = self._px([centre])
        reach = radius * self._scale
        self.draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Metres of the texels: horizontal 1W and vertical H1."""
        width, height = self.image.size
        x = self.low[0] + (np.arange(width) + 0.5) / self._scale
        y = self.high[1] - (np.arange(height) + 0.5) / self._scale
        return x[None, :], y[:, None]

    def multiply(self, factor: np.ndarray) -> None:
        """Brightens or darkens texel by texel; `factor`, at most 1.25, broadcasts to HW."""
        self._paste(ImageChops.multiply(self.image, Image.merge("RGB", [self._mask(factor / 1.25)] * 3)))
        self._paste(self.image.point([min(255, round(level * 1.25)) for level in range(256)] * 3))

    def blend(self, colour: Colour, opacity: np.ndarray) -> None:
        """Mixes a colour in, texel by texel; `opacity` in [0, 1] broadcasts to HW."""
        self.image.paste(colour, (0, 0), self._mask(opacity))

    def _mask(self, share: np.ndarray) -> Image.Image:
        """A grey picture of values in [0, 1]; what varies along one axis only is stretched, not computed."""
        grey = Image.fromarray(np.round(np.clip(share, 0.0, 1.0) * 255.0).astype(np.uint8))
        return grey.resize(self.image.size, Image.Resampling.NEAREST)

    def _paste(self, image: Image.Image) -> None:
        self.image.paste(image, (0, 0))

    def glass(self, points: Points, tint: Colour, corner: float = 0.05, frame: Colour | None = None) -> None:
        """A window: dark above, bright below, with a slanted reflection; `frame` draws a seal around it."""
        outline = rounded(points, corner) if corner else list(points)
        if frame is not None:
            self.line([*outline, outline[0], outline[1]], frame, 0.035)
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon(self._px(outline), fill=255)
        box = mask.getbbox()
        if box is None:
            return
        left, top, right, bottom = box
        rise = np.linspace(0.0, 1.0, bottom - top, dtype=np.float32)
        ramp = (0.42 + 0.55 * rise**1.5)[:, None, None] * np.array(tint, dtype=np.float32)
        pane = Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8)).resize((right - left, bottom - top))
        # A slanted band of sky, repeated every 1.1 m: each row is the same line, moved along.
        line = np.arange(right - left + bottom - top, dtype=np.float32) / (0.9 * self._scale)
        streak = np.round(76.0 * np.exp(-((((line + 0.2) % 1.1) - 0.55) ** 2) / 0.016)).astype(np.uint8)
        rows = (0.6 * np.arange(bottom - top)).astype(np.int64)[:, None]
        band = Image.fromarray(streak[rows + np.arange(right - left)[None, :]])
        pane.paste(tuple(min(255, value + 90) for value in tint), (0, 0), band)
        self.image.paste(pane, (left, top), mask.crop(box))

    def finished(self) -> Image.Image:
        return self.image.reduce(SUPERSAMPLE)


@dataclass(frozen=True)
class _Slot:
    board: Board
    left: int
    top: int


class Sheet:
    """The boards of one material and the texture that they make."""

    def __init__(
        self, bounds: dict[str, tuple[tuple[float, float], tuple[float, float]]], width: int
    ) -> None:
        """bounds: view name -> (low, high) in metres. width: of the texture, texels; its height follows."""
        self.width = width
        scale = self._fit(bounds)
        self.boards = {view: Board(low, high, scale) for view, (low, high) in bounds.items()}
        self._slots = self._place()
        self.height = max(slot.top + slot.board.height for slot in self._slots.values()) + GUTTER

    def _fit(self, bounds: dict[str, tuple[tuple[float, float], tuple[float, float]]]) -> float:
        """The largest texels per metre with which the rows (side; top; front beside rear) fit the width."""
        wide = [high[0] - low[0] for view, (low, high) in bounds.items() if view in ("side", "top")]
        ends = [high[0] - low[0] for view, (low, high) in bounds.items() if view in ("front", "rear")]
        return (self.width - 3 * GUTTER - 2) / max([*wide, sum(ends)])

    def _place(self) -> dict[str, _Slot]:
        slots, top = {}, GUTTER
        for view in ("side", "top"):
            if view in self.boards:
                slots[view] = _Slot(self.boards[view], GUTTER, top)
                top += self.boards[view].height + GUTTER
        left = GUTTER
        for view in ("front", "rear"):
            if view in self.boards:
                slots[view] = _Slot(self.boards[view], left, top)
                left += self.boards[view].width + GUTTER
        return slots

    def texture(self) -> np.ndarray:
        """HW3 uint8, the boards with their edges repeated into the gutters."""
        texture_HW3 = np.zeros((self.height, self.width, 3), dtype=np.uint8)
        for slot in self._slots.values():
            picture = np.pad(
                np.asarray(slot.board.finished()), ((GUTTER,) * 2, (GUTTER,) * 2, (0, 0)), mode="edge"
            )
            top, left = slot.top - GUTTER, slot.left - GUTTER
            height, width = min(picture.shape[0], self.height - top), min(picture.shape[1], self.width - left)
            texture_HW3[top : top + height, left : left + width] = picture[:height, :width]
        return texture_HW3

    def project(self, surface: Surface) -> tuple[Surface, np.ndarray]:
        """Splits the surface by which board its faces look at. Returns it with its uvs V2."""
        normal_F3 = face_normals(surface)
        facing = {
            "side": np.abs(normal_F3[:, 0]),
            "top": np.abs(normal_F3[:, 1]),
            "front": normal_F3[:, 2],
            "rear": -normal_F3[:, 2],
        }
        views = list(self._slots)
        chosen_F = np.argmax(np.stack([facing[view] for view in views]), axis=0)
        vertices, faces, uvs, first = [], [], [], 0
        for index, view in enumerate(views):
            if not (chosen_F == index).any():
                continue
            piece = part_of(surface, chosen_F == index)
            vertices.append(piece.vertices_V3)
            faces.append(piece.faces_F3 + first)
            uvs.append(self._uvs(view, piece.vertices_V3))
            first += len(piece.vertices_V3)
        return Surface(np.concatenate(vertices), np.concatenate(faces)), np.concatenate(uvs)

    def _uvs(self, view: str, vertices_V3: np.ndarray) -> np.ndarray:
        slot, (across, up) = self._slots[view], VIEWS[view]
        board = slot.board
        x_V = slot.left + np.clip(
            (vertices_V3[:, across] - board.low[0]) * board.texels_per_m, 0.5, board.width - 0.5
        )
        y_V = slot.top + np.clip(
            (board.high[1] - vertices_V3[:, up]) * board.texels_per_m, 0.5, board.height - 0.5
        )
        return np.stack([x_V / self.width, 1.0 - y_V / self.height], axis=-1)


# A 3 x 5 face for plates and signs, row by row from the top.
GLYPHS = {
    "A": "010101111101101", "B": "110101110101110", "D": "110101101101110", "E": "111100110100111",
    "G": "011100101101011", "H": "101101111101101", "I": "111010010010111", "K": "101101110101101",
    "L": "100100100100111", "P": "110101110100100", "R": "110101110101101", "T": "111010010010010",
    "V": "101101101101010", "X": "101101010101101", "Z": "111001010100111", "C": "011100100100011",
    "0": "111101101101111", "1": "010110010010111", "2": "111001111100111", "3": "111001111001111",
    "4": "101101111001001", "5": "111100111001111", "6": "111100111101111", "7": "111001001010010",
    "8": "111101111101111", "9": "111101111001111", " ": "000000000000000", "U": "101101101101111",
    "S": "011100010001110", "O": "010101101101010", "N": "110101101101101",
}  # fmt: skip


def lettering(text: str, ink: Colour, ground: Colour, cell: int) -> np.ndarray:
    """`text` as an HW3 picture; `cell` texels per dot, one dot of margin."""
    dots = np.zeros((7, 4 * len(text) + 1), dtype=bool)
    for index, letter in enumerate(text):
        glyph = np.array([dot == "1" for dot in GLYPHS[letter]]).reshape(5, 3)
        dots[1:6, 1 + 4 * index : 4 + 4 * index] = glyph
    picture = np.where(dots[..., None], np.array(ink, np.uint8), np.array(ground, np.uint8))
    return np.repeat(np.repeat(picture, cell, axis=0), cell, axis=1).astype(np.uint8)
