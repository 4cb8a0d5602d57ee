"""Two sets of measured shapes against each other.

Shape legend: R references, S samples (the generated shapes), T as many samples as there are references
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from components.metrics.settings import Distance, MetricsSettings
from components.metrics.shapes import MeasuredShapes
from get3d_model.metrics.bootstrap import Bootstrap, Interval
from get3d_model.metrics.chamfer import chamfer_matrix
from get3d_model.metrics.lfd_distance import lfd_matrix
from get3d_model.metrics.mesh_quality import NUMBERS, SHARES, quality_arrays, quality_distributions
from get3d_model.metrics.select import make_nearest_distance
from get3d_model.metrics.set_intervals import divergence_interval, matching_intervals, one_nna_interval
from get3d_model.metrics.set_metrics import occupied_cells, set_scores


@dataclass(frozen=True)
class Comparison:
    """metrics, quality: with intervals, by name. control: the same of the reference meshes, by the same names: one half
    of them against the other, and their own quality. details: what metrics_full.json has beside them."""

    metrics: dict[str, Interval]
    quality: dict[str, Interval]
    control: dict[str, Interval]
    details: dict[str, Any]


def compare(
    generated: MeasuredShapes, reference: MeasuredShapes, settings: MetricsSettings, device: torch.device
) -> Comparison:
    """COV, MMD and 1-NNA by every distance asked for, JSD, and the quality of the meshes."""
    bootstrap = Bootstrap(settings.resamples, settings.confidence, settings.seed)
    # 1-NNA wants sets of one size; a seeded choice, because files lie in the order of their names.
    random = np.random.default_rng(settings.seed)
    size = min(len(reference), len(generated))
    chosen_T, chosen_R = (np.sort(random.permutation(len(s))[:size]) for s in (generated, reference))
    metrics: dict[str, Interval] = {}
    control: dict[str, Interval] = {}
    details: dict[str, Any] = {}
    # Places among the chosen references.
    halves = np.array_split(random.permutation(size), 2)
    for name in settings.distances:
        between_RS = _distances(name, reference, generated, None, device, f"{name}: between")
        within = [
            _distances(name, s, s, c, device, f"{name}: within")
            for s, c in ((reference, chosen_R), (generated, chosen_T))
        ]
        metrics |= _set_metrics(
            name, between_RS, (within[0], between_RS[np.ix_(chosen_R, chosen_T)], within[1]), bootstrap
        )
        blocks = [[within[0][np.ix_(a, b)] for b in halves] for a in halves]
        equal = (blocks[0][0], blocks[0][1], blocks[1][1])
        control |= _set_metrics(name, blocks[0][1], equal, bootstrap)
        scores = set_scores(between_RS)
        details[f"{name}_nearest"] = {
            "reference": [
                {"mesh": m, "nearest_generated": generated.names[i], "distance": float(d), "covered": bool(c)}
                for m, i, d, c in zip(
                    reference.names,
                    between_RS.argmin(axis=1),
                    scores.nearest_sample_R,
                    scores.covered_R,
                    strict=True,
                )
            ],
            "generated": [
                {"mesh": m, "nearest_reference": reference.names[i], "distance": float(d)}
                for m, i, d in zip(
                    generated.names,
                    scores.nearest_reference_S,
                    scores.nearest_reference_distance_S,
                    strict=True,
                )
            ],
        }
    extent = {"box": 0.5, "sphere": 1.0}.get(settings.normalize) or float(np.abs(reference.points_SP3).max())
    cells = [occupied_cells(s.points_SP3, extent) for s in (reference, generated)]
    metrics["jsd"] = divergence_interval(*cells, bootstrap)
    control["jsd"] = divergence_interval(*(cells[0][chosen_R[half]] for half in halves), bootstrap)
    quality: dict[str, Interval] = {}
    if generated.qualities:
        quality = _quality(generated, bootstrap)
        control |= _quality(reference, bootstrap)
        details["quality_distributions"] = quality_distributions(generated.qualities)
        arrays = quality_arrays(generated.qualities)
        details["quality"] = [
            {"mesh": name, **{fact: None if math.isnan(v[i]) else float(v[i]) for fact, v in arrays.items()}}
            for i, name in enumerate(generated.names)
        ]
    return Comparison(metrics, quality, control, details)


def _set_metrics(
    name: Distance,
    between_RS: np.ndarray,
    equal: tuple[np.ndarray, np.ndarray, np.ndarray],
    bootstrap: Bootstrap,
) -> dict[str, Interval]:
    """COV, MMD and 1-NNA by one distance. equal: within and between sets of one size, for 1-NNA, which needs two."""
    factor, suffix = (1000.0, "_x1000") if name == "cd" else (1.0, "")
    found = matching_intervals(between_RS, bootstrap)
    metrics = {
        f"{name}_cov": found["cov"],
        f"{name}_mmd{suffix}": Interval(*(factor * v for v in asdict(found["mmd"]).values())),
    }
    if min(equal[1].shape) >= 2:
        metrics[f"{name}_1nna"] = one_nna_interval(*equal, bootstrap)
    return metrics


def _quality(shapes: MeasuredShapes, bootstrap: Bootstrap) -> dict[str, Interval]:
    """The names of `mesh_quality`."""
    found: dict[str, Interval] = {}
    for name, values in quality_arrays(shapes.qualities).items():
        known = values[~np.isnan(values)]
        if name in SHARES:
            found[f"{name}_fraction"] = bootstrap.mean(known)
        elif name in NUMBERS:
            for suffix, q in (("median", 0.5), ("p05", 0.05), ("p95", 0.95)):
                found[f"{name}_{suffix}"] = bootstrap.quantile(known, q)
    # Empty meshes were set aside when they were read.
    found["empty_fraction"] = bootstrap.mean([1.0] * shapes.empty + [0.0] * len(shapes))
    return found


def _distances(
    name: Distance,
    first: MeasuredShapes,
    second: MeasuredShapes,
    chosen: np.ndarray | None,
    device: torch.device,
    label: str,
) -> np.ndarray:
    """Between two sets, or within the chosen shapes of one."""
    arrays = [s.points_SP3 if name == "cd" else s.descriptors_SLAF for s in (first, second)]
    if chosen is not None:
        arrays = [arrays[0][chosen]] * 2
    count = len(arrays[0])
    total = count * len(arrays[1]) if chosen is None else count * (count - 1) // 2
    with tqdm(total=total, desc=label, unit="pair", disable=not sys.stderr.isatty()) as bar:
        if name == "lfd":
            return lfd_matrix(arrays[0], arrays[1], device, bar.update)
        return _chamfer(arrays, device, bar.update)


def _chamfer(arrays: list[np.ndarray], device: torch.device, progress: Callable[[int], None]) -> np.ndarray:
    first_RP3 = torch.from_numpy(arrays[0]).to(device)
    second_SP3 = first_RP3 if arrays[1] is arrays[0] else torch.from_numpy(arrays[1]).to(device)
    return chamfer_matrix(first_RP3, second_SP3, progress, make_nearest_distance(device)).numpy()
