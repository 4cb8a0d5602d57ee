"""The training loop: one process or one of several, resumable at any step.

Shape legend: B batch, H W image size
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from get3d_model.cameras import camera_distribution
from get3d_model.config import Config, config_to_dict
from get3d_model.data.base import SampleSource
from get3d_model.data.dataset import RenderedDataset, open_source, to_training_tensor
from get3d_model.data.manifest import MANIFEST_NAME
from get3d_model.data.preflight import preflight
from get3d_model.data.sampler import InfiniteSampler
from get3d_model.errors import InputError
from get3d_model.files import sha256_file, sha256_json
from get3d_model.inference import ModelIdentity, Sampler
from get3d_model.training.best import Best, best_from_dict
from get3d_model.training.checkpoint import (
    TrainingState,
    checkpoint_dir,
    list_checkpoints,
    load_checkpoint,
    read_state,
    record_best,
    retire_checkpoints,
    save_checkpoint,
    what_changed,
)
from get3d_model.training.classes import class_shares, dataset_category
from get3d_model.training.distributed import StopVote, World
from get3d_model.training.initial_weights import initialise_from, starting_grid
from get3d_model.training.phases import Report
from get3d_model.training.previews import save_generated, save_real
from get3d_model.training.report import summarise
from get3d_model.training.signals import SignalFlag, TrainingInterrupted
from get3d_model.training.sink import MetricSink
from get3d_model.training.step import build_training_step
from get3d_model.training.validation import KEY as VALIDATION_KEY
from get3d_model.training.validation import Validator

CACHE_BYTES = 1 << 30
# (images, camera angles, classes of a class-conditional model)
_RealBatch = tuple[Tensor, Tensor, Tensor | None]


class TrainingDiverged(InputError):
    """A loss became NaN or infinite."""


@dataclass
class _Progress:
    """Counters of this run."""

    step: int
    images_seen: int
    started_at: float
    started_images: int


class Trainer:
    """Trains the model of a configuration on a rendered data set.

    Everything random is a function of (seed, step, rank), so that a resumed run continues bit for bit on the CPU.
    """

    def __init__(
        self,
        config: Config,
        data: Path | SampleSource,
        out: Path,
        world: World,
        init_from: Path | None = None,
    ) -> None:
        """Checks the data set, builds the networks. Raises InputError.

        data: the folder of the data set, or the data set already open.
        init_from: checkpoint whose weights the run starts from where `resume` finds none in `out`.
        """
        training = config.training
        if training.batch_size % world.size:
            raise InputError(
                f"training.batch_size {training.batch_size} does not divide over {world.size} processes; use a multiple"
            )
        if training.batch_size // world.size % training.views_per_shape:
            raise InputError(
                f"the {training.batch_size // world.size} images of a process in a step are no multiple of "
                f"training.views_per_shape {training.views_per_shape}; change it or training.batch_size"
            )
        self.config, self.out, self.world = config, Path(out), world
        self.local_batch = training.batch_size // world.size
        source = open_source(data, category=dataset_category(config.model))
        self.summary = preflight(
            source,
            resolution=config.model.image_resolution,
            cameras=config.cameras,
            category=dataset_category(config.model),
        )
        self.dataset = RenderedDataset(
            source,
            "train",
            category=dataset_category(config.model),
            cache_bytes=CACHE_BYTES,
            threads=training.data_workers,
            resolution=config.model.image_resolution,
            mirror=training.mirror_images,
        )
        weights_N = self.dataset.weights_N(training.balance_groups)
        shares_K = class_shares(self.dataset, config.model, weights_N)
        self.classes_N = None if shares_K is None else torch.from_numpy(self.dataset.classes_N)
        self.sampler = InfiniteSampler(len(self.dataset), training.seed, world.rank, world.size, weights_N)

        cameras = camera_distribution(config.cameras, torch.from_numpy(self.dataset.angles_N2))
        self.init_from = init_from
        grid = starting_grid(self.out, init_from, config.model)
        self.train = build_training_step(config, world, cameras, grid, shares_K)
        self.modules = self.train.modules
        identity = ModelIdentity(config.name, 0.0, "")
        self.preview = Sampler(
            self.modules.generator_ema, config, identity, self.train.phases.rasterizer, world.device
        )
        self.validator = Validator(source, config, self.preview)
        if training.early_stopping_patience is not None and not self.validator.images:
            raise InputError(
                f"training.early_stopping_patience needs a validation metric: {source.path} has no images in its split "
                "'val', or training.validation_images is 0; set the patience to null"
            )
        self.best = Best(self.validator.metric)
        self.step = 0
        self.images_seen = 0

    def resume(self, restart_on_change: bool = False) -> Path | None:
        """Continues from the newest checkpoint in `out`, if there is one, and returns its folder.

        Where there is none, the run starts from `init_from`.

        Raises InputError when it belongs to another configuration or data set, unless `restart_on_change`,
        which starts afresh (the old checkpoints go when the first new one is written).
        """
        # What rank 0 sees counts: another node may see a checkpoint of a killed run later, or one that goes.
        folders = self.world.agree(list_checkpoints(self.out), "the choice of a checkpoint")
        if not folders:
            self._initialise()
            return None
        if not folders[-1].is_dir():
            raise InputError(
                f"rank {self.world.rank} does not see {folders[-1]}; --out must be a folder that all nodes share"
            )
        state = read_state(folders[-1])
        change = what_changed(
            state.config, config_to_dict(self.config), state.dataset, self._dataset_identity()
        )
        if change:
            if not restart_on_change:
                raise InputError(
                    f"{folders[-1]} belongs to another run ({change}); give another --out, or --restart-on-change"
                )
            # Before the folders move, every rank must have seen them.
            self.world.barrier("the restart")
            if self.world.is_main:
                print(f"starting afresh: {change}", flush=True)
                retire_checkpoints(folders)
            self.world.barrier("the restart")
            self._initialise()
            return None
        state = load_checkpoint(folders[-1], self.modules)
        self.step, self.images_seen = state.step, state.images_seen
        self.best = best_from_dict(state.best, self.validator.metric)
        return folders[-1]

    def _initialise(self) -> None:
        if self.init_from is None:
            return
        kimg = initialise_from(self.init_from, self.modules, self.config.model)
        if self.world.is_main:
            print(f"starting from the weights of {self.init_from}, trained for {kimg:g} kimg", flush=True)

    def run(self, sinks: Sequence[MetricSink] = ()) -> Path:
        """Trains to `total_kimg`; returns the final checkpoint folder.

        Raises TrainingInterrupted after saving on SIGINT or SIGTERM, TrainingDiverged on NaN losses.
        """
        training = self.config.training
        total = math.ceil(training.total_kimg * 1000 / training.batch_size) * training.batch_size
        every = {
            name: max(1, round(kimg * 1000 / training.batch_size))
            for name, kimg in (
                ("log", training.log_interval_kimg),
                ("image", training.image_interval_kimg),
                ("checkpoint", training.checkpoint_interval_kimg),
            )
        }
        progress = _Progress(self.step, self.images_seen, time.monotonic(), self.images_seen)
        reports: list[Report] = []
        data_wait_s = 0.0
        tick_at, tick_images = time.monotonic(), self.images_seen
        if self.world.is_main:
            # A run killed between a checkpoint and its record left the record behind.
            record_best(self.out, self.best)
            if self.step == 0:
                save_real(self.out, self.dataset, self.config)
                save_generated(self.out, self.preview, 0)
        with SignalFlag() as stop, ThreadPoolExecutor(1, "get3d-data") as pool:
            vote = StopVote(self.world)
            pending = pool.submit(self._read, self.step)
            while self.images_seen < total and not self.out_of_patience:
                waited = time.monotonic()
                real_B4HW, angles_B2, class_B = self._take(pending)
                data_wait_s += time.monotonic() - waited
                pending = pool.submit(self._read, self.step + 1)
                reports.append(self.train.step(real_B4HW, angles_B2, self.step, class_B, leave_open=True))
                self.step += 1
                self.images_seen += training.batch_size
                last = self.images_seen >= total
                stopping = vote(stop.number is not None)
                saving = last or stopping or self.step % every["checkpoint"] == 0
                logging = saving or self.step % every["log"] == 0
                if logging or self.step % every["image"] == 0:
                    self.train.finish()
                if logging:
                    values = summarise(reports, self.world)
                    self._check_finite(values)
                    now = time.monotonic()
                    images = self.images_seen - tick_images
                    values |= {
                        "kimg": self.images_seen / 1000,
                        "sec_per_kimg": (now - tick_at) / images * 1000,
                        "data_wait_s": data_wait_s,
                        "elapsed_s": now - progress.started_at,
                    }
                    # Who asks to stop does not wait for a measurement.
                    if saving and not stopping:
                        values |= self._validate()
                    if self.world.is_main:
                        for sink in sinks:
                            sink.record(self.step, values)
                        self._print(values, total, progress)
                    reports, data_wait_s, tick_at, tick_images = [], 0.0, now, self.images_seen
                ending = last or self.out_of_patience
                if self.world.is_main and (ending or self.step % every["image"] == 0):
                    save_generated(self.out, self.preview, self.images_seen)
                if saving:
                    folder = self._save()
                    if stopping and not last:
                        pending.cancel()
                        raise TrainingInterrupted(stop.number or signal.SIGTERM, folder)
            pending.cancel()
            vote.close()
        if self.out_of_patience and self.images_seen < total and self.world.is_main:
            print(
                f"stopped early at kimg {self.images_seen / 1000:.2f}: {self.best.worse_since} validations in a row "
                f"not below {self.best.value:.4f} of kimg {(self.best.images_seen or 0) / 1000:.2f}",
                flush=True,
            )
        folders = list_checkpoints(self.out)
        return folders[-1] if folders else self._save()

    @property
    def out_of_patience(self) -> bool:
        """Whether the validation metric has not got better for as long as the configuration allows."""
        patience = self.config.training.early_stopping_patience
        return patience is not None and self.best.worse_since >= patience

    def _validate(self) -> dict[str, float]:
        """Measures on rank 0; all ranks know the result, so that all stop at the same step."""
        if not self.validator.images:
            return {}
        values = self.validator.measure() if self.world.is_main else {}
        values = self.world.agree(values, "the validation")
        self.best = self.best.updated(values[VALIDATION_KEY], self.images_seen)
        return values

    def _read(self, step: int) -> _RealBatch:
        indices = self.sampler.batch(step, self.local_batch)
        batch = self.dataset.read_batch(indices)
        class_B = None if self.classes_N is None else self.classes_N[indices]
        return batch.rgba_B4HW, batch.angles_B2, class_B

    def _take(self, pending: Future[_RealBatch]) -> _RealBatch:
        rgba_B4HW, angles_B2, class_B = pending.result()
        device = self.world.device
        return (
            to_training_tensor(rgba_B4HW.to(device, non_blocking=True), self.config.training.background),
            angles_B2.to(device, non_blocking=True),
            None if class_B is None else class_B.to(device, non_blocking=True),
        )

    def _check_finite(self, values: dict[str, float]) -> None:
        """The values are those of all ranks, so all raise or none."""
        bad = [
            name for name, value in values.items() if name.startswith("loss/") and not math.isfinite(value)
        ]
        if not bad:
            return
        folders = list_checkpoints(self.out)
        good = f"the last good checkpoint is {folders[-1]}" if folders else "there is no checkpoint yet"
        raise TrainingDiverged(
            f"{', '.join(bad)} became NaN or infinite before kimg {self.images_seen / 1000:.1f}; {good}; "
            "lower the learning rates or raise training.r1_gamma"
        )

    def _save(self) -> Path:
        self.train.synchronise()
        modules = self.modules
        self.world.check_same_weights(
            {
                "generator": modules.generator,
                "moving average of the generator": modules.generator_ema,
                "discriminator": modules.discriminator,
            }
        )
        state = TrainingState(
            self.step,
            self.images_seen,
            config_to_dict(self.config),
            self._dataset_identity(),
            dataclasses.asdict(self.best),
        )
        if self.world.is_main:
            save_checkpoint(self.out, modules, state)
            record_best(self.out, self.best)
        self.world.barrier("the checkpoint")
        return checkpoint_dir(self.out, self.images_seen)

    def _dataset_identity(self) -> dict[str, object]:
        """What the weights were trained on, independent of where the folder is."""
        manifest = self.dataset.source.path / MANIFEST_NAME
        return {
            "images": len(self.dataset),
            "shapes": len(self.dataset.shape_ids),
            **({} if self.classes_N is None else {"classes": self.dataset.class_names}),
            "sha256": sha256_file(manifest)
            if manifest.is_file()
            else sha256_json([self.dataset.shape_ids, self.dataset.angles_N2.tolist()]),
        }

    def _print(self, values: dict[str, float], total: int, progress: _Progress) -> None:
        done = self.images_seen - progress.started_images
        rate = (time.monotonic() - progress.started_at) / done
        eta = rate * (total - self.images_seen)
        print(
            f"kimg {values['kimg']:.2f}/{total / 1000:.2f}  sec/kimg {values['sec_per_kimg']:.1f}  "
            f"ETA {_duration(eta)}  G {values['loss/generator_rgb']:.2f}+{values['loss/generator_mask']:.2f}  "
            f"D {values['loss/discriminator_fake'] + values['loss/discriminator_real']:.2f}  "
            f"signs {values['signs/real_rgb']:+.2f} {values['signs/fake_rgb']:+.2f}  "
            f"empty {values['shapes/empty_fraction']:.0%}"
            + (f"  SWD {values[VALIDATION_KEY]:.3f}" if VALIDATION_KEY in values else ""),
            flush=True,
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
