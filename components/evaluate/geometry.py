"""Measures of shapes: COV, MMD, 1-NNA and JSD of samples against held-out meshes, with controls; mesh quality.

Shape legend: R references, S samples, P points, L A F of a light field descriptor
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple

import numpy as np
import torch
from tqdm import tqdm

from components.evaluate.results import Section
from components.evaluate.shapes import ShapeSet
from get3d_model.evaluation_settings import EvaluationConfig
from get3d_model.metrics.bootstrap import Bootstrap, Interval
from get3d_model.metrics.chamfer import chamfer_matrix
from get3d_model.metrics.lfd import VERSION, silhouette_backend
from get3d_model.metrics.lfd_distance import lfd_matrix
from get3d_model.metrics.mesh_quality import (
    SAMPLED_FACES,
    MeshQuality,
    fact_distributions,
    quality_arrays,
    texture_utilisation,
)
from get3d_model.metrics.select import make_nearest_distance
from get3d_model.metrics.set_intervals import divergence_interval, matching_intervals, one_nna_interval
from get3d_model.metrics.set_metrics import occupied_cells
from get3d_model.types import TexturedMesh

# Half the side of the cube that the shapes fill.
HALF_EXTENTS = {"box": 0.5, "sphere": 1.0}


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
            "surface": settings.surface,
            "normalize": settings.normalize,
            "distances": ", ".join(settings.distances),
            **(
                {"lfd_version": VERSION, "lfd_rasterizer": silhouette_backend(device)}
                if "lfd" in settings.distances
                else {}
            ),
            "samples_per_reference": settings.samples_per_reference,
        }
    )
    if len(samples):
        section.metrics.update(set_metrics(references, samples, settings, bootstrap, device, "samples"))
        for name in (f"{kind}_1nna" for kind in settings.distances):
            if name not in section.metrics:
                section.unavailable[name] = (
                    "a nearest neighbour needs two held-out shapes and two samples with a surface, there are "
                    f"{len(references)} and {len(samples)}"
                )
    else:
        # Nothing is covered by nothing; distances to nothing there are none.
        none = ["jsd"]
        for kind in settings.distances:
            section.metrics[f"{kind}_cov"] = Interval(0.0, 0.0, 0.0)
            none += [f"{kind}_mmd{DISTANCES[kind][2]}", f"{kind}_1nna"]
        section.unavailable.update(dict.fromkeys(none, "no sample has a surface"))
    if len(train):
        count = min(len(train), max(len(samples), settings.samples_per_reference * len(references)))
        chosen = train[np.sort(rng.permutation(len(train))[:count])]
        section.controls["train"] = set_metrics(references, chosen, settings, bootstrap, device, "control")
        section.facts["train_control"] = count
    if len(references) >= 2:
        order = rng.permutation(len(references))
        first, second = (references[np.sort(half)] for half in np.array_split(order, 2))
        section.controls["self"] = set_metrics(first, second, settings, bootstrap, device, "halves")
    return section


def set_metrics(
    references: ShapeSet,
    others: ShapeSet,
    settings: EvaluationConfig,
    bootstrap: Bootstrap,
    device: torch.device,
    label: str,
) -> dict[str, Interval]:
    """COV, MMD and 1-NNA by every distance asked for, and JSD, with intervals."""
    found: dict[str, Interval] = {}
    # 1-NNA compares sets of one size; a seeded choice, because shapes of a data set lie in the order of their names,
    # and those with like names are alike.
    size = min(len(references), len(others))
    random = np.random.default_rng(settings.seed)
    places = [np.sort(random.permutation(len(s))[:size]) for s in (references, others)]
    equal = [s[place] for s, place in zip((references, others), places, strict=True)]
    for kind in settings.distances:
        distances, factor, suffix = DISTANCES[kind]
        between_RS = distances(references, others, device, f"{kind} {label}")
        matching = matching_intervals(between_RS, bootstrap)
        found[f"{kind}_cov"] = matching["cov"]
        found[f"{kind}_mmd{suffix}"] = Interval(*(factor * v for v in astuple(matching["mmd"])))
        if size >= 2:
            within = [distances(s, s, device, f"{kind} within {label}") for s in equal]
            found[f"{kind}_1nna"] = one_nna_interval(
                within[0], between_RS[np.ix_(*places)], within[1], bootstrap
            )
    cells = [occupied_cells(s.points_SP3, HALF_EXTENTS[settings.normalize]) for s in (references, others)]
    found["jsd"] = divergence_interval(*cells, bootstrap)
    return found


def chamfer(first: ShapeSet, second: ShapeSet, device: torch.device, label: str) -> np.ndarray:
    """Chamfer distances, RS; a set given twice is compared once."""
    first_RP3 = torch.from_numpy(first.points_SP3).to(device)
    second_SP3 = first_RP3 if second is first else torch.from_numpy(second.points_SP3).to(device)
    with _bar(first, second, label) as bar:
        return chamfer_matrix(first_RP3, second_SP3, bar.update, make_nearest_distance(device)).numpy()


def light_field(first: ShapeSet, second: ShapeSet, device: torch.device, label: str) -> np.ndarray:
    """Light field distances, RS; a set given twice is compared once."""
    with _bar(first, second, label) as bar:
        return lfd_matrix(first.descriptors_SLAF, second.descriptors_SLAF, device, bar.update)


def _bar(first: ShapeSet, second: ShapeSet, label: str) -> tqdm:
    """Within a set every pair is compared once."""
    pairs = len(first) * (len(first) - 1) // 2 if second is first else len(first) * len(second)
    return tqdm(total=pairs, desc=label, unit="pair", disable=not sys.stderr.isatty())


# The distance, and what its MMD is multiplied with.
DISTANCES = {"cd": (chamfer, 1000.0, "_x1000"), "lfd": (light_field, 1.0, "")}


FRACTIONS = ("empty", "watertight", "manifold", "single_component", "self_intersecting")
MEDIANS = (
    "components", "triangles", "degenerate_faces", "euler_characteristic", "self_intersection_share",
    "texture_utilisation",
)  # fmt: skip


def quality_section(
    facts: Mapping[str, np.ndarray],
    textured: int,
    references: ShapeSet,
    train: ShapeSet,
    bootstrap: Bootstrap,
) -> Section:
    """Mesh quality: shares over all samples, shares and medians of those with a surface. facts: of the samples, see
    `sample_facts`. textured: how many of them have a texture. Controls: the same of the data set's own meshes."""

    def summary(facts: Mapping[str, np.ndarray], fractions: Sequence[str]) -> dict[str, Interval]:
        known = {name: values[~np.isnan(values)] for name, values in facts.items()}
        found = {f"{name}_fraction": bootstrap.mean(known[name]) for name in fractions}
        return found | {f"{name}_median": bootstrap.quantile(known[name]) for name in MEDIANS}

    controls = {}
    for control, shapes in (("train", train), ("self", references)):
        if shapes.qualities:
            # Meshes without a surface were left out when they were read.
            controls[control] = {
                name: interval
                for name, interval in summary(quality_arrays(shapes.qualities), FRACTIONS[1:]).items()
                # Where none has a texture, for instance.
                if math.isfinite(interval.value)
            }
    return Section(
        metrics=summary(facts, FRACTIONS),
        controls=controls,
        settings={"quality_faces_sampled": SAMPLED_FACES},
        facts={"textured_samples": textured},
        details={"quality_distributions": fact_distributions(facts)},
    )


def sample_facts(qualities: Sequence[MeshQuality], textured: Sequence[TexturedMesh]) -> dict[str, np.ndarray]:
    """Every fact of every sample, nan where there is none; that of textures of those which have one, `textured`."""
    facts = quality_arrays(qualities)
    used = [texture_utilisation(mesh) for mesh in textured if len(mesh.faces_F3)]
    return {**facts, "texture_utilisation": np.array(used, np.float64)}
