"""Image grids: the same latents and cameras at every tick, so that progress can be seen.

Shape legend: B images, H W image size
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from get3d_model.files import atomic_path


def tile(images_BHW3: np.ndarray, columns: int) -> np.ndarray:
    """Images row by row in one picture; missing ones at the end stay white."""
    count, height, width, _ = images_BHW3.shape
    rows = -(-count // columns)
    canvas = np.full((rows * columns, height, width, 3), 255, np.uint8)
    canvas[:count] = images_BHW3
    return (
        canvas.reshape(rows, columns, height, width, 3)
        .swapaxes(1, 2)
        .reshape(rows * height, columns * width, 3)
    )


def save_image(picture_HW3: np.ndarray, path: Path) -> None:
    """Writes a PNG atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture_HW3).save(temporary)
