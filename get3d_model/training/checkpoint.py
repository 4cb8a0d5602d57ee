"""Training checkpoints: a folder that appears whole or not at all.

    OUT/checkpoints/<kimg>/generator_ema.safetensors    what is sampled, self-describing
                           generator.safetensors, discriminator.safetensors
                           optimizers.safetensors       Adam moments and counters
                           checkpoint.json              configuration, step, images seen, data set, commit of the code

Every random draw of a run is a function of (seed, step, rank), so the step counter is the random state: there
is no other state to store, and a resumed run draws what an uninterrupted one would have.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from get3d_model.config import config_from_dict, config_to_dict
from get3d_model.errors import InputError
from get3d_model.files import atomic_directory, write_json_atomic
from get3d_model.inference import CHECKPOINT_FILE, GENERATOR_FILE
from get3d_model.latents import average_w
from get3d_model.training.best import Best, write_best
from get3d_model.version import source_commit
from get3d_model.weights import load_module, load_tensors, save_tensors

KEEP = 2
RETIRED_PREFIX = "stale-"
# Settings a resumed run may change: they do not alter what a step computes.
RESUMABLE_CHANGES = {
    "training": {
        "total_kimg", "checkpoint_interval_kimg", "image_interval_kimg", "log_interval_kimg", "data_workers",
        "w_avg_samples", "validation_images", "early_stopping_patience", "rank_timeout_s", "recompute_activations",
        "cuda_graphs",
    },
    "meshes": None, "render": None, "evaluation": None, "serving": None, "name": None,
}  # fmt: skip


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds beside the weights. dataset: identity of the training data. best: of `training.best`."""

    step: int
    images_seen: int
    config: dict[str, Any]
    dataset: dict[str, Any]
    best: dict[str, Any] | None = None

    @property
    def kimg(self) -> float:
        return self.images_seen / 1000.0


@dataclass(frozen=True)
class TrainedModules:
    """The modules and optimizers that a checkpoint fills or is filled from."""

    generator: nn.Module
    generator_ema: nn.Module
    discriminator: nn.Module
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer


def checkpoint_dir(out: Path, images_seen: int) -> Path:
    return out / "checkpoints" / f"{images_seen:09d}"


def save_checkpoint(out: Path, modules: TrainedModules, state: TrainingState) -> Path:
    """Writes a checkpoint atomically, then removes old ones and what killed runs left. Returns its folder.

    The newest KEEP stay, and the one that `state.best` names.
    """
    folder = checkpoint_dir(out, state.images_seen)
    samples = state.config["training"]["w_avg_samples"]
    # For truncation: the average of the weights that are saved, instead of a moving average over training.
    averages = {
        f"{name}.w_avg": average_w(getattr(modules.generator_ema, name), samples, seed)
        for seed, name in enumerate(("mapping", "mapping_geo"))
        if samples
    }
    description = {
        "w_avg_samples": samples,
        "config": state.config,
        "kimg": state.kimg,
        "step": state.step,
        "dataset": state.dataset,
        "training_commit": source_commit(),
    }
    with atomic_directory(folder) as temporary:
        for name, module in (
            (GENERATOR_FILE, modules.generator_ema),
            ("generator.safetensors", modules.generator),
            ("discriminator.safetensors", modules.discriminator),
        ):
            tensors = module.state_dict()
            if module is modules.generator_ema:
                tensors = {**tensors, **averages}
            save_tensors(tensors, temporary / name, description)
        optimizers = {
            **_optimizer_tensors("generator", modules.generator_optimizer),
            **_optimizer_tensors("discriminator", modules.discriminator_optimizer),
        }
        save_tensors(optimizers, temporary / "optimizers.safetensors", {})
        write_json_atomic(
            temporary / CHECKPOINT_FILE, {**description, "images_seen": state.images_seen, "best": state.best}
        )
    # Renamed first: a run killed while it removes must not leave half a checkpoint under its name.
    best = checkpoint_dir(out, (state.best or {}).get("images_seen") or state.images_seen)
    retire_checkpoints([old for old in list_checkpoints(out)[:-KEEP] if old != best])
    for pattern in (f"{RETIRED_PREFIX}*", ".*.tmp", ".*.old"):
        for left_over in folder.parent.glob(pattern):
            shutil.rmtree(left_over)
    return folder


def record_best(out: Path, best: Best) -> None:
    """Brings `best.json` in line with a run's record."""
    write_best(out, best, None if best.images_seen is None else checkpoint_dir(out, best.images_seen))


def retire_checkpoints(folders: Sequence[Path]) -> None:
    """Renames checkpoints, so that they are found no more; the next `save_checkpoint` removes them."""
    for folder in folders:
        retired = folder.with_name(RETIRED_PREFIX + folder.name)
        # Left by a run that was killed while it removed.
        shutil.rmtree(retired, ignore_errors=True)
        folder.rename(retired)


def list_checkpoints(out: Path) -> list[Path]:
    """Complete checkpoint folders, oldest first."""
    return sorted(p.parent for p in (out / "checkpoints").glob(f"[0-9]*/{CHECKPOINT_FILE}"))


def read_state(folder: Path) -> TrainingState:
    """Raises InputError for a damaged description."""
    path = folder / CHECKPOINT_FILE
    try:
        data = json.loads(path.read_text())
        state = TrainingState(
            data["step"], data["images_seen"], data["config"], data["dataset"], data.get("best")
        )
        if not (isinstance(state.step, int) and isinstance(state.images_seen, int)):
            raise ValueError("step and images_seen are no whole numbers")
        # Its name is the only setting outside a section.
        sections = [section for name, section in state.config.items() if name != "name"]
        if not all(isinstance(section, dict) for section in (*sections, state.dataset)):
            raise ValueError("config or dataset is no mapping of settings")
        return state
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not a readable checkpoint ({error!r}); remove {folder} to use an older one"
        ) from None


def load_checkpoint(folder: Path, modules: TrainedModules) -> TrainingState:
    """Fills modules and optimizers. Raises InputError for files that do not fit."""
    state = read_state(folder)
    try:
        for name, module in (
            (GENERATOR_FILE, modules.generator_ema),
            ("generator.safetensors", modules.generator),
            ("discriminator.safetensors", modules.discriminator),
        ):
            tensors, _ = load_tensors(folder / name)
            load_module(module, tensors, folder / name)
        file = folder / "optimizers.safetensors"
        tensors, _ = load_tensors(file)
        _fill_optimizer("generator", modules.generator_optimizer, tensors, file)
        _fill_optimizer("discriminator", modules.discriminator_optimizer, tensors, file)
    except InputError as error:
        raise InputError(f"{error}; remove {folder} to use an older one") from None
    return state


def what_changed(
    saved: dict[str, Any], current: dict[str, Any], dataset_saved: Any, dataset: Any
) -> str | None:
    """The first setting that a checkpoint and the current run disagree on and that matters; None when none does.

    A setting that the checkpoint does not name is newer than it: it had its default then, as it has it now if the
    current value is that.
    """
    # One that names a setting that is no more fails to build; the comparison finds it.
    with contextlib.suppress(InputError):
        saved = config_to_dict(config_from_dict(saved, "checkpoint"))
    for section in sorted(saved.keys() | current.keys()):
        allowed = RESUMABLE_CHANGES.get(section, set())
        if allowed is None:
            continue
        old, new = saved.get(section, {}), current.get(section, {})
        for key in sorted(old.keys() | new.keys()):
            if key not in allowed and old.get(key) != new.get(key):
                return f"{section}.{key} was {old.get(key)!r}, is now {new.get(key)!r}"
    return None if dataset_saved == dataset else "the data set has changed"


def _optimizer_tensors(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{prefix}.{index}.{key}": torch.as_tensor(value)
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }


def _fill_optimizer(
    prefix: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], file: Path
) -> None:
    """Raises InputError for tensors that are not of this optimizer."""
    groups = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, _, rest = name.partition(".")
        if owner != prefix:
            continue
        index, _, key = rest.partition(".")
        number = int(index) if index.isdecimal() else len(parameters)
        if number >= len(parameters) or tensor.numel() not in (1, parameters[number].numel()):
            raise InputError(f"{file}: {name} does not fit the {prefix}'s optimizer")
        state.setdefault(number, {})[key] = tensor
    if not state:
        raise InputError(f"{file}: holds nothing of the {prefix}'s optimizer")
    optimizer.load_state_dict({"state": state, "param_groups": groups})
