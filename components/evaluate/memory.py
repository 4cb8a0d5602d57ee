"""The memorisation check: the nearest training shape and picture of every sample, and how near held-out ones are.

Shape legend: S samples with a surface, N all samples, R held-out, T training
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from components.evaluate.geometry import chamfer
from components.evaluate.images import Pictures
from components.evaluate.results import Section
from components.evaluate.shapes import ShapeSet
from get3d_model.metrics.bootstrap import Bootstrap
from get3d_model.metrics.memorization import copying_probability, nearest_pictures, picture_vectors

# Pictures beyond this many are drawn by the seed: 50 000 rows of 3072 values are 600 MB.
MOST_PICTURES = 50_000


@dataclass(frozen=True)
class Neighbors:
    """The nearest training member of each of a kind, and its distance.

    names_S: the samples' seeds. nearest_S: training ids, or items of the training pictures. distance_S: to it.
    held_out_distance_R: of the held-out members to theirs.
    """

    names_S: list[str]
    nearest_S: list[str] | list[int]
    distance_S: np.ndarray
    held_out_distance_R: np.ndarray


def nearest_shapes(
    samples: ShapeSet, references: ShapeSet, train: ShapeSet, points: int, device: torch.device
) -> Neighbors | None:
    """By the Chamfer distance of `points` points per shape; None without training shapes or samples."""
    if not len(train) or not len(samples):
        return None
    # The points are in random order, so the first ones are as uniform as all.
    sets = [
        replace(s, points_SP3=np.ascontiguousarray(s.points_SP3[:, :points]))
        for s in (samples, references, train)
    ]
    to_train_ST = chamfer(sets[0], sets[2], device, "nearest training shapes")
    held_out_RT = chamfer(sets[1], sets[2], device, "nearest of held-out shapes")
    nearest_S = [train.names[i] for i in to_train_ST.argmin(axis=1)]
    return Neighbors(samples.names, nearest_S, to_train_ST.min(axis=1), held_out_RT.min(axis=1))


def nearest_training_pictures(pictures: Pictures, samples_ND: np.ndarray) -> Neighbors | None:
    """By pixels at 32 x 32. samples_ND: one picture per sample. None without training pictures."""
    if not pictures.manifest.splits.get("train"):
        return None
    device, count = pictures.sampler.device, len(samples_ND)
    train = pictures.chosen("train", MOST_PICTURES)
    held_out = pictures.chosen(pictures.settings.split, count)
    training_TD = picture_vectors(pictures.real("train", train, "training pictures"))
    held_out_RD = picture_vectors(pictures.real(pictures.settings.split, held_out, "held-out pictures"))
    nearest_S, distance_S = nearest_pictures(samples_ND, training_TD, device)
    _, held_out_distance_R = nearest_pictures(held_out_RD, training_TD, device)
    seeds = [str(pictures.settings.seed + i) for i in range(count)]
    return Neighbors(seeds, [int(train[i]) for i in nearest_S], distance_S, held_out_distance_R)


def picture_name(pictures: Pictures, item: int) -> str:
    """Which training picture it is, without reading it."""
    dataset = pictures.dataset("train")
    table, index = dataset.source.table, dataset.index_N[item]
    return f"{table.shape_ids[int(table.shape_N[index])]}, view {int(table.view_N[index])}"


def neighbors_of_samples(
    shapes: Neighbors | None, found: Neighbors | None, pictures: Pictures
) -> list[dict[str, Any]]:
    """What is nearest to every sample, by its seed; JSON-able. A sample without a surface has no nearest shape."""
    rows: dict[int, dict[str, Any]] = {}
    for kind, neighbors in (("shape", shapes), ("picture", found)):
        if neighbors is None:
            continue
        for seed, nearest, distance in zip(
            neighbors.names_S, neighbors.nearest_S, neighbors.distance_S, strict=True
        ):
            name = nearest if isinstance(nearest, str) else picture_name(pictures, nearest)
            row = rows.setdefault(int(seed), {"seed": int(seed)})
            row |= {kind: name, f"{kind}_distance": float(distance)}
    return [rows[seed] for seed in sorted(rows)]


def memory_section(
    shapes: Neighbors | None, pictures: Neighbors | None, points: int, bootstrap: Bootstrap
) -> Section:
    """How often a sample is nearer to the training set than what was held out, which is the control."""
    section = Section(settings={"memorization_points": points, "memorization_pictures": "pixels at 32 x 32"})
    for name, found in (("memorization_shape", shapes), ("memorization_image", pictures)):
        if found is None:
            section.unavailable[name] = "there is nothing to compare: no training members, or no sample"
        else:
            section.metrics[name] = copying_probability(
                found.distance_S, found.held_out_distance_R, bootstrap
            )
            section.metrics[f"{name}_distance_median"] = bootstrap.quantile(found.distance_S)
            held_out = found.held_out_distance_R
            # A training member is its own nearest one.
            for control, distance in (("train", np.zeros_like(held_out)), ("self", held_out)):
                section.controls.setdefault(control, {}).update(
                    {
                        name: copying_probability(distance, held_out, bootstrap),
                        f"{name}_distance_median": bootstrap.quantile(distance),
                    }
                )
    return section


def closest_first(found: Neighbors, count: int) -> list[int]:
    """Places of the `count` samples that are nearest to a training member: the ones to look at."""
    return [int(i) for i in np.argsort(found.distance_S, kind="stable")[:count]]
