"""How a params file becomes the options of `get3d render`, as in dvc.yaml."""

from __future__ import annotations

from pathlib import Path

from get3d_model.config import load_config


def options(params: Path) -> list[str]:
    """The options that decide the pictures. Raises InputError."""
    render = load_config(params).render
    pairs = {
        "--backend": render.backend,
        "--engine": render.engine,
        "--samples": render.samples,
        "--light": render.light,
        "--views": render.views,
        "--resolution": render.resolution,
        "--supersample": render.supersample,
        "--scale": render.scale,
        "--seed": render.seed,
        "--val-fraction": render.val_fraction,
        "--cameras": params,
    }
    return [str(word) for pair in pairs.items() for word in pair]


def worker_options(workers: int) -> list[str]:
    """workers: 0 for one per processor."""
    return ["--workers", str(workers)] if workers else []


def part(folder: str, shard: str) -> Path:
    """Where part "I/N" of the data set in `folder` is."""
    # Here and not above, because it loads torch.
    from components.render.folder import part_folder
    from get3d_model.data.parts import Shard

    return part_folder(Path(folder), Shard.parse(shard))
