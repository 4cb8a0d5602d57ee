"""The rows of pictures on the contact sheet: training meshes, served samples, an interpolation.

Shape legend: H W pixels, L B as in get3d_model.inference
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from components.generate.strip import BACK, FRONT, mesh_pictures
from components.report.inputs import SHOWN, RunInputs, Sample
from get3d_model.inference import Sampler, interpolate_styles
from get3d_model.mesh_io import load_textured_mesh, normalize
from get3d_model.rendering.mesh_renderer import Lighting
from get3d_model.types import TexturedMesh

INTERPOLATION_STEPS = SHOWN
# Texels along a side; about two per pixel of the sheet, since half of a texture is out of sight.
INTERPOLATION_TEXTURE = 512


@dataclass(frozen=True)
class Band:
    """rows: rows of equally large uint8 HW3 pictures. captions: one per column, under the last row."""

    title: str
    note: str
    rows: list[list[np.ndarray]]
    captions: list[str]


def make_bands(inputs: RunInputs, resolution: int) -> list[Band]:
    """Renders the bands with pictures of `resolution`^2 pixels. Raises InputError for damaged meshes."""
    with tqdm(total=3, desc="contact sheet", unit="band", disable=not sys.stderr.isatty()) as bar:
        bands = []
        for make in (_training_band, _samples_band, _interpolation_band):
            bands.append(make(inputs, resolution))
            bar.update()
    return bands


def _training_band(inputs: RunInputs, resolution: int) -> Band:
    # As they were scaled for the training views.
    scale = float(inputs.manifest.settings.get("scale", inputs.config.render.scale))
    meshes = [normalize(load_textured_mesh(path), scale) for path in inputs.real_meshes]
    count = len(inputs.manifest.splits["train"])
    return Band(
        "Training meshes",
        f"{len(meshes)} of {count}, lit; the model only ever sees pictures of them",
        [mesh_pictures(meshes, resolution, Lighting())],
        [path.stem for path in inputs.real_meshes],
    )


def _samples_band(inputs: RunInputs, resolution: int) -> Band:
    meshes = [load_textured_mesh(sample.path) for sample in inputs.samples]
    psis = sorted({sample.truncation_psi for sample in inputs.samples})
    return Band(
        "Samples served by Triton over gRPC",
        f"front and back, truncation psi {', '.join(f'{psi:g}' for psi in psis)}",
        [mesh_pictures(meshes, resolution, viewpoint=viewpoint) for viewpoint in (FRONT, BACK)],
        [f"seed {sample.seed}" + (" (no surface)" if sample.empty else "") for sample in inputs.samples],
    )


def _interpolation_band(inputs: RunInputs, resolution: int) -> Band:
    first, last = interpolation_ends(inputs.samples)
    meshes = interpolation_meshes(inputs.sampler, first, last)
    captions = [f"{step / (len(meshes) - 1):.0%}" for step in range(len(meshes))]
    captions[0], captions[-1] = f"seed {first.seed}", f"seed {last.seed}"
    return Band(
        "Interpolation",
        f"from seed {first.seed} to seed {last.seed} in {len(meshes)} steps, linear in w",
        [mesh_pictures(meshes, resolution)],
        captions,
    )


def interpolation_ends(samples: Sequence[Sample]) -> tuple[Sample, Sample]:
    """The first and last sample that have a surface, or of all when fewer than two have."""
    shown = [sample for sample in samples if not sample.empty]
    if len(shown) < 2:
        shown = list(samples)
    first, last = shown[0], shown[-1]
    # A single sample still has somewhere to go.
    return first, last if last.seed != first.seed else replace(last, seed=first.seed + 1)


def interpolation_meshes(sampler: Sampler, first: Sample, last: Sample) -> list[TexturedMesh]:
    """Meshes on the walk, without faces where the field has no surface."""
    ends = [sampler.styles([sample.seed], sample.truncation_psi) for sample in (first, last)]
    shapes = sampler.shapes(interpolate_styles(*ends, INTERPOLATION_STEPS))
    meshes = []
    for step in range(INTERPOLATION_STEPS):
        mesh = sampler.textured_mesh(shapes, step, INTERPOLATION_TEXTURE)
        if bool(shapes.empty_B[step]):
            # What the empty-shape rule puts there is not the model's.
            mesh = replace(mesh, faces_F3=mesh.faces_F3[:0])
        meshes.append(mesh)
    return meshes
