"""Colours and what is painted on a body: liveries, panel gaps, windows, grille.

A livery is made once per vehicle and then applied to the boards of every sheet, so that colours run on from
paint to window frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from get3d_model.data.vehicles.designs import Design
from get3d_model.data.vehicles.paint import Board, Colour, mix, shade

PALETTE: dict[str, Colour] = {
    "red": (206, 32, 38),
    "orange": (238, 112, 28),
    "yellow": (246, 196, 24),
    "lime": (146, 200, 48),
    "green": (28, 132, 72),
    "teal": (18, 150, 152),
    "sky": (84, 172, 226),
    "blue": (26, 84, 196),
    "navy": (30, 42, 100),
    "purple": (112, 56, 164),
    "magenta": (206, 44, 122),
    "pink": (242, 156, 184),
    "white": (240, 240, 236),
    "silver": (172, 178, 186),
    "charcoal": (64, 67, 74),
    "cream": (238, 224, 190),
    "brown": (124, 78, 48),
    "mint": (160, 222, 190),
}
COLOUR_STEP = 7  # shares no factor with the number of colours
Painter = Callable[[dict[str, Board]], None]


@dataclass(frozen=True)
class Scheme:
    """The colours of one vehicle and what is painted on it."""

    body: Colour
    second: Colour
    glass: Colour
    paint: Painter
    grille: Callable[[Board, tuple[float, float, float]], None]
    beacon: bool = False
    taxi: bool = False


def _plain(design: Design, second: Colour, random: np.random.Generator) -> Painter:
    return lambda boards: None


def _two_tone(design: Design, second: Colour, random: np.random.Generator) -> Painter:
    """The lower half in the second colour, with a thin line between."""
    hull = design.hull
    level = hull.sill + float(random.uniform(0.35, 0.6)) * (float(hull.height(0.0)) - hull.sill)
    level = min(level, design.head.y + 0.1)

    def paint(boards: dict[str, Board]) -> None:
        for view in ("side", "front", "rear"):
            board = boards[view]
            board.rectangle((board.low[0], board.low[1] - 1), (board.high[0], level), second)
            board.line([(board.low[0], level), (board.high[0], level)], shade(second, 0.6), 0.02)

    return paint


def _contrast_roof(design: Design, second: Colour, random: np.random.Generator) -> Painter:
    """Everything above the belt in the second colour."""
    belt = design.cabin.belt if design.cabin else design.glass_from
    rear, front = (design.cabin.rear_belt, design.cabin.front_belt) if design.cabin else (-9.0, 9.0)

    def paint(boards: dict[str, Board]) -> None:
        for view in ("side", "front", "rear"):
            board = boards[view]
            board.rectangle((board.low[0], belt), (board.high[0], board.high[1] + 1), second)
        if "top" in boards:
            boards["top"].rectangle((rear + 0.02, -3), (front - 0.02, 3), second)

    return paint


def _racing_stripes(design: Design, second: Colour, random: np.random.Generator) -> Painter:
    """Two bands along the middle and a thin one above the sill."""
    near, far = 0.06, float(random.uniform(0.2, 0.34))

    def paint(boards: dict[str, Board]) -> None:
        for view in ("top", "front", "rear"):
            for sign in (-1, 1):
                edges = sorted((sign * near, sign * far))
                if view == "top" and view in boards:
                    boards[view].rectangle((-9, edges[0]), (9, edges[1]), second)
                elif view in boards:
                    boards[view].rectangle((edges[0], -1), (edges[1], 9), second)
        sill = design.hull.sill
        boards["side"].rectangle((-9, sill + 0.06), (9, sill + 0.16), second)

    return paint


def _swoosh(design: Design, second: Colour, random: np.random.Generator) -> Painter:
    """A wedge that rises to the rear, with a thinner one above it."""
    half, sill = design.hull.length / 2.0, design.hull.sill
    top = float(design.hull.height(0.0))
    tall = min(top, sill + 1.1) - sill
    kick = float(random.uniform(-0.3, 0.3)) * half

    def paint(boards: dict[str, Board]) -> None:
        side = boards["side"]
        side.polygon(
            [
                (half, sill),
                (kick, sill),
                (-half, sill + 0.75 * tall),
                (-half, top + 2),
                (kick - 0.3, sill + 0.35 * tall),
            ],
            second,
        )
        line = mix(second, (255, 255, 255), 0.4)
        side.line(
            [(half, sill + 0.12 * tall), (kick - 0.1, sill + 0.50 * tall), (-half, sill + 1.25 * tall)],
            line,
            0.04,
        )
        boards["rear"].rectangle((-9, sill + 0.6 * tall), (9, 9), second)

    return paint


def _bands(design: Design, second: Colour, random: np.random.Generator) -> Painter:
    """Level stripes all around."""
    sill, top = design.hull.sill, float(design.hull.height(0.0))
    reach = min(top, sill + 0.9) - sill
    levels = [sill + share * reach for share in (random.uniform(0.42, 0.5), random.uniform(0.66, 0.74))]
    widths = random.uniform(0.05, 0.13, 2)
    light = mix(second, (255, 255, 255), 0.55)

    def paint(boards: dict[str, Board]) -> None:
        for view in ("side", "front", "rear"):
            for level, width, colour in zip(levels, widths, (second, light), strict=True):
                boards[view].rectangle((-9, level - width / 2), (9, level + width / 2), colour)

    return paint


def _fade(design: Design, second: Colour, random: np.random.Generator) -> Painter:
    """One colour turns into the other from front to rear."""
    half, softness = design.hull.length / 2.0, float(random.uniform(0.25, 0.6))
    middle = float(random.uniform(-0.3, 0.2)) * half

    def paint(boards: dict[str, Board]) -> None:
        for view in ("side", "top"):
            if view in boards:
                along, _ = boards[view].grid()
                share = 1.0 / (1.0 + np.exp((along - middle) / (softness * 0.6)))
                boards[view].blend(second, share)
        boards["rear"].fill(second)

    return paint


def _checks(design: Design, second: Colour, random: np.random.Generator) -> Painter:
    """Two rows of squares below the windows."""
    size = 0.085
    level = min(float(design.hull.height(0.0)), design.hull.sill + 0.95) - 0.34

    def paint(boards: dict[str, Board]) -> None:
        for view in ("side", "rear"):
            board = boards[view]
            start = int(np.floor(board.low[0] / size)) - 1
            board.rectangle((-9, level - 0.02), (9, level + 2 * size + 0.02), (245, 245, 240))
            for column in range(start, -start + 1):
                row = column % 2
                low = (column * size, level + row * size)
                board.rectangle(low, (low[0] + size, low[1] + size), second)

    return paint


def _squares(design: Design, second: Colour, random: np.random.Generator) -> Painter:
    """Large blocks in two rows, as emergency vehicles wear."""
    sill, top = design.hull.sill, min(float(design.hull.height(0.0)), design.hull.sill + 1.15)
    third = (250, 214, 30)
    tall = (top - sill) * 0.30
    base = sill + (top - sill) * 0.22

    def paint(boards: dict[str, Board]) -> None:
        side = boards["side"]
        for column in range(-12, 12):
            for row in range(2):
                colour = second if (column + row) % 2 else third
                low = (column * tall * 1.5, base + row * tall)
                side.rectangle(low, (low[0] + tall * 1.5, low[1] + tall), colour)
        for step in range(-8, 9):
            x = step * 0.24
            boards["rear"].polygon(
                [(x, 0), (x + 0.12, 0), (0.12 + x + np.sign(x + 0.06), 1), (x + np.sign(x + 0.06), 1)], second
            )

    return paint


def _panels(design: Design, second: Colour, random: np.random.Generator) -> Painter:
    """Doors, bonnet and boot in the second colour."""
    edges = sorted({point[0] for line in design.panel_lines for point in line})
    low = design.hull.sill

    def paint(boards: dict[str, Board]) -> None:
        boards["side"].rectangle((edges[0], low), (edges[-1], 9), second)
        if "top" in boards and design.cabin is not None:
            boards["top"].rectangle((edges[-1] + 0.15, -0.62), (9, 0.62), second, 0.1)

    return paint


def _splashes(design: Design, second: Colour, random: np.random.Generator) -> Painter:
    """Round patches of two sizes all over."""
    half = design.hull.length / 2.0
    spots = [
        (random.uniform(-half, half), random.uniform(-1.2, 2.6), random.uniform(0.10, 0.24))
        for _ in range(34)
    ]

    def paint(boards: dict[str, Board]) -> None:
        for board in boards.values():
            for x, y, radius in spots:
                board.disc((x, y), radius, second)

    return paint


def _roundel(design: Design, second: Colour, random: np.random.Generator) -> Painter:
    """A white disc with a ring on the doors and on the bonnet, and a stripe through."""
    edges = sorted({point[0] for line in design.panel_lines for point in line})
    centre = 0.5 * (edges[0] + edges[-1]) if len(edges) > 1 else 0.0
    level = 0.5 * (design.hull.sill + min(float(design.hull.height(centre)), design.hull.sill + 1.0)) + 0.03
    radius = 0.24

    def paint(boards: dict[str, Board]) -> None:
        boards["side"].rectangle((-9, level - 0.07), (9, level + 0.07), second)
        places = [("side", (centre, level))]
        if "top" in boards:
            boards["top"].rectangle((-9, -0.12), (9, 0.12), second)
            places.append(("top", (design.hull.length / 2.0 - 0.75, 0.0)))
        for view, at in places:
            boards[view].disc(at, radius, (250, 250, 248))
            boards[view].disc(at, radius * 0.86, shade(second, 0.55))
            boards[view].disc(at, radius * 0.74, (250, 250, 248))
            boards[view].polygon(
                [
                    (at[0] + radius * 0.6 * np.sin(k * 2.5133), at[1] + radius * 0.6 * np.cos(k * 2.5133))
                    for k in range(5)
                ],
                shade(second, 0.7),
            )

    return paint


def _bar_grille(board: Board, grille: tuple[float, float, float]) -> None:
    wide, low, high = grille
    for step in np.arange(low + 0.03, high - 0.01, 0.045):
        board.line([(-wide + 0.02, step), (wide - 0.02, step)], (104, 108, 114), 0.012)


def _slat_grille(board: Board, grille: tuple[float, float, float]) -> None:
    wide, low, high = grille
    for step in np.arange(-wide + 0.05, wide - 0.02, 0.075):
        board.line([(step, low + 0.01), (step, high - 0.01)], (176, 180, 186), 0.026)


def _mesh_grille(board: Board, grille: tuple[float, float, float]) -> None:
    wide, low, high = grille
    for step in np.arange(-wide - 0.2, wide + 0.2, 0.055):
        for lean in (-0.1, 0.1):
            ends = [(np.clip(step + s * lean, -wide, wide), y) for s, y in ((-1, low), (1, high))]
            board.line(ends, (88, 92, 98), 0.010)


def _split_grille(board: Board, grille: tuple[float, float, float]) -> None:
    wide, low, high = grille
    board.rectangle((-0.06, low - 0.01), (0.06, high + 0.01), (188, 192, 198))
    for sign in (-1, 1):
        for step in np.arange(0.09, wide - 0.02, 0.05):
            board.line([(sign * step, low + 0.01), (sign * step, high - 0.01)], (120, 124, 130), 0.012)


GRILLES = (_bar_grille, _slat_grille, _mesh_grille, _split_grille)
LIVERIES = {
    "plain": (_plain, 0.26),
    "two_tone": (_two_tone, 0.12),
    "contrast_roof": (_contrast_roof, 0.14),
    "racing_stripes": (_racing_stripes, 0.09),
    "swoosh": (_swoosh, 0.08),
    "bands": (_bands, 0.08),
    "fade": (_fade, 0.05),
    "panels": (_panels, 0.06),
    "splashes": (_splashes, 0.04),
    "roundel": (_roundel, 0.08),
}
GLASS_TINTS: list[Colour] = [(88, 116, 138), (70, 84, 98), (96, 138, 150), (112, 112, 118)]


def choose_scheme(design: Design, turn: int, random: np.random.Generator) -> Scheme:
    """Colours and livery of one vehicle; a few are taxis and emergency vehicles.

    turn: successive turns step through the whole palette, so that even few vehicles have all its colours.
    """
    colours = list(PALETTE.values())
    first = turn * COLOUR_STEP % len(colours)
    body, second = colours[first], colours[(first + int(random.integers(1, len(colours)))) % len(colours)]
    glass = GLASS_TINTS[int(random.integers(len(GLASS_TINTS)))]
    closed_car = design.cabin is not None and design.cargo is None
    special = random.random()
    grille = GRILLES[int(random.integers(len(GRILLES)))]
    if closed_car and design.kind in ("saloon", "estate", "hatchback", "suv") and special < 0.06:
        return Scheme(
            PALETTE["yellow"], (30, 30, 32), glass, _checks(design, (30, 30, 32), random), grille, taxi=True
        )
    if design.kind in ("saloon", "estate", "suv", "van") and special > 0.90:
        return Scheme(
            PALETTE["white"],
            PALETTE["blue"],
            glass,
            _squares(design, PALETTE["blue"], random),
            grille,
            beacon=True,
        )
    makers = [maker for maker, _ in LIVERIES.values()]
    weights = np.array([weight for _, weight in LIVERIES.values()])
    maker = makers[int(random.choice(len(makers), p=weights / weights.sum()))]
    if np.abs(np.array(body) - second).sum() < 150:
        second = PALETTE["white"] if sum(body) < 420 else PALETTE["charcoal"]
    return Scheme(body, second, glass, maker(design, second, random), grille)
