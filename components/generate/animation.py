"""Pictures one after the other, as an animated WebP that any browser shows.

Shape legend: H W pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from get3d_model.files import atomic_path

FRAME_MS = 160
END_MS = 700
QUALITY = 90


def save_animation(frames: Sequence[np.ndarray], path: Path) -> None:
    """Writes uint8 HW3 frames there and back, for ever, resting at both ends; atomically."""
    pictures = [Image.fromarray(frame) for frame in frames]
    there_and_back = [*pictures, *pictures[-2:0:-1]]
    durations = [FRAME_MS] * len(there_and_back)
    durations[0] = durations[len(pictures) - 1] = END_MS
    with atomic_path(path) as temporary:
        there_and_back[0].save(
            temporary,
            format="WEBP",
            save_all=True,
            append_images=there_and_back[1:],
            duration=durations,
            loop=0,
            quality=QUALITY,
        )
