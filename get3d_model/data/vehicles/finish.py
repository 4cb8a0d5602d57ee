"""Painting the boards of a design: livery first, then light and shadow, then windows, gaps and grilles."""

from __future__ import annotations

import numpy as np

from get3d_model.data.vehicles.designs import Design
from get3d_model.data.vehicles.livery import Scheme
from get3d_model.data.vehicles.paint import Board, Colour, Sheet, mix, shade

GAP: Colour = (34, 35, 38)


def paint_sheet(sheet: Sheet, design: Design, scheme: Scheme, dirt: float) -> None:
    """Paints every board of a sheet. dirt: 0 clean to 1."""
    boards = sheet.boards
    for board in boards.values():
        board.fill(scheme.body)
    scheme.paint(boards)
    for view, board in boards.items():
        board.multiply(_light(design, view, board))
        if dirt > 0.0 and view != "top":
            _spatter(design, board, dirt)
    _side(boards["side"], design, scheme)
    for view in ("front", "rear"):
        _end(boards[view], design, scheme, view)
    if "top" in boards:
        _top(boards["top"], design, scheme)


def _light(design: Design, view: str, board: Board) -> np.ndarray:
    """Soft sky light: dark at the sill, a bright line on the shoulder; a sheen along the top."""
    _, up = board.grid()
    if view == "top":
        sheen = 1.02 + 0.07 * np.exp(-(((np.abs(up) - 0.45) / 0.16) ** 2))
        return sheen
    low, shoulder = design.hull.sill, min(float(design.hull.height(0.0)), design.hull.sill + 1.0) - 0.13
    share = np.clip((up - low) / (shoulder - low), -0.2, 1.0)
    light = 0.76 + 0.24 * np.clip(share, 0.0, 1.0) ** 0.7
    light = light + 0.13 * np.exp(-(((up - shoulder) / 0.045) ** 2))
    light = light - 0.09 * np.exp(-(((up - shoulder + 0.14) / 0.05) ** 2))
    return light


def _spatter(design: Design, board: Board, dirt: float) -> None:
    across, up = board.grid()
    wave = 0.05 * np.sin(across * 5.1) + 0.04 * np.sin(across * 11.7 + 1.0) + 0.03 * np.sin(across * 23.0)
    opacity = dirt * 0.8 / (1.0 + np.exp((up - design.hull.sill - 0.16 - wave) / 0.045))
    board.blend((128, 104, 74), opacity)


def _side(board: Board, design: Design, scheme: Scheme) -> None:
    hull = design.hull
    gap = shade(scheme.body, 0.45)
    for axle in hull.axles:
        board.disc(
            (axle, hull.wheel_radius), hull.arch_radius + 0.05, shade(mix(scheme.body, GAP, 0.55), 0.9)
        )
        board.disc((axle, hull.wheel_radius), hull.arch_radius + 0.012, (24, 24, 26))
    front, rear = max(hull.axles) - hull.arch_radius, min(hull.axles) + hull.arch_radius
    board.rectangle((rear, hull.sill - 0.1), (front, hull.sill + 0.055), (40, 41, 44))
    for line in design.panel_lines:
        board.line(line, gap, 0.016)
    for z, y in design.handles:
        board.rectangle((z - 0.085, y - 0.03), (z + 0.085, y + 0.022), shade(scheme.body, 0.6), 0.015)
        board.rectangle((z - 0.075, y - 0.01), (z + 0.075, y + 0.02), (198, 202, 206), 0.012)
    for window in design.windows["side"]:
        board.glass(window, scheme.glass, 0.07, GAP)
    flap = (min(hull.axles) + 0.05, float(hull.height(min(hull.axles))) - 0.12)
    if design.cabin is not None and flap[1] - 0.08 > hull.wheel_radius + hull.arch_radius:
        board.disc(flap, 0.07, gap)
        board.disc(flap, 0.056, shade(scheme.body, 0.94))


def _end(board: Board, design: Design, scheme: Scheme, view: str) -> None:
    hull = design.hull
    half = hull.width / 2.0
    board.rectangle((-half - 0.1, 0.0), (half + 0.1, hull.sill + 0.05), (40, 41, 44))
    for window in design.windows[view]:
        board.glass(window, scheme.glass, 0.08, GAP)
    wide, low, high = design.grille
    if view == "front":
        board.rectangle((-wide - 0.03, low - 0.03), (wide + 0.03, high + 0.03), (188, 192, 198), 0.05)
        board.rectangle((-wide, low), (wide, high), (26, 27, 30), 0.04)
        scheme.grille(board, design.grille)
        board.disc((0.0, 0.5 * (low + high)), 0.055, (226, 228, 232))
        board.disc((0.0, 0.5 * (low + high)), 0.036, shade(scheme.second, 0.8))
        board.rectangle((-0.7 * half, hull.sill + 0.03), (0.7 * half, hull.sill + 0.13), (26, 27, 30), 0.03)
        for window in design.windows["front"]:
            (x, y), width = window[0], window[1][0] - window[0][0]
            for start in (0.12, 0.52):
                foot = (x + start * width, y + 0.01)
                board.line([foot, (foot[0] + 0.36 * width, y + 0.10)], (18, 18, 20), 0.022)
        return
    gap = shade(scheme.body, 0.45)
    boot_low, boot_high = design.tail.y - 0.16, float(hull.height(-hull.length / 2.0)) - 0.03
    board.line(
        [
            (-0.62 * half, boot_high),
            (-0.62 * half, boot_low),
            (0.62 * half, boot_low),
            (0.62 * half, boot_high),
        ],
        gap,
        0.016,
    )
    if not design.windows["rear"] or len(design.windows["rear"]) == 2:
        board.line([(0.0, hull.sill + 0.2), (0.0, boot_high)], gap, 0.016)
    board.rectangle((-0.16, design.tail.y - 0.02), (0.16, design.tail.y + 0.02), (198, 202, 206), 0.015)


def _top(board: Board, design: Design, scheme: Scheme) -> None:
    """Bonnet and boot gaps, and for vans the ribs of the roof."""
    hull, gap = design.hull, (40, 42, 46)
    half = hull.length / 2.0
    if design.cabin is not None or hull.tub is not None:
        cowl = design.cabin.front_belt if design.cabin else max(hull.tub.front + 0.5, 0.4)
        reach = 0.36 * hull.width
        board.line(
            [
                (cowl + 0.02, -reach - 0.04),
                (half - 0.16, -reach),
                (half - 0.16, reach),
                (cowl + 0.02, reach + 0.04),
            ],
            gap,
            0.014,
        )
        for sign in (-1, 1):
            board.line(
                [(cowl + 0.1, sign * 0.2), (half - 0.25, sign * 0.13)], shade((150, 152, 156), 0.6), 0.010
            )
        return
    for z in np.arange(-half + 0.4, half - 1.4, 0.55):
        board.line([(z, -0.36 * hull.width), (z, 0.36 * hull.width)], mix(scheme.body, GAP, 0.4), 0.03)
