"""Starting a run from the weights of another: fine-tuning, or going on from an imported checkpoint.

Optimizers and counters start afresh. `training.ema_rampup: null` keeps the moving average from forgetting the
weights it starts from within the first images.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from get3d_model.bundle import DISCRIMINATOR, EMA, GENERATOR, GRID_PREFIX, load_parts
from get3d_model.config import ModelConfig, config_from_dict
from get3d_model.errors import InputError
from get3d_model.generator import stored_grid
from get3d_model.inference import find_checkpoint
from get3d_model.isosurface.grid import TetrahedralGrid
from get3d_model.training.checkpoint import TrainedModules, list_checkpoints
from get3d_model.weights import load_module, load_tensors

# How the model is computed, not what it is.
FREE_FIELDS = ("num_half_precision_blocks", "activation_clamp")


def initialise_from(path: Path, modules: TrainedModules, config: ModelConfig) -> float:
    """Fills generator, moving average and discriminator from a checkpoint; returns the kimg it was trained for.

    path: anything `find_checkpoint` takes. Without G, the generator starts from G_ema too. Raises InputError when
    the file has no discriminator, or belongs to another model, naming the settings that differ.
    """
    file = find_checkpoint(path)
    parts, description = load_parts(file)
    _check_same_model(description, config, file)
    for part in (EMA, DISCRIMINATOR):
        if part not in parts:
            raise InputError(
                f"{file}: holds no {part}, so training cannot start from it; give a whole checkpoint"
            )
    load_module(modules.generator_ema, parts[EMA], file)
    load_module(modules.generator, parts.get(GENERATOR, parts[EMA]), file)
    load_module(modules.discriminator, parts[DISCRIMINATOR], file)
    return float(description["kimg"])


def starting_grid(out: Path, init_from: Path | None, config: ModelConfig) -> TetrahedralGrid | None:
    """The grid of its own that a run needs: that of the newest checkpoint in `out`, or else of `init_from`.

    None for our BCC grid, also where the checkpoint's grid was for another resolution or scale. Raises InputError for
    an `init_from` that cannot be read; what is wrong with a checkpoint in `out` is for `Trainer.resume` to say.
    """
    folders = list_checkpoints(out)
    if folders:
        with contextlib.suppress(InputError):
            return _grid_of(folders[-1], config)
        return None
    return _grid_of(init_from, config) if init_from is not None else None


def _grid_of(checkpoint: Path, config: ModelConfig) -> TetrahedralGrid | None:
    file = find_checkpoint(checkpoint)
    tensors, description = load_tensors(file, wanted=lambda name: GRID_PREFIX in name)
    if not tensors:
        return None
    saved = _saved_model(description, file)
    if (saved.tet_res, saved.grid_scale) != (config.tet_res, config.grid_scale):
        return None
    return stored_grid({name.removeprefix(f"{EMA}."): t for name, t in tensors.items()}, config, file)


def _saved_model(description: Mapping[str, Any], file: Path) -> ModelConfig:
    if not {"config", "kimg"} <= description.keys():
        raise InputError(f"{file}: holds no model; give a checkpoint of get3d")
    return config_from_dict(description["config"], f"{file} header").model


def _check_same_model(description: Mapping[str, Any], config: ModelConfig, file: Path) -> None:
    saved = _saved_model(description, file)
    differing = [
        f"model.{item.name} is {getattr(saved, item.name)!r} there and {getattr(config, item.name)!r} here"
        for item in dataclasses.fields(ModelConfig)
        if item.name not in FREE_FIELDS and getattr(saved, item.name) != getattr(config, item.name)
    ]
    if differing:
        raise InputError(f"{file}: is another model ({'; '.join(differing)}); give its settings in --config")
