"""The box of a truck with its own painted sheet. Lengths in metres."""

from __future__ import annotations

import numpy as np

from get3d_model.data.vehicles.assembly import STEEL, Assembly
from get3d_model.data.vehicles.designs import CargoBox
from get3d_model.data.vehicles.geometry import bevelled_box
from get3d_model.data.vehicles.livery import PALETTE
from get3d_model.data.vehicles.paint import Board, Colour, Sheet, mix, shade

CARGO_TEXELS = 384


def add_cargo_box(assembly: Assembly, cargo: CargoBox) -> None:
    """A bevelled box on rails; sides with a painted motif, a roller door behind."""
    random = assembly.random
    length, height = cargo.front - cargo.rear, cargo.roof - cargo.floor
    box = bevelled_box((cargo.width, height, length), 0.05).moved(
        0.0, 0.5 * (cargo.floor + cargo.roof), 0.5 * (cargo.rear + cargo.front)
    )
    half = cargo.width / 2.0 + 0.01
    ends = ((-half, cargo.floor), (half, cargo.roof))
    sheet = Sheet(
        {
            "side": ((cargo.rear, cargo.floor), (cargo.front, cargo.roof)),
            "top": ((cargo.rear, -half), (cargo.front, half)),
            "front": ends,
            "rear": ends,
        },
        CARGO_TEXELS,
    )
    ground = (
        PALETTE[str(random.choice(["white", "cream", "silver"]))]
        if random.random() < 0.5
        else assembly.scheme.second
    )
    ink = assembly.scheme.body
    if np.abs(np.array(ground) - ink).sum() < 120:
        ink = PALETTE["blue"]
    for board in sheet.boards.values():
        board.fill(ground)
    _motif(sheet.boards["side"], cargo, ink, random)
    _roller_door(sheet.boards["rear"], cargo, ground)
    for view in ("side", "front", "rear"):
        board = sheet.boards[view]
        _, up = board.grid()
        share = (up - cargo.floor) / height
        board.multiply(0.84 + 0.18 * share)
        for level in (cargo.floor + 0.04, cargo.roof - 0.03):
            board.line([(-9, level), (9, level)], (150, 154, 160), 0.06)
        for edge in (board.low[0] + 0.02, board.high[0] - 0.02):
            board.line([(edge, 0), (edge, 9)], (150, 154, 160), 0.05)
    top = sheet.boards["top"]
    for z in np.arange(cargo.rear + 0.4, cargo.front - 0.1, 0.5):
        top.line([(z, -half), (z, half)], shade(ground, 0.82), 0.025)
    assembly.sheets["cargo"] = sheet
    assembly.add("cargo", *sheet.project(box))
    rails = bevelled_box((0.9, 0.16, length), 0.03).moved(
        0.0, cargo.floor - 0.06, 0.5 * (cargo.rear + cargo.front)
    )
    assembly.trim(rails, STEEL)


def _motif(board: Board, cargo: CargoBox, ink: Colour, random: np.random.Generator) -> None:
    """A wave, a disc, slanted bars or a mountain line on the side."""
    length, height = cargo.front - cargo.rear, cargo.roof - cargo.floor
    middle, level = 0.5 * (cargo.front + cargo.rear), 0.5 * (cargo.roof + cargo.floor)
    light = mix(ink, (255, 255, 255), 0.5)

    def wave() -> None:
        z = np.linspace(cargo.rear - 0.1, cargo.front + 0.1, 40)
        for offset, colour in ((0.20, light), (0.0, ink)):
            y = level - 0.1 + offset + 0.16 * height * np.sin((z - cargo.rear) / length * 5.0)
            board.polygon(
                [*zip(z, y, strict=True), (cargo.front + 0.1, 0.0), (cargo.rear - 0.1, 0.0)], colour
            )

    def disc() -> None:
        board.rectangle((-9, level - 0.1 * height), (9, level + 0.1 * height), ink)
        for share, colour in ((0.36, ink), (0.31, (250, 250, 246)), (0.24, light), (0.12, ink)):
            board.disc((middle, level), share * height, colour)

    def bars() -> None:
        for index, colour in enumerate((ink, light, ink)):
            z = cargo.rear + (0.18 + 0.24 * index) * length
            board.polygon(
                [(z, 0), (z + 0.15 * length, 0), (z + 0.45 * length, 9 * 0.4), (z + 0.30 * length, 9 * 0.4)],
                colour,
            )

    def peaks() -> None:
        steps = np.linspace(cargo.rear, cargo.front, 7)
        tops = cargo.floor + height * np.array([0.2, 0.7, 0.35, 0.85, 0.4, 0.6, 0.25])
        board.polygon([(cargo.rear, 0.0), *zip(steps, tops, strict=True), (cargo.front, 0.0)], ink)
        board.polygon(
            [(cargo.rear, 0.0), *zip(steps, tops - 0.28 * height, strict=True), (cargo.front, 0.0)], light
        )

    (wave, disc, bars, peaks)[int(random.integers(4))]()


def _roller_door(board: Board, cargo: CargoBox, ground: Colour) -> None:
    half = cargo.width / 2.0 - 0.14
    board.rectangle((-half, cargo.floor + 0.08), (half, cargo.roof - 0.16), shade(ground, 0.72))
    for y in np.arange(cargo.floor + 0.12, cargo.roof - 0.18, 0.14):
        board.line([(-half, y), (half, y)], shade(ground, 0.56), 0.022)
    board.rectangle((-0.16, cargo.floor + 0.18), (0.16, cargo.floor + 0.26), (60, 62, 66), 0.02)
