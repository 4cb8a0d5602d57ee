"""What the merge step tells about a data set: figures and sample pictures."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PICTURES = 24
COLUMNS = 12
SIDE = 128


def is_whole(parts: Sequence[Path], folder: str | Path) -> bool:
    """Whether there is one part, which is the data set already: a single job renders no part of anything."""
    return [Path(part) for part in parts] == [Path(folder)]


def facts(folder: str | Path) -> dict[str, Any]:
    """Flat figures of a merged data set. Raises InputError."""
    from get3d_model.data.stats import dataset_stats

    stats = dataset_stats(Path(folder))
    values: dict[str, Any] = {
        "shapes": stats.shapes, "images": stats.images, "resolution": stats.resolution,
        "rejected": stats.rejected or 0, "tars": stats.shards or 0,
    }  # fmt: skip
    return values | {f"images_{split}": count for split, count in stats.splits.items()}


def sample_pictures(folder: str | Path) -> list[str]:
    """One picture as Markdown: views from all over the data set, on white."""
    import numpy as np
    from PIL import Image

    from components.artifacts import picture
    from get3d_model.data.shard_source import ShardSource
    from get3d_model.image_grid import save_image, tile

    source = ShardSource(Path(folder))
    chosen = np.linspace(0, source.manifest.samples - 1, min(PICTURES, source.manifest.samples)).astype(int)
    pictures = []
    for index in chosen:
        with Image.open(io.BytesIO(source.read_png(int(index)))) as image:
            white = Image.new("RGBA", image.size, "white")
            white.alpha_composite(image.convert("RGBA"))
            pictures.append(np.asarray(white.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "views.png"
        save_image(tile(np.stack(pictures), min(COLUMNS, len(pictures))), path)
        return [picture(path, COLUMNS * SIDE)]
