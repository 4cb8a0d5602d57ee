"""Measures of shapes: COV, MMD, 1-NNA and JSD of samples against held-out meshes, with controls; mesh quality.

Shape legend: R references, S samples, K resamples
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from components.evaluate.results import Section
from components.evaluate.shapes import ShapeSet
from get3d_model.config import EvaluationConfig
from get3d_model.mesh_topology import MeshTopology
from get3d_model.metrics.bootstrap import Bootstrap, Interval
from get3d_model.metrics.chamfer import chamfer_matrix
from get3d_model.metrics.select import make_nearest_distance
from get3d_model.metrics.set_metrics import jensen_shannon, occupied_cells, set_scores

# Of the box that the shapes were scaled to.
HALF_EXTENT = 0.5


def geometry_section(
    references: ShapeSet,
    samples: ShapeSet,
    train: ShapeSet,
    settings: EvaluationConfig,
    bootstrap: Bootstrap,
    device: torch.device,
) -> Section:
    """Set metrics with both controls: as many training shapes as there are samples; the references' two halves."""
    rng = np.random.default_rng(settings.seed)
    section = Section(
        settings={
            "surface_points": settings.surface_points,
            "samples_per_reference": settings.samples_per_reference,
        }
    )
    if len(samples):
        section.metrics.update(set_metrics(references, samples, bootstrap, device, "samples"))
    else:
        # Nothing is covered by nothing; distances to nothing there are none.
        section.metrics["cd_cov"] = Interval(0.0, 0.0, 0.0)
        none = ("cd_mmd_x1000", "cd_1nna", "jsd")
        section.unavailable.update(dict.fromkeys(none, "no sample has a surface"))
    if len(train):
        count = min(len(train), max(len(samples), settings.samples_per_reference * len(references)))
        chosen = train[np.sort(rng.permutation(len(train))[:count])]
        section.controls["train"] = set_metrics(references, chosen, bootstrap, device, "control")
        section.facts["train_control"] = count
    if len(references) >= 2:
        order = rng.permutation(len(references))
        first, second = (references[np.sort(half)] for half in np.array_split(order, 2))
        section.controls["self"] = set_metrics(first, second, bootstrap, device, "halves")
    return section


def set_metrics(
    references: ShapeSet, others: ShapeSet, bootstrap: Bootstrap, device: torch.device, label: str
) -> dict[str, Interval]:
    """COV, MMD, 1-NNA by the Chamfer distance, and JSD, with intervals."""
    between_RS = chamfer(references, others, device, f"chamfer {label}")
    sizes = [len(references), len(others)]

    def coverage(i_KR: np.ndarray, j_KS: np.ndarray) -> dict[str, np.ndarray]:
        scores = [set_scores(between_RS[np.ix_(i, j)]) for i, j in zip(i_KR, j_KS, strict=True)]
        return {
            "cd_cov": np.array([score.cov for score in scores]),
            "cd_mmd_x1000": np.array([score.mmd * 1000 for score in scores]),
        }

    found = {name: _clip(name, x) for name, x in bootstrap.intervals(coverage, sizes, neighbors=True).items()}
    if min(sizes) >= 2:
        # 1-NNA compares sets of one size.
        equal = others[np.arange(min(sizes[1], sizes[0]))]
        within = [chamfer(s, s, device, f"chamfer within {label}") for s in (references, equal)]
        scores = set_scores(between_RS, *within)
        found["cd_1nna"] = bootstrap.mean(scores.one_nna_correct_N)
    cells_RP, cells_SP = (occupied_cells(s.points_SP3, HALF_EXTENT) for s in (references, others))

    def divergence(i_KR: np.ndarray, j_KS: np.ndarray) -> np.ndarray:
        return np.array([jensen_shannon(cells_RP[i], cells_SP[j]) for i, j in zip(i_KR, j_KS, strict=True)])

    found["jsd"] = _clip("jsd", bootstrap.interval(divergence, sizes, neighbors=True))
    return found


def chamfer(first: ShapeSet, second: ShapeSet, device: torch.device, label: str) -> np.ndarray:
    """Chamfer distances, RS; a set given twice is compared once."""
    first_RP3 = torch.from_numpy(first.points_SP3).to(device)
    second_SP3 = first_RP3 if second is first else torch.from_numpy(second.points_SP3).to(device)
    with tqdm(total=len(first) * len(second), desc=label, disable=not sys.stderr.isatty()) as bar:
        return chamfer_matrix(first_RP3, second_SP3, bar.update, make_nearest_distance(device)).numpy()


def quality_section(topologies: Sequence[MeshTopology], bootstrap: Bootstrap) -> Section:
    """Mesh quality: shares over all samples, and of those with a surface."""
    full = [t for t in topologies if t.faces > 0]
    metrics = {
        "empty_fraction": bootstrap.mean([t.faces == 0 for t in topologies]),
        "watertight_fraction": bootstrap.mean([t.watertight for t in full]),
        "single_component_fraction": bootstrap.mean([t.components == 1 for t in full]),
        "components_median": bootstrap.quantile([t.components for t in full]),
        "triangles_median": bootstrap.quantile([t.faces for t in full]),
        "degenerate_faces_median": bootstrap.quantile([t.degenerate_faces for t in full]),
    }
    return Section(metrics=metrics)


def _clip(name: str, interval: Interval) -> Interval:
    """Intervals that are put around a value may reach beyond what is possible."""
    high = 1.0 if name in ("cd_cov", "jsd") else np.inf
    return Interval(interval.value, max(0.0, interval.low), min(high, interval.high))
