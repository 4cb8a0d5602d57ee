"""Geometry metrics of a sampler: Chamfer COV and MMD against held-out meshes, with a control, and mesh quality.

Shape legend: R references, S samples, P points
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from get3d_model.config import EvaluationConfig
from get3d_model.data.manifest import Manifest
from get3d_model.errors import InputError
from get3d_model.inference import Sampler
from get3d_model.mesh_io import load_textured_mesh
from get3d_model.mesh_topology import MeshTopology, mesh_topology
from get3d_model.metrics.chamfer import chamfer_matrix, surface_points
from get3d_model.metrics.coverage import coverage_score
from get3d_model.metrics.mesh_quality import mesh_quality
from get3d_model.metrics.select import make_nearest_distance

BATCH = 8


def evaluate_geometry(
    sampler: Sampler, manifest: Manifest, meshes_dir: Path, settings: EvaluationConfig
) -> dict[str, Any]:
    """Flat metrics for `metrics.json`. Raises InputError for a data set without held-out shapes or a missing mesh.

    The control, `train_cov` and `train_mmd`, scores as many training meshes in the place of the samples: what
    good looks like on this data set.
    """
    held_out = manifest.splits.get("val") or []
    if not held_out:
        raise InputError(
            "the data set's manifest has no val split; render again with a larger --val-fraction"
        )
    references_RP3 = _reference_points(manifest, meshes_dir, held_out, settings)
    count = settings.samples_per_reference * len(held_out)
    samples_SP3, topologies = _sample_points(sampler, count, settings)
    metrics: dict[str, Any] = {
        "kimg": sampler.identity.kimg,
        "checkpoint_sha256": sampler.identity.sha256,
        "references": len(held_out),
        "samples": count,
        "surface_points": settings.surface_points,
        "truncation_psi": settings.truncation_psi,
    }
    if len(samples_SP3):
        score = coverage_score(_distances(references_RP3, samples_SP3, sampler.device, "chamfer samples"))
        metrics |= {"cd_cov": score.cov, "cd_mmd_x1000": score.mmd * 1000}
    else:
        metrics |= {"cd_cov": 0.0, "cd_mmd_x1000": None}
    train = sorted(manifest.splits.get("train") or [])[:count]
    if train:
        control_SP3 = _reference_points(manifest, meshes_dir, train, settings)
        control = coverage_score(_distances(references_RP3, control_SP3, sampler.device, "chamfer control"))
        metrics |= {
            "train_cd_cov": control.cov,
            "train_cd_mmd_x1000": control.mmd * 1000,
            "train_control": len(train),
        }
    quality = {name: None if math.isnan(value) else value for name, value in mesh_quality(topologies).items()}
    return metrics | quality


def _distances(
    references_RP3: np.ndarray, samples_SP3: np.ndarray, device: torch.device, label: str
) -> torch.Tensor:
    with tqdm(
        total=len(references_RP3) * len(samples_SP3), desc=label, disable=not sys.stderr.isatty()
    ) as bar:
        return chamfer_matrix(
            torch.from_numpy(references_RP3).to(device),
            torch.from_numpy(samples_SP3).to(device),
            bar.update,
            make_nearest_distance(device),
        )


def _reference_points(
    manifest: Manifest, meshes_dir: Path, shape_ids: list[str], settings: EvaluationConfig
) -> np.ndarray:
    points = []
    for shape_id in tqdm(sorted(shape_ids), desc="reference meshes", disable=not sys.stderr.isatty()):
        if shape_id not in manifest.shapes:
            raise InputError(f"the manifest's split lists {shape_id}, which was not rendered; render again")
        path = meshes_dir / manifest.shapes[shape_id].source
        points.append(surface_points(load_textured_mesh(path), settings.surface_points, settings.seed))
    return np.stack(points)


def _sample_points(
    sampler: Sampler, count: int, settings: EvaluationConfig
) -> tuple[np.ndarray, list[MeshTopology]]:
    """Surface points of the non-empty samples, and the topology of all."""
    points, topologies = [], []
    seeds = range(settings.seed, settings.seed + count)
    for first in tqdm(range(0, count, BATCH), desc="samples", disable=not sys.stderr.isatty()):
        shapes = sampler.shapes(sampler.styles(seeds[first : first + BATCH], settings.truncation_psi))
        for index in range(len(shapes.meshes)):
            mesh = shapes.meshes.mesh(index)
            if bool(shapes.empty_B[index]):
                # The forced stand-in of the empty-shape rule is not a sample of the model.
                mesh = type(mesh)(mesh.vertices_V3[:0], mesh.faces_F3[:0])
            topologies.append(mesh_topology(mesh))
            if len(mesh.faces_F3):
                points.append(surface_points(mesh, settings.surface_points, settings.seed))
    return (np.stack(points) if points else np.zeros((0, settings.surface_points, 3), np.float32)), topologies
