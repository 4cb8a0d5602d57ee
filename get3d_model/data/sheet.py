"""A sheet of pictures that shows at a glance what a data set holds.

Shape legend: H W image height and width, 4 RGBA channels
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from get3d_model.data.base import SampleSource
from get3d_model.data.dataset import read_pixels
from get3d_model.data.verify import open_any
from get3d_model.errors import InputError
from get3d_model.files import atomic_path

TEXT_HEIGHT, GAP = 14, 8
PAPER, INK, BACKGROUND = (255, 255, 255), (60, 60, 60), (232, 235, 239)


def write_sheet(
    path: Path,
    out: Path,
    *,
    shapes: int = 24,
    views: int = 4,
    size: int = 128,
    columns: int = 2,
    split: str | None = None,
) -> int:
    """Writes a PNG with the first `views` pictures of at most `shapes` shapes, evenly spread over the sorted ids.

    size: pixels of one picture. columns: shapes side by side. Over each row of pictures stands the shape's id, its class
    where there are several, and the rotation and elevation of its first view. Returns how many shapes are on it.
    Raises InputError for a folder that is no data set, an unknown split, and an image that cannot be decoded.
    """
    if Path(out).suffix.lower() != ".png":
        raise InputError(f"{out}: a sheet is written as .png; change the suffix")
    source = open_any(path)
    table = source.table
    numbers = np.arange(len(table.shape_ids))
    if split is not None:
        if split not in source.splits:
            raise InputError(f"{path} has no split {split!r} (it has: {', '.join(sorted(source.splits))})")
        wanted = set(source.splits[split])
        numbers = np.array([number for number in numbers if table.shape_ids[number] in wanted], np.int64)
    if not len(numbers):
        raise InputError(f"{path} has no shape to be shown")
    chosen = numbers[
        np.unique(np.linspace(0, len(numbers) - 1, min(shapes, len(numbers))).round().astype(int))
    ]
    columns = min(columns, len(chosen))
    cell_width, cell_height = views * size + GAP, size + TEXT_HEIGHT + GAP
    rows = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * cell_width + GAP, rows * cell_height + GAP), PAPER)
    for place, number in enumerate(chosen):
        left, top = GAP + place % columns * cell_width, GAP + place // columns * cell_height
        _draw_shape(sheet, source, int(number), (left, top), views, size)
    with atomic_path(out) as temporary:
        sheet.save(temporary)
    return len(chosen)


def _draw_shape(
    sheet: Image.Image, source: SampleSource, number: int, corner: tuple[int, int], views: int, size: int
) -> None:
    table, (left, top) = source.table, corner
    indices = np.flatnonzero(table.shape_N == number)[:views]
    label = f"  {table.labels[number]}" if len(set(table.labels)) > 1 else ""
    first = int(indices[0])
    camera = f"  {table.rotation_deg_N[first]:.0f}/{table.elevation_deg_N[first]:.0f} deg"
    font = ImageFont.load_default(size=TEXT_HEIGHT - 3)
    draw, text = ImageDraw.Draw(sheet), table.shape_ids[number]
    width = min(views, len(indices)) * size
    while text and draw.textlength(text + label + camera, font=font) > width:
        text = text[:-4] + "..." if len(text) > 4 else ""
    draw.text((left, top), text + label + camera, fill=INK, font=font)
    for place, index in enumerate(indices):
        picture = Image.fromarray(read_pixels(source, int(index)))
        # Premultiplied, so that the colour of transparent pixels does not show at the edges.
        small = picture.convert("RGBa").resize(
            (size, size), Image.Resampling.BOX if picture.width > size else 1
        )
        tile = Image.new("RGBA", (size, size), (*BACKGROUND, 255))
        tile.alpha_composite(small.convert("RGBA"))
        sheet.paste(tile.convert("RGB"), (left + place * size, top + TEXT_HEIGHT))
