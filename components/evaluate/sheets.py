"""Pictures of an evaluation: a sheet of samples, and the training shapes and pictures that are nearest to some.

Shape legend: H W pixels
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from components.evaluate.images import Pictures
from components.evaluate.memory import Neighbors, closest_first, picture_name
from components.evaluate.samples import SIZE, Samples, fitted, texture
from components.evaluate.shapes import MeshFolder
from components.generate.strip import mesh_pictures
from get3d_model.mesh_io import normalize
from get3d_model.rendering.mesh_renderer import Lighting
from get3d_model.types import TexturedMesh

# Pairs shown of each kind.
PAIRS = 6


@dataclass(frozen=True)
class Pair:
    """A sample beside its nearest training member. distance: as measured."""

    sample: str
    sample_HW3: np.ndarray
    nearest: str
    nearest_HW3: np.ndarray
    distance: float


@dataclass(frozen=True)
class Sheets:
    """samples: (seed, picture). meshes: those samples, by seed, for viewers. shape_pairs, picture_pairs: the closest
    ones first."""

    samples: list[tuple[str, np.ndarray]]
    meshes: dict[str, TexturedMesh]
    shape_pairs: list[Pair]
    picture_pairs: list[Pair]


def make_sheets(
    samples: Samples,
    pictures: Pictures,
    meshes: MeshFolder,
    shapes: Neighbors | None,
    images: Neighbors | None,
) -> Sheets:
    """Renders everything. Raises InputError for a training mesh that can no longer be read."""
    shown = [one_size(mesh) for mesh in samples.textured.values()]
    rendered = mesh_pictures(shown, SIZE)
    return Sheets(
        [(str(seed), picture) for seed, picture in zip(samples.textured, rendered, strict=True)],
        {str(seed): mesh for seed, mesh in samples.textured.items() if len(mesh.faces_F3)},
        [] if shapes is None else _shape_pairs(shapes, samples, pictures, meshes),
        [] if images is None else _picture_pairs(images, samples, pictures),
    )


def one_size(mesh: TexturedMesh) -> TexturedMesh:
    """The mesh with its longest side at the usual length; one without faces as it is."""
    return normalize(mesh) if len(mesh.faces_F3) else mesh


def _shape_pairs(found: Neighbors, samples: Samples, pictures: Pictures, meshes: MeshFolder) -> list[Pair]:
    places = closest_first(found, PAIRS)
    made, sampler = dict(samples.textured), pictures.sampler
    missing = [seed for i in places if (seed := int(found.names_S[i])) not in made]
    if missing:
        shapes = sampler.shapes(sampler.styles(missing, pictures.settings.truncation_psi))
        made |= zip(missing, texture(sampler, shapes, range(len(missing))), strict=True)
    # Both at one size, as they were compared.
    rendered = mesh_pictures([one_size(made[int(found.names_S[i])]) for i in places], SIZE)
    nearest = mesh_pictures(
        [normalize(meshes.load(str(found.nearest_S[i]))) for i in places], SIZE, Lighting()
    )
    return [
        Pair(f"seed {found.names_S[i]}", sample, str(found.nearest_S[i]), other, float(found.distance_S[i]))
        for i, sample, other in zip(places, rendered, nearest, strict=True)
    ]


def _picture_pairs(found: Neighbors, samples: Samples, pictures: Pictures) -> list[Pair]:
    pairs = []
    for i in closest_first(found, PAIRS):
        item = int(found.nearest_S[i])
        (real_1HW3,) = pictures.real("train", np.array([item]), "")
        drawn_HW3 = np.asarray(Image.open(io.BytesIO(samples.thumbnails[i])))
        name = picture_name(pictures, item)
        distance = float(found.distance_S[i])
        pairs.append(Pair(f"seed {found.names_S[i]}", drawn_HW3, name, fitted(real_1HW3[0]), distance))
    return pairs
