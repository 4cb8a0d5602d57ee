"""FID and KID of a sampler: pictures of the generator, and renders of its textured meshes, against held-out pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from components.evaluate.catalogue import OTHER_NETWORK
from components.evaluate.results import Opinion, Section
from get3d_model.camera_settings import CameraConfig
from get3d_model.cameras import camera_distribution
from get3d_model.data.dataset import RenderedDataset
from get3d_model.data.manifest import Manifest
from get3d_model.errors import InputError
from get3d_model.evaluation_settings import EvaluationConfig
from get3d_model.files import sha256_file, sha256_json
from get3d_model.inference import Sampler
from get3d_model.metrics.bootstrap import Bootstrap, Interval
from get3d_model.metrics.fid import fid_interval
from get3d_model.metrics.image_sets import (
    SUPERSAMPLE,
    GeneratedImages,
    batch_size,
    cached_features,
    real_images,
)
from get3d_model.metrics.inception import SHA256, InceptionFeatures, extract, find_weights, how_to_get
from get3d_model.metrics.kid import kid_interval, subset_counts
from get3d_model.metrics.second_opinion import TorchFidelity, missing_requirement
from get3d_model.training.classes import dataset_category

NAMES = ("fid_ori", "fid_3d", "kid_ori_x1000", "kid_3d_x1000")


class Pictures:
    """Every picture of an evaluation: real ones of a split and generated ones, all of one size."""

    def __init__(self, sampler: Sampler, data: Path, manifest: Manifest, settings: EvaluationConfig) -> None:
        """Raises InputError for a resolution above that of the data set."""
        self.sampler, self.settings, self._data, self.manifest = sampler, settings, data, manifest
        self.background = sampler.config.training.background
        self.resolution = settings.image_resolution or manifest.resolution
        if self.resolution > manifest.resolution:
            raise InputError(
                f"evaluation.image_resolution ({self.resolution}) is above that of the data set, "
                f"{manifest.resolution}; lower it, or render again"
            )
        self._datasets: dict[str, RenderedDataset] = {}

    def dataset(self, split: str) -> RenderedDataset:
        """Raises InputError for an unknown or empty split."""
        if split not in self._datasets:
            category = dataset_category(self.sampler.config.model)
            self._datasets[split] = RenderedDataset(self._data, split, category=category)
        return self._datasets[split]

    def chosen(self, split: str, count: int) -> np.ndarray:
        """At most `count` pictures of a split, drawn by the seed, in order."""
        total = len(self.dataset(split))
        order = np.random.default_rng(self.settings.seed).permutation(total)
        return np.sort(order[:count])

    def real(self, split: str, items: np.ndarray, label: str) -> Iterator[np.ndarray]:
        """Batches BHW3 uint8."""
        dataset = self.dataset(split)
        images = real_images(dataset, items, self.resolution, self.background)
        return progress(images, len(items), batch_size(dataset.resolution), label)

    def generated(self) -> GeneratedImages:
        """Pictures of samples, seen by the cameras of training."""
        config = self.sampler.config
        angles_N2 = (
            torch.from_numpy(self.dataset("train").angles_N2) if self._has("train") else torch.zeros(1, 2)
        )
        return GeneratedImages(
            self.sampler,
            camera_distribution(config.cameras, angles_N2),
            self.settings.seed,
            self.settings.truncation_psi,
            self.resolution,
            self.background,
            self.settings.texture_resolution,
        )

    def _has(self, split: str) -> bool:
        return bool(self.manifest.splits.get(split))

    def describe(self) -> dict[str, Any]:
        """Settings that pictures depend on."""
        return {
            "image_resolution": self.resolution,
            "image_background": self.background,
            "image_downscaling": "antialiased bilinear",
            "image_texture_resolution": self.settings.texture_resolution,
            "image_mesh_renderer": f"unlit, {SUPERSAMPLE}x{SUPERSAMPLE} samples per pixel",
            # Edges differ a little between rasterisers.
            "image_rasterizer": "cpu" if self.sampler.device.type == "cpu" else "nvdiffrast",
            "image_cameras": _camera_text(self.sampler.config.cameras),
        }


def _camera_text(cameras: CameraConfig) -> str:
    """Every setting of the cameras of training, presets spelt out."""
    return ", ".join(
        [cameras.distribution, *(f"{name} {value}" for name, value in asdict(cameras.orbit).items())]
    )


def progress(batches: Iterable[np.ndarray], count: int, size: int, label: str) -> Iterator[np.ndarray]:
    """The batches, with a progress bar in pictures."""
    with tqdm(total=count, desc=label, disable=not sys.stderr.isatty()) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


@dataclass(frozen=True)
class Network:
    """What gives the features of pictures: its file, that file's SHA-256, and itself."""

    file: Path
    sha256: str
    features: InceptionFeatures


def picture_network(pictures: Pictures, cache: Path, sha256: str | None = None) -> Network | None:
    """The network of FID and KID, None without its weights. All that FID and KID could fail for is looked at here,
    before anything that takes long.

    sha256: what the weight file must have, if not that of the published one.
    Raises InputError for a bad weight file and for too few pictures.
    """
    settings = pictures.settings
    file = find_weights(settings.inception, sha256 or SHA256, cache)
    if file is None:
        return None
    if settings.image_samples < settings.min_samples:
        raise InputError(
            f"evaluation.image_samples ({settings.image_samples}) is too small: at least {settings.min_samples} are "
            "needed (evaluation.min_samples)"
        )
    held_out = len(pictures.chosen(settings.split, settings.image_samples))
    if held_out < settings.min_samples:
        raise InputError(
            f"{held_out} held-out pictures are too few: at least {settings.min_samples} are needed "
            "(evaluation.min_samples); render more views or hold out more shapes"
        )
    return Network(file, sha256_file(file), InceptionFeatures(file, pictures.sampler.device))


def images_section(pictures: Pictures, network: Network | None, cache: Path, bootstrap: Bootstrap) -> Section:
    """FID and KID of both kinds with both controls; or, without the Inception weights, how to get them. Where
    torch-fidelity is installed, by it as well.

    Of another network than the published one the numbers have other names, and FID and KID are unavailable.
    """
    settings, sampler = pictures.settings, pictures.sampler
    if network is None:
        why = f"unavailable: {how_to_get(cache)}"
        return Section(unavailable=dict.fromkeys(NAMES, why))
    count = settings.image_samples

    def real_features(split: str, limit: int) -> np.ndarray:
        items = pictures.chosen(split, limit)
        key = {
            "data": sha256_json(pictures.manifest.to_json()),
            "split": split,
            "items": sha256_json(items.tolist()),
            "resolution": pictures.resolution,
            "background": pictures.background,
            "weights": network.sha256,
        }
        return cached_features(
            cache, key, lambda: extract(network.features, pictures.real(split, items, f"{split} pictures"))
        )[0]

    reference = real_features(settings.split, count)
    generated, size = pictures.generated(), batch_size(pictures.resolution)
    few = Bootstrap(settings.fid_resamples, bootstrap.confidence, bootstrap.seed)

    def measure(first: np.ndarray, second: np.ndarray) -> tuple[Interval, Interval]:
        kid = kid_interval(first, second, few, sampler.device, settings.seed)
        thousandfold = Interval(kid.value * 1000, kid.low * 1000, kid.high * 1000)
        # Of the published number of features, each resample is seconds of a core. One more: of all pictures.
        with tqdm(total=few.resamples + 1, desc="interval of FID", disable=not sys.stderr.isatty()) as bar:
            return fid_interval(first, second, few, sampler.device, bar.update), thousandfold

    subsets, subset_size = subset_counts(len(reference), count)
    section = Section(
        settings={
            **pictures.describe(),
            "image_samples": count,
            "image_references": len(reference),
            "inception_sha256": network.sha256,
            "kid_subsets": subsets,
            "kid_subset_size": subset_size,
        },
        facts={"image_samples": count, "image_references": len(reference)},
    )
    why_alone = missing_requirement()
    other = TorchFidelity(network.file, sampler.device) if why_alone is None else None
    if other is not None:
        items = pictures.chosen(settings.split, count)
        other_reference = other.features(
            pictures.real(settings.split, items, f"real pictures, {other.source}")
        )
    for kind, images in (("ori", generated.feature_images), ("3d", generated.mesh_images)):
        names = (f"fid_{kind}", f"kid_{kind}_x1000")
        drawn, seen = progress(images(count), count, size, f"{kind} pictures"), []
        features = extract(network.features, drawn if other is None else other.watch(drawn, seen))
        section.metrics.update(zip(names, measure(reference, features), strict=True))
        if other is None:
            section.second.update(dict.fromkeys(names, Opinion(str(why_alone))))
        else:
            scores = other.scores(other_reference, np.concatenate(seen), settings.seed)
            section.second[names[0]] = Opinion(other.source, scores.fid)
            section.second[names[1]] = Opinion(
                other.source, 1000 * scores.kid, 1000 * scores.kid_standard_error
            )
    controls: dict[str, tuple[Interval, Interval]] = {}
    if pictures.manifest.splits.get("train"):
        controls["train"] = measure(reference, real_features("train", count))
    first, second = _halves(pictures, count)
    if min(len(first), len(second)) >= 2:
        controls["self"] = measure(reference[first], reference[second])
    for control, found in controls.items():
        # Real pictures are neither drawn by the generator nor renders of its meshes: one control for both kinds.
        names = (("fid_ori", "kid_ori_x1000"), ("fid_3d", "kid_3d_x1000"))
        section.controls[control] = {n: value for pair in names for n, value in zip(pair, found, strict=True)}
    return section if network.sha256 == SHA256 else _of_another_network(section, cache)


def _of_another_network(section: Section, cache: Path) -> Section:
    """The section with the numbers under names of their own."""

    def renamed(values: dict[str, Any]) -> dict[str, Any]:
        return {f"{OTHER_NETWORK}{name}": value for name, value in values.items()}

    why = (
        f"unavailable: the features are of another network (see {OTHER_NETWORK}fid_ori); {how_to_get(cache)}"
    )
    return replace(
        section,
        metrics=renamed(section.metrics),
        controls={control: renamed(values) for control, values in section.controls.items()},
        second=renamed(section.second),
        unavailable=dict.fromkeys(NAMES, why),
    )


def _halves(pictures: Pictures, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the chosen held-out pictures of one half of the shapes, and of the other."""
    dataset = pictures.dataset(pictures.settings.split)
    items = pictures.chosen(pictures.settings.split, count)
    shape_N = dataset.source.table.shape_N[dataset.index_N[items]]
    shapes = np.unique(shape_N)
    order = np.random.default_rng(pictures.settings.seed).permutation(shapes)
    inside = np.isin(shape_N, order[: len(order) // 2])
    return np.flatnonzero(inside), np.flatnonzero(~inside)
