"""The samples of the model: drawn once, for every measure and picture.

Shape legend: S samples with a surface, N all samples, P points, D values of a small picture, H W pixels
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from components.evaluate.shapes import Excluded, ShapeReader, ShapeSet
from get3d_model.errors import InputError
from get3d_model.evaluation_settings import EvaluationConfig
from get3d_model.inference import Sampler, Shapes
from get3d_model.metrics.image_sets import GeneratedImages, camera_slice
from get3d_model.metrics.memorization import picture_vectors
from get3d_model.metrics.mesh_quality import MeshQuality, measure_quality
from get3d_model.types import Mesh, TexturedMesh

BATCH = 8
# Pictures in the page, in pixels; and texels along a side, two per pixel, since half of a texture is out of sight.
SIZE, TEXTURE = 224, 448


@dataclass(frozen=True)
class Samples:
    """shapes: those that have a surface. qualities, thumbnails (JPEG), vectors_ND (see `picture_vectors`): of all, in
    the order of the seeds. textured: the first ones by seed, without faces where the field has no surface."""

    shapes: ShapeSet
    qualities: list[MeshQuality]
    vectors_ND: np.ndarray
    thumbnails: list[bytes]
    textured: dict[int, TexturedMesh]


def draw_samples(
    sampler: Sampler,
    generated: GeneratedImages,
    reader: ShapeReader,
    count: int,
    settings: EvaluationConfig,
) -> tuple[Samples, Excluded]:
    """Samples of the seeds from `settings.seed` on, and those without a surface.

    Raises InputError for fewer samples than `min_samples`.
    """
    if count < settings.min_samples:
        raise InputError(
            f"{count} samples are too few: at least {settings.min_samples} are needed (evaluation.min_samples); "
            "raise evaluation.samples_per_reference"
        )
    drawn = _Drawn(sampler, generated, count, settings)
    shapes, excluded = reader.describe(drawn.meshes(), "samples", count)
    excluded = [(f"sample of seed {name}", why) for name, why in excluded]
    vectors_ND = np.concatenate(drawn.vectors)
    return Samples(shapes, drawn.qualities, vectors_ND, drawn.thumbnails, drawn.textured), excluded


class _Drawn:
    """What is kept of every sample beside its shape, while the meshes go by."""

    def __init__(
        self, sampler: Sampler, generated: GeneratedImages, count: int, settings: EvaluationConfig
    ) -> None:
        self._sampler, self._generated, self._count, self._settings = sampler, generated, count, settings
        self.qualities: list[MeshQuality] = []
        self.vectors: list[np.ndarray] = []
        self.thumbnails: list[bytes] = []
        self.textured: dict[int, TexturedMesh] = {}

    def meshes(self) -> Iterator[tuple[str, Mesh]]:
        """(seed, mesh) of every sample; without faces where the field has no surface."""
        settings, sampler = self._settings, self._sampler
        seeds = range(settings.seed, settings.seed + self._count)
        cameras = self._generated.all_cameras(self._count)
        for first in range(0, self._count, BATCH):
            batch = seeds[first : first + BATCH]
            shapes = sampler.shapes(sampler.styles(batch, settings.truncation_psi))
            camera = camera_slice(cameras, slice(first, first + len(batch)), sampler.device)
            drawn_BHW3 = self._generated.draw(shapes, camera, own_background=False)
            self.vectors.append(picture_vectors([drawn_BHW3]))
            self.thumbnails += [_jpeg(picture_HW3) for picture_HW3 in drawn_BHW3]
            shown = range(max(0, min(len(batch), settings.sheet_samples - first)))
            for index, mesh in zip(shown, texture(sampler, shapes, shown), strict=True):
                self.textured[batch[index]] = mesh
            for index, seed in enumerate(batch):
                mesh = shapes.meshes.mesh(index)
                if bool(shapes.empty_B[index]):
                    # The forced stand-in of the empty-shape rule is not a sample of the model.
                    mesh = type(mesh)(mesh.vertices_V3[:0], mesh.faces_F3[:0])
                self.qualities.append(measure_quality(mesh, settings.seed))
                yield str(seed), mesh


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
