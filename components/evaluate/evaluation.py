"""The whole evaluation of a checkpoint, in order, and the files it writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.evaluate.catalogue import show
from components.evaluate.distributions import Distribution, distribution_svg, plot_rows
from components.evaluate.gate import Verdict
from components.evaluate.geometry import geometry_section, quality_section, sample_facts
from components.evaluate.images import Pictures, images_section, picture_network
from components.evaluate.memory import (
    Neighbors,
    memory_section,
    nearest_shapes,
    nearest_training_pictures,
    neighbors_of_samples,
)
from components.evaluate.page import Titles, evaluation_html
from components.evaluate.results import CONTROLS, Section, flat, full, merge
from components.evaluate.samples import draw_samples
from components.evaluate.shapes import MeshFolder, ShapeReader, ShapeSet, held_out_shapes
from components.evaluate.sheets import Sheets, make_sheets
from components.evaluate.viewer import viewer_html
from components.metrics.feature_cache import FeatureCache
from get3d_model.data.manifest import Manifest
from get3d_model.evaluation_settings import EvaluationConfig
from get3d_model.files import sha256_json, write_bytes_atomic, write_json_atomic
from get3d_model.image_grid import save_image, tile
from get3d_model.inference import Sampler
from get3d_model.metrics.bootstrap import Bootstrap
from get3d_model.metrics.mesh_quality import quality_arrays

SHEET_COLUMNS = 8
# Facts of meshes that are shown as curves: name, title, axis.
QUALITY_CURVES = (
    ("triangles", "Triangles", "per mesh"),
    ("components", "Connected parts", "per mesh"),
    ("euler_characteristic", "Euler characteristic", "per mesh"),
    ("degenerate_faces", "Degenerate triangles", "per mesh"),
    ("self_intersection_share", "Faces through others", "share of 500 random faces of a mesh"),
    ("texture_utilisation", "Texture in use", "share of the texture"),
)
EXPLANATIONS = {
    "texture_utilisation": "Of the samples pictured above, and of the data set's meshes that have a texture.",
    "components": "Collected meshes are often built of many loose parts; samples should be of one.",
}


@dataclass(frozen=True)
class Evaluation:
    """All that was found."""

    section: Section
    sheets: Sheets
    distributions: list[Distribution]


def evaluate(
    sampler: Sampler,
    data: Path,
    manifest: Manifest,
    meshes: Path,
    settings: EvaluationConfig,
    cache: Path,
    weights_sha256: str | None = None,
) -> Evaluation:
    """Measures a checkpoint. cache: for the Inception weights and features.

    weights_sha256: of the Inception weights, if they are not the published ones.
    Raises InputError for unusable input: see `held_out_shapes`, `picture_network`, `draw_samples`.
    """
    bootstrap = Bootstrap(settings.bootstrap_resamples, settings.confidence, settings.seed)
    folder = MeshFolder(meshes, manifest)
    kept = FeatureCache(cache / "shapes", optional=True)
    reader = ShapeReader(folder, settings, kept, sampler.device)
    references, unusable = held_out_shapes(reader, manifest, settings)
    count = settings.samples_per_reference * len(references)
    pictures = Pictures(sampler, data, manifest, settings)
    network = picture_network(pictures, cache, weights_sha256)
    samples, empty = draw_samples(sampler, pictures.generated(), reader, count, settings)
    train, unusable_train = reader.read(manifest.splits.get("train") or [], "training meshes")
    facts = sample_facts(samples.qualities, list(samples.textured.values()))
    sections = [
        _facts(
            sampler,
            manifest,
            settings,
            references,
            count,
            len(unusable) + len(unusable_train),
            len(empty),
            len(reader.changed),
        ),
        images_section(pictures, network, cache, bootstrap),
        geometry_section(references, samples.shapes, train, settings, bootstrap, sampler.device),
        quality_section(facts, len(samples.textured), references, train, bootstrap),
    ]
    points = min(settings.memorization_points, settings.surface_points)
    near = nearest_shapes(samples.shapes, references, train, points, sampler.device)
    near_pictures = nearest_training_pictures(pictures, samples.vectors_ND)
    sections.append(memory_section(near, near_pictures, points, bootstrap))
    nearest = neighbors_of_samples(near, near_pictures, pictures)
    excluded = [*unusable, *unusable_train, *empty]
    details = {"nearest_training": nearest, "changed_meshes": sorted(reader.changed)}
    sections.append(Section(excluded=excluded, details=details))
    sheets = make_sheets(samples, pictures, folder, near, near_pictures)
    quality = {"samples": facts} | {
        name: quality_arrays(shapes.qualities)
        for name, shapes in (("held out", references), ("training", train))
        if shapes.qualities
    }
    return Evaluation(merge(sections), sheets, _distributions(near, near_pictures, quality))


def _facts(
    sampler: Sampler,
    manifest: Manifest,
    settings: EvaluationConfig,
    references: ShapeSet,
    samples: int,
    unusable: int,
    empty: int,
    changed: int,
) -> Section:
    """What was measured. The seed and the model are no settings: other ones give comparable numbers."""
    return Section(
        facts={
            "kimg": sampler.identity.kimg,
            "checkpoint_sha256": sampler.identity.sha256,
            "references": len(references),
            "samples": samples,
            "surface_points": settings.surface_points,
            "truncation_psi": settings.truncation_psi,
            "seed": settings.seed,
            "excluded_meshes": unusable,
            "excluded_samples": empty,
            "changed_meshes": changed,
        },
        settings={
            "data_sha256": sha256_json(manifest.to_json()),
            "split": settings.split,
            "references": len(references),
            "samples": samples,
            "truncation_psi": settings.truncation_psi,
        },
    )


def _distributions(
    near: Neighbors | None, pictures: Neighbors | None, quality: Mapping[str, Mapping[str, np.ndarray]]
) -> list[Distribution]:
    """quality: facts by name, by what they are of."""
    found = []
    for name, what, unit, neighbors in (
        ("nearest_training_shape", "training shape", "Chamfer distance", near),
        ("nearest_training_picture", "training picture", "difference of pixels", pictures),
    ):
        if neighbors is not None:
            found.append(
                Distribution(
                    name,
                    f"Distance to the nearest {what}",
                    unit,
                    "Where the samples' curve runs far to the left of the held-out one's, the model copies.",
                    {"samples": neighbors.distance_S, "held out": neighbors.held_out_distance_R},
                )
            )
    for name, title, axis in QUALITY_CURVES:
        known = {label: facts[name][~np.isnan(facts[name])] for label, facts in quality.items()}
        if len(known["samples"]):
            found.append(Distribution(name, title, axis, EXPLANATIONS.get(name, ""), known))
    return found


def write(evaluation: Evaluation, verdict: Verdict, titles: Titles, out: Path) -> None:
    """metrics.json, metrics_full.json, gate.json, report.html, pictures and plots/, each atomically; metrics.json last.
    Plots of an earlier evaluation that this one does not have are removed."""
    section = evaluation.section
    names = {f"{distribution.name}.json" for distribution in evaluation.distributions}
    for earlier in (out / "plots").glob("*.json"):
        if earlier.name not in names:
            earlier.unlink()
    for distribution in evaluation.distributions:
        content = json.dumps(plot_rows(distribution), indent=1) + "\n"
        write_bytes_atomic(out / "plots" / f"{distribution.name}.json", content.encode())
    sheet = np.stack([picture for _, picture in evaluation.sheets.samples])
    save_image(tile(sheet, min(SHEET_COLUMNS, len(sheet))), out / "samples.png")
    curves = [(d.explanation, svg) for d in evaluation.distributions if (svg := distribution_svg(d))]
    viewer = viewer_html(evaluation.sheets.meshes)
    page = evaluation_html(titles, section, verdict, evaluation.sheets, curves, viewer)
    write_bytes_atomic(out / "report.html", page.encode())
    write_json_atomic(out / "gate.json", verdict.as_dict())
    write_json_atomic(out / "metrics_full.json", full(section))
    write_json_atomic(out / "metrics.json", flat(section))


def lines(section: Section) -> list[str]:
    """The printed table: every metric with its interval and controls, and what is unavailable."""
    rows = [f"{name:34s} {value}" for name, value in section.facts.items()]
    for name, interval in section.metrics.items():
        text = f"{name:34s} {show(name, interval.value):>9s}"
        if math.isfinite(interval.low):
            text += f"  [{show(name, interval.low)}, {show(name, interval.high)}]"
        for control in CONTROLS:
            if name in section.controls.get(control, {}):
                text += f"  {control} {show(name, section.controls[control][name].value)}"
        rows.append(text)
    # One line for all that one thing would make available.
    for why in dict.fromkeys(section.unavailable.values()):
        rows.append(f"{', '.join(n for n, w in section.unavailable.items() if w == why)}: {why}")
    return rows
