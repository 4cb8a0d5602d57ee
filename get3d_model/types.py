"""The values that pass between modules: frozen, with named fields.

Shape legend (also used in every other module of the package):
    B batch, V vertices (packed over the batch where a range array stands beside them), F faces,
    N grid vertices, H W image height and width, C channels
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from get3d_model.transfer import to_device


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh on the host.

    vertices_V3: float32; world frame, y up.
    faces_F3: int32 vertex indices, counter-clockwise seen from outside.
    """

    vertices_V3: np.ndarray
    faces_F3: np.ndarray


@dataclass(frozen=True)
class TexturedMesh:
    """A triangle mesh with one base-colour texture.

    vertices_V3: float32; world frame, y up. Vertices are split along texture seams.
    faces_F3: int32 vertex indices, counter-clockwise seen from outside.
    uvs_V2: float32 texture coordinates; (0, 0) is the bottom-left corner of the texture (the OpenGL and
        trimesh convention; glTF's flipped v is dealt with in `mesh_io`). Values outside [0, 1] repeat.
    texture_HW3: uint8 sRGB; row 0 is the top of the picture.
    extras: JSON-able facts stored in the file (`asset.extras` of a GLB): seed, psi, checkpoint hash ...
    """

    vertices_V3: np.ndarray
    faces_F3: np.ndarray
    uvs_V2: np.ndarray
    texture_HW3: np.ndarray
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ColoredMesh:
    """A triangle mesh with a colour at every vertex, for which it needs neither atlas nor texture.

    vertices_V3: float32; world frame, y up. faces_F3: int32, counter-clockwise seen from outside.
    colors_V3: uint8 sRGB. extras: as in `TexturedMesh`.
    """

    vertices_V3: np.ndarray
    faces_F3: np.ndarray
    colors_V3: np.ndarray
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PackedMeshes:
    """The meshes of a batch in one vertex and one face array (the rasteriser's range mode).

    vertices_V3: float positions of all meshes, one after the other.
    faces_F3: int32 indices into `vertices_V3` (already offset).
    vertex_ranges_B2, face_ranges_B2: int32 on the CPU, (first, count) of each mesh.
    first_vertex_B: the first column of vertex_ranges_B2 beside the vertices, where it is known there.
    """

    vertices_V3: Tensor
    faces_F3: Tensor
    vertex_ranges_B2: Tensor
    face_ranges_B2: Tensor
    first_vertex_B: Tensor | None = None

    def __len__(self) -> int:
        return self.face_ranges_B2.shape[0]

    def mesh(self, index: int) -> Mesh:
        """Mesh `index` of the batch, copied to the host."""
        first_vertex, vertices = self.vertex_ranges_B2[index].tolist()
        first_face, faces = self.face_ranges_B2[index].tolist()
        vertices_V3 = self.vertices_V3[first_vertex : first_vertex + vertices]
        faces_F3 = self.faces_F3[first_face : first_face + faces] - first_vertex
        return Mesh(
            vertices_V3.detach().float().cpu().numpy(),
            faces_F3.to(torch.int32).cpu().numpy(),
        )

    def single(self, index: int) -> PackedMeshes:
        """Mesh `index` as a batch of its own."""
        first_vertex, vertices = self.vertex_ranges_B2[index].tolist()
        first_face, faces = self.face_ranges_B2[index].tolist()
        return PackedMeshes(
            self.vertices_V3[first_vertex : first_vertex + vertices],
            self.faces_F3[first_face : first_face + faces] - first_vertex,
            self.vertex_ranges_B2.new_tensor([[0, vertices]]),
            self.face_ranges_B2.new_tensor([[0, faces]]),
        )

    def to_host(self) -> list[Mesh]:
        """All meshes, with one copy from the device for the whole batch."""
        vertices_V3 = self.vertices_V3.detach().float().cpu().numpy()
        faces_F3 = self.faces_F3.to(torch.int32).cpu().numpy()
        meshes = []
        for (first_vertex, vertices), (first_face, faces) in zip(
            self.vertex_ranges_B2.tolist(), self.face_ranges_B2.tolist(), strict=True
        ):
            meshes.append(
                Mesh(
                    vertices_V3[first_vertex : first_vertex + vertices].copy(),
                    faces_F3[first_face : first_face + faces] - np.int32(first_vertex),
                )
            )
        return meshes


@dataclass(frozen=True)
class Camera:
    """A batch of cameras on an orbit around the origin.

    rotation_rad_B, elevation_rad_B: the published convention: rotation (azimuth) theta in [0, 2 pi);
        `elevation` is the polar angle phi measured from +y.
    world2cam_B44: world to camera (looking along -z).
    projection_44: camera to clip space, y flipped so that row 0 of a rasterised image is its top.
    """

    rotation_rad_B: Tensor
    elevation_rad_B: Tensor
    world2cam_B44: Tensor
    projection_44: Tensor

    @property
    def angles_B2(self) -> Tensor:
        """(rotation, elevation) in radians: what the discriminator is conditioned on."""
        return torch.stack([self.rotation_rad_B, self.elevation_rad_B], dim=1)

    @cached_property
    def world2clip_B44(self) -> Tensor:
        return self.projection_44 @ self.world2cam_B44

    def __len__(self) -> int:
        return self.rotation_rad_B.shape[0]

    def to(self, device: torch.device) -> Camera:
        """The same cameras there."""
        return Camera(*(to_device(getattr(self, item.name), device) for item in fields(self)))

    def __getitem__(self, index: slice | Tensor) -> Camera:
        return Camera(
            self.rotation_rad_B[index],
            self.elevation_rad_B[index],
            self.world2cam_B44[index],
            self.projection_44,
        )


@dataclass(frozen=True)
class RenderOutput:
    """What the differentiable renderer gives for a batch of one-view images.

    rgb_B3HW: in [-1, 1] (not clamped). mask_B1HW: antialiased silhouette in [0, 1].
    """

    rgb_B3HW: Tensor
    mask_B1HW: Tensor

    @property
    def rgba_B4HW(self) -> Tensor:
        """What the discriminator sees: RGB in [-1, 1] and the silhouette in [0, 1]."""
        return torch.cat([self.rgb_B3HW, self.mask_B1HW], dim=1)


@dataclass(frozen=True)
class GeometryOutput:
    """Geometry of a batch of shapes.

    sdf_BN: signed distance at the grid vertices, positive inside, after the empty-shape rule.
    deform_BN3: offsets of the grid vertices, in world units.
    empty_B: bool; shapes whose SDF had one sign everywhere.
    empty_regulariser_B: mean |sdf| for those shapes, 0 for the others (carries a gradient).
    weights_BQ21: raw FlexiCubes weights of every cube; none for other isosurfaces.
    """

    sdf_BN: Tensor
    deform_BN3: Tensor
    empty_B: Tensor
    empty_regulariser_B: Tensor
    weights_BQ21: Tensor | None = None


@dataclass(frozen=True)
class EdgeDeviation:
    """How unevenly the dual vertices of FlexiCubes lie between the crossings around them (its L_dev).

    deviation_D7: for the up to 7 edges of each dual vertex, how far the distance between vertex and crossing lies
        from the vertex's mean distance; world units, 0 in unused slots. used_D7: bool, the slots in use.
    """

    deviation_D7: Tensor
    used_D7: Tensor


@dataclass(frozen=True)
class ExtractedSurface:
    """The meshes of a batch. edge_deviation: none where the isosurface has no such regulariser."""

    meshes: PackedMeshes
    edge_deviation: EdgeDeviation | None = None


@dataclass(frozen=True)
class TextureField:
    """A colour at every point of space, one field per shape.

    planes_BCRR: B(3C)RR texture planes. layers: (modulated weight BOI, bias O) of the MLP that reads them, leaky ReLU
    between. to_rgb_B3I, background_3: the modulated last map and its bias, which is also the background's colour.
    """

    planes_BCRR: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]
    to_rgb_B3I: Tensor
    background_3: Tensor


@dataclass(frozen=True)
class GeneratorFields:
    """What the networks make of a batch of latents, before any mesh."""

    geometry: GeometryOutput
    texture: TextureField


@dataclass(frozen=True)
class GeneratorOutput:
    """Everything a training phase needs from one pass of the generator."""

    render: RenderOutput
    geometry: GeometryOutput
    surface: ExtractedSurface

    @property
    def meshes(self) -> PackedMeshes:
        return self.surface.meshes
