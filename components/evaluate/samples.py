"""The samples of the model: drawn once, for every measure and picture.

Shape legend: S samples with a surface, N all samples, P points, D values of a small picture, H W pixels
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from tqdm import tqdm

from components.evaluate.shapes import Excluded, ShapeSet, stack_points
from get3d_model.config import EvaluationConfig
from get3d_model.errors import InputError
from get3d_model.inference import Sampler, Shapes
from get3d_model.mesh_topology import MeshTopology, mesh_topology
from get3d_model.metrics.chamfer import surface_points
from get3d_model.metrics.image_sets import GeneratedImages, camera_slice
from get3d_model.metrics.memorization import picture_vectors
from get3d_model.types import TexturedMesh

BATCH = 8
# Pictures in the page, in pixels; and texels along a side, two per pixel, since half of a texture is out of sight.
SIZE, TEXTURE = 224, 448


@dataclass(frozen=True)
class Samples:
    """shapes: those that have a surface. topologies, thumbnails (JPEG), vectors_ND (see `picture_vectors`): of all, in
    the order of the seeds. textured: the first ones by seed, without faces where the field has no surface."""

    shapes: ShapeSet
    topologies: list[MeshTopology]
    vectors_ND: np.ndarray
    thumbnails: list[bytes]
    textured: dict[int, TexturedMesh]


def draw_samples(
    sampler: Sampler, generated: GeneratedImages, count: int, settings: EvaluationConfig
) -> tuple[Samples, Excluded]:
    """Samples of the seeds from `settings.seed` on, and those without a surface.

    Raises InputError for fewer samples than `min_samples`.
    """
    if count < settings.min_samples:
        raise InputError(
            f"{count} samples are too few: at least {settings.min_samples} are needed (evaluation.min_samples); "
            "raise evaluation.samples_per_reference"
        )
    names, points, topologies, vectors, thumbnails, excluded = [], [], [], [], [], []
    textured: dict[int, TexturedMesh] = {}
    seeds = range(settings.seed, settings.seed + count)
    cameras = generated.all_cameras(count)
    for first in tqdm(range(0, count, BATCH), desc="samples", disable=not sys.stderr.isatty()):
        batch = seeds[first : first + BATCH]
        shapes = sampler.shapes(sampler.styles(batch, settings.truncation_psi))
        for index, seed in enumerate(batch):
            mesh = shapes.meshes.mesh(index)
            if bool(shapes.empty_B[index]):
                # The forced stand-in of the empty-shape rule is not a sample of the model.
                mesh = type(mesh)(mesh.vertices_V3[:0], mesh.faces_F3[:0])
            topologies.append(mesh_topology(mesh))
            try:
                points.append(surface_points(mesh, settings.surface_points, settings.seed))
            except InputError as error:
                excluded.append((f"sample of seed {seed}", str(error)))
                continue
            names.append(str(seed))
        camera = camera_slice(cameras, slice(first, first + len(batch)), sampler.device)
        drawn_BHW3 = generated.draw(shapes, camera, own_background=False)
        vectors.append(picture_vectors([drawn_BHW3]))
        thumbnails += [_jpeg(picture_HW3) for picture_HW3 in drawn_BHW3]
        shown = range(max(0, min(len(batch), settings.sheet_samples - first)))
        for index, mesh in zip(shown, texture(sampler, shapes, shown), strict=True):
            textured[batch[index]] = mesh
    shape_set = ShapeSet(names, stack_points(points, settings))
    return Samples(shape_set, topologies, np.concatenate(vectors), thumbnails, textured), excluded


def texture(sampler: Sampler, shapes: Shapes, indices: Sequence[int]) -> list[TexturedMesh]:
    """Textured meshes of some shapes of a batch."""
    meshes = sampler.textured_meshes(shapes, indices, [TEXTURE] * len(indices)) if len(indices) else []
    return [
        # What the empty-shape rule puts there is not the model's.
        replace(mesh, faces_F3=mesh.faces_F3[:0]) if bool(shapes.empty_B[index]) else mesh
        for index, mesh in zip(indices, meshes, strict=True)
    ]


def fitted(picture_HW3: np.ndarray) -> np.ndarray:
    """The picture with SIZE^2 pixels."""
    if picture_HW3.shape[:2] == (SIZE, SIZE):
        return picture_HW3
    return np.asarray(Image.fromarray(picture_HW3).resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def _jpeg(picture_HW3: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(fitted(picture_HW3)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
