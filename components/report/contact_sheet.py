"""`contact_sheet.png`: labelled bands of pictures on white.

Shape legend: H W pixels
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from components.report.bands import Band
from components.report.inputs import SHOWN

CELL, GAP, MARGIN = 272, 16, 104
WIDTH = 2 * MARGIN + SHOWN * CELL + (SHOWN - 1) * GAP
INK, GREY, RULE = (24, 27, 31), (104, 110, 118), (222, 225, 229)
# White that stays above and below the tallest picture of a row.
PADDING = 14
FOOTER_SIZE = 25


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as bundled with matplotlib: the same letters on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def contact_sheet(title: str, subtitle: str, bands: list[Band], footer: str) -> np.ndarray:
    """Lays out the bands; uint8 HW3. Pictures have CELL^2 pixels; `footer` may be empty."""
    canvas = Image.new("RGB", (WIDTH, _height(bands, footer)), "white")
    draw = ImageDraw.Draw(canvas)
    y = MARGIN
    draw.text((MARGIN, y), _fit(title, 52, True, WIDTH - 2 * MARGIN), INK, _font(52, True), anchor="lt")
    y += 76
    draw.text((MARGIN, y), _fit(subtitle, 30, False, WIDTH - 2 * MARGIN), GREY, _font(30), anchor="lt")
    y += 72
    for band in bands:
        draw.line((MARGIN, y, WIDTH - MARGIN, y), RULE, 2)
        y += 34
        draw.text((MARGIN, y + 32), band.title, INK, _font(36, True), anchor="ls")
        start = MARGIN + draw.textlength(band.title, _font(36, True)) + 28
        note = _fit(band.note, 27, False, WIDTH - MARGIN - start)
        draw.text((start, y + 32), note, GREY, _font(27), anchor="ls")
        y += 56
        for row in band.rows:
            top, bottom = _used_rows(row)
            for column, picture in enumerate(row):
                canvas.paste(Image.fromarray(picture[top:bottom]), (_left(column), y))
            y += bottom - top + GAP
        for column, caption in enumerate(band.captions):
            text = _fit(caption, 24, False, CELL)
            draw.text((_left(column) + CELL // 2, y), text, GREY, _font(24), anchor="mt")
        y += 70
    if footer:
        draw.line((MARGIN, y, WIDTH - MARGIN, y), RULE, 2)
        y += 30
        for line in _wrap(footer, FOOTER_SIZE, WIDTH - 2 * MARGIN):
            draw.text((MARGIN, y), line, GREY, _font(FOOTER_SIZE), anchor="lt")
            y += 34
    return np.asarray(canvas)


def _height(bands: list[Band], footer: str) -> int:
    height = MARGIN + 76 + 72
    for band in bands:
        height += 34 + 56 + 70
        for row in band.rows:
            top, bottom = _used_rows(row)
            height += bottom - top + GAP
    if footer:
        height += 30 + 34 * len(_wrap(footer, FOOTER_SIZE, WIDTH - 2 * MARGIN))
    return height + MARGIN - 40


def _left(column: int) -> int:
    return MARGIN + column * (CELL + GAP)


def _used_rows(row: list[np.ndarray]) -> tuple[int, int]:
    """The pixel rows [top, bottom) in which any picture of the row shows something, and some padding."""
    used = np.flatnonzero(np.any([(picture < 250).any(axis=(1, 2)) for picture in row], axis=0))
    if not len(used):
        return 0, CELL
    return max(0, int(used[0]) - PADDING), min(CELL, int(used[-1]) + 1 + PADDING)


def _fit(text: str, size: int, bold: bool, width: float) -> str:
    """`text`, shortened with an ellipsis to `width` pixels."""
    font = _font(size, bold)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _wrap(text: str, size: int, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _font(size).getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_fit(line, size, False, width) for line in lines]
