"""The training loop: one process or one of several, resumable at any step.

Shape legend: B batch, H W image size
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from get3d_model.cameras import camera_distribution, preview_cameras
from get3d_model.config import Config, config_to_dict
from get3d_model.data.dataset import RenderedDataset, to_training_tensor
from get3d_model.data.manifest import MANIFEST_NAME
from get3d_model.data.preflight import preflight
from get3d_model.data.sampler import InfiniteSampler
from get3d_model.errors import InputError
from get3d_model.files import sha256_file, sha256_json
from get3d_model.image_grid import save_image, tile
from get3d_model.inference import ModelIdentity, Sampler
from get3d_model.training.checkpoint import (
    TrainingState,
    list_checkpoints,
    load_checkpoint,
    read_state,
    retire_checkpoints,
    save_checkpoint,
    what_changed,
)
from get3d_model.training.distributed import World
from get3d_model.training.initial_weights import initialise_from, starting_grid
from get3d_model.training.phases import Report
from get3d_model.training.sink import MetricSink
from get3d_model.training.step import build_training_step

CACHE_BYTES = 1 << 30
GRID_COLUMNS, GRID_ROWS = 8, 4


class TrainingInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; the run is saved and can be resumed. `signal_number` says which."""

    def __init__(self, signal_number: int, checkpoint: Path) -> None:
        super().__init__(
            f"interrupted by {signal.Signals(signal_number).name}; saved {checkpoint}, run again to resume"
        )
        self.signal_number = signal_number


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
        self, config: Config, data_dir: Path, out: Path, world: World, init_from: Path | None = None
    ) -> None:
        """Checks the data set, builds the networks. Raises InputError.

        init_from: checkpoint whose weights the run starts from where `resume` finds none in `out`.
        """
        training = config.training
        if training.batch_size % world.size:
            raise InputError(
                f"training.batch_size {training.batch_size} does not divide over {world.size} processes; use a multiple"
            )
        self.config, self.out, self.world = config, Path(out), world
        self.local_batch = training.batch_size // world.size
        self.summary = preflight(
            Path(data_dir), resolution=config.model.image_resolution, cameras=config.cameras
        )
        self.dataset = RenderedDataset(
            Path(data_dir), "train", cache_bytes=CACHE_BYTES, threads=training.data_workers
        )
        self.sampler = InfiniteSampler(len(self.dataset), training.seed, world.rank, world.size)

        cameras = camera_distribution(config.cameras, torch.from_numpy(self.dataset.angles_N2))
        self.init_from = init_from
        grid = starting_grid(self.out, init_from, config.model)
        self.train = build_training_step(config, world, cameras, grid)
        self.modules = self.train.modules
        identity = ModelIdentity(config.name, 0.0, "")
        self.preview = Sampler(
            self.modules.generator_ema, config, identity, self.train.phases.rasterizer, world.device
        )
        self.step = 0
        self.images_seen = 0

    def resume(self, restart_on_change: bool = False) -> Path | None:
        """Continues from the newest checkpoint in `out`, if there is one, and returns its folder.

        Where there is none, the run starts from `init_from`.

        Raises InputError when it belongs to another configuration or data set, unless `restart_on_change`,
        which starts afresh (the old checkpoints go when the first new one is written).
        """
        folders = list_checkpoints(self.out)
        if not folders:
            self._initialise()
            return None
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
            self.world.barrier()
            if self.world.is_main:
                print(f"starting afresh: {change}", flush=True)
                retire_checkpoints(folders)
            self.world.barrier()
            self._initialise()
            return None
        state = load_checkpoint(folders[-1], self.modules)
        self.step, self.images_seen = state.step, state.images_seen
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
        if self.world.is_main and self.step == 0:
            self._save_reals()
            self._save_grid()
        with _SignalFlag() as stop, ThreadPoolExecutor(1, "get3d-data") as pool:
            pending = pool.submit(self._read, self.step)
            while self.images_seen < total:
                waited = time.monotonic()
                real_B4HW, angles_B2 = self._take(pending)
                data_wait_s += time.monotonic() - waited
                pending = pool.submit(self._read, self.step + 1)
                reports.append(self.train.step(real_B4HW, angles_B2, self.step))
                self.step += 1
                self.images_seen += training.batch_size
                last = self.images_seen >= total
                stopping = (
                    self.world.any(stop.number is not None)
                    if (self.world.size > 1)
                    else stop.number is not None
                )
                if last or stopping or self.step % every["log"] == 0:
                    values = self._average(reports)
                    self._check_finite(values)
                    now = time.monotonic()
                    images = self.images_seen - tick_images
                    values |= {
                        "kimg": self.images_seen / 1000,
                        "sec_per_kimg": (now - tick_at) / images * 1000,
                        "data_wait_s": data_wait_s,
                        "elapsed_s": now - progress.started_at,
                    }
                    if self.world.is_main:
                        for sink in sinks:
                            sink.record(self.step, values)
                        self._print(values, total, progress)
                    reports, data_wait_s, tick_at, tick_images = [], 0.0, now, self.images_seen
                if self.world.is_main and (last or self.step % every["image"] == 0):
                    self._save_grid()
                if last or stopping or self.step % every["checkpoint"] == 0:
                    if reports:
                        self._check_finite(self._average(reports))
                    folder = self._save()
                    if stopping and not last:
                        pending.cancel()
                        raise TrainingInterrupted(stop.number or signal.SIGTERM, folder)
            pending.cancel()
        folders = list_checkpoints(self.out)
        return folders[-1] if folders else self._save()

    def _read(self, step: int) -> tuple[Tensor, Tensor]:
        batch = self.dataset.read_batch(self.sampler.batch(step, self.local_batch))
        return batch.rgba_B4HW, batch.angles_B2

    def _take(self, pending: Future[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        rgba_B4HW, angles_B2 = pending.result()
        device = self.world.device
        return (
            to_training_tensor(rgba_B4HW.to(device, non_blocking=True), self.config.training.background),
            angles_B2.to(device, non_blocking=True),
        )

    def _average(self, reports: list[Report]) -> dict[str, float]:
        """Means over the steps since the last record; one copy from the device."""
        names = sorted({name for report in reports for name in report})
        means = [torch.stack([r[name].float().cpu() for r in reports if name in r]).mean() for name in names]
        return dict(zip(names, torch.stack(means).tolist(), strict=True)) if names else {}

    def _check_finite(self, values: dict[str, float]) -> None:
        bad = [
            name for name, value in values.items() if name.startswith("loss/") and not math.isfinite(value)
        ]
        if not self.world.any(bool(bad)):
            return
        folders = list_checkpoints(self.out)
        good = f"the last good checkpoint is {folders[-1]}" if folders else "there is no checkpoint yet"
        raise TrainingDiverged(
            f"{', '.join(bad) or 'a loss on another rank'} became NaN or infinite before kimg "
            f"{self.images_seen / 1000:.1f}; {good}; lower the learning rates or raise training.r1_gamma"
        )

    def _save(self) -> Path:
        state = TrainingState(
            self.step, self.images_seen, config_to_dict(self.config), self._dataset_identity()
        )
        if self.world.is_main:
            save_checkpoint(self.out, self.modules, state)
        self.world.barrier()
        return list_checkpoints(self.out)[-1]

    def _dataset_identity(self) -> dict[str, object]:
        """What the weights were trained on, independent of where the folder is."""
        manifest = self.dataset.source.path / MANIFEST_NAME
        return {
            "images": len(self.dataset),
            "shapes": len(self.dataset.shape_ids),
            "sha256": sha256_file(manifest)
            if manifest.is_file()
            else sha256_json([self.dataset.shape_ids, self.dataset.angles_N2.tolist()]),
        }

    def _save_grid(self) -> None:
        """Samples of the EMA generator: fixed seeds over columns and rows, at cameras that go around."""
        count = GRID_COLUMNS * GRID_ROWS
        camera = preview_cameras(self.config.cameras.orbit, count, start_rad=math.radians(30.0))
        pictures = []
        for first in range(0, count, GRID_COLUMNS):
            styles = self.preview.styles(range(first, first + GRID_COLUMNS))
            pictures.append(self.preview.render(styles, camera[slice(first, first + GRID_COLUMNS)])[..., :3])
        save_image(
            tile(np.concatenate(pictures), GRID_COLUMNS),
            self.out / "images" / f"fakes_{self.images_seen:09d}.png",
        )

    def _save_reals(self) -> None:
        count = GRID_COLUMNS * GRID_ROWS
        indices = np.linspace(0, len(self.dataset) - 1, count).astype(int)
        batch = self.dataset.read_batch(indices)
        rgb = to_training_tensor(batch.rgba_B4HW, self.config.training.background)[:, :3]
        pictures = ((rgb + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        save_image(tile(pictures, GRID_COLUMNS), self.out / "images" / "reals.png")

    def _print(self, values: dict[str, float], total: int, progress: _Progress) -> None:
        done = self.images_seen - progress.started_images
        rate = (time.monotonic() - progress.started_at) / done
        eta = rate * (total - self.images_seen)
        print(
            f"kimg {values['kimg']:.2f}/{total / 1000:.2f}  sec/kimg {values['sec_per_kimg']:.1f}  "
            f"ETA {_duration(eta)}  G {values['loss/generator_rgb']:.2f}+{values['loss/generator_mask']:.2f}  "
            f"D {values['loss/discriminator_fake'] + values['loss/discriminator_real']:.2f}  "
            f"signs {values['signs/real_rgb']:+.2f} {values['signs/fake_rgb']:+.2f}  "
            f"empty {values['shapes/empty_fraction']:.0%}",
            flush=True,
        )


class _SignalFlag:
    """Remembers SIGINT or SIGTERM instead of dying in the middle of a step; a second one is not caught."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> _SignalFlag:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: object) -> None:
        self.number = number
        signal.signal(number, self._previous[number])

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
