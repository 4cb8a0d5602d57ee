"""A whole model in one safetensors file, and the parts of a model wherever they stand.

A bundle holds the state dictionaries of `G_ema`, and perhaps `G` and `D`, under names with that prefix; its header
is that of any weight file. It is what `get3d import-checkpoint` writes, and what a pretrained model is kept in.
A checkpoint folder of a training run holds the same parts in a file each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from get3d_model.errors import InputError
from get3d_model.weights import load_tensors, save_tensors, tensor_names

GENERATOR_FILE = "generator_ema.safetensors"
EMA, GENERATOR, DISCRIMINATOR = PARTS = ("G_ema", "G", "D")
PART_FILES = {
    EMA: GENERATOR_FILE,
    GENERATOR: "generator.safetensors",
    DISCRIMINATOR: "discriminator.safetensors",
}
# A sampling grid of its own stands among the generator's tensors. It is the same for G and G_ema, and half
# precision would move its vertices.
GRID_PREFIX = "synthesis.extractor.grid."

Parts = dict[str, dict[str, Tensor]]


def save_bundle(
    parts: Mapping[str, Mapping[str, Tensor]], path: Path, description: dict[str, Any], half: bool = False
) -> None:
    """Writes `path` atomically. half: weights as fp16. Raises InputError where one does not fit into fp16."""
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for part, state in parts.items():
        for name, tensor in state.items():
            is_grid = name.startswith(GRID_PREFIX)
            if is_grid and part != EMA:
                continue
            if half and tensor.is_floating_point() and not is_grid:
                tensor = tensor.to(torch.float16)
                if not torch.isfinite(tensor).all():
                    raise InputError(
                        f"{path}: {part} {name} does not fit into half precision; leave out --half"
                    )
            # G and G_ema of a foreign file can be one and the same; safetensors stores nothing twice unasked.
            storage = tensor.untyped_storage().data_ptr()
            tensors[f"{part}.{name}"] = tensor.clone() if storage in storages else tensor
            storages.add(storage)
    save_tensors(tensors, path, description)


def is_bundle(file: Path) -> bool:
    """Raises InputError for a file that cannot be read."""
    return any(name.startswith(f"{EMA}.") for name in tensor_names(file))


def load_parts(file: Path, wanted: Sequence[str] = PARTS) -> tuple[Parts, dict[str, Any]]:
    """(the wanted parts that are there, in float32; description).

    file: a bundle, or the generator file of a checkpoint (its other parts are looked for beside it).
    Raises InputError.
    """
    file = Path(file)
    if is_bundle(file):
        tensors, description = load_tensors(file, wanted=lambda name: name.split(".", 1)[0] in wanted)
        parts: Parts = {}
        for name, tensor in tensors.items():
            part, own_name = name.split(".", 1)
            parts.setdefault(part, {})[own_name] = tensor
    else:
        tensors, description = load_tensors(file)
        parts = {EMA: tensors} if EMA in wanted else {}
        for part in (GENERATOR, DISCRIMINATOR):
            beside = file.with_name(PART_FILES[part])
            if part in wanted and file.name == GENERATOR_FILE and beside.is_file():
                parts[part] = load_tensors(beside)[0]
    if GENERATOR in parts and EMA in parts:
        grid = {name: tensor for name, tensor in parts[EMA].items() if name.startswith(GRID_PREFIX)}
        parts[GENERATOR] = {**grid, **parts[GENERATOR]}
    return {
        part: {name: _widened(t) for name, t in state.items()} for part, state in parts.items()
    }, description


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
