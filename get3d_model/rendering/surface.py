"""Rasterised surface points of a batch of meshes, one camera each, ready for a texture field.

A field is queried only where a surface is seen: either tile by tile, or after the covered pixels of each image are
packed to the front of a padded point array.

Shape legend: B batch (meshes and images), V F packed vertices and faces, H W image size, Q covered pixels of the
whole batch, P points per shape after padding
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from get3d_model.ops.dispatch import is_fused
from get3d_model.rendering.base import Rasterizer
from get3d_model.transfer import to_device
from get3d_model.types import Camera, PackedMeshes


@dataclass(frozen=True)
class VisibleSurface:
    """What the cameras see.

    clip_V4: clip-space vertices, differentiable. rast_BHW4: the rasteriser's buffer.
    positions_BHW3: world positions, zero where nothing is seen (no gradient).
    """

    clip_V4: Tensor
    rast_BHW4: Tensor
    positions_BHW3: Tensor

    @property
    def coverage_BHW1(self) -> Tensor:
        """1 where a surface is seen, else 0."""
        return (self.rast_BHW4[..., 3:] > 0).to(self.clip_V4.dtype)


@dataclass(frozen=True)
class CoveredPoints:
    """The covered pixels of every image, packed to the front of a padded point array.

    points_BP3: world positions, padded with zeros. image_Q, slot_Q: for every covered pixel of the batch, its image
    and its slot in points_BP3. pixel_Q: its flat index b * H * W + y * W + x.
    """

    points_BP3: Tensor
    image_Q: Tensor
    slot_Q: Tensor
    pixel_Q: Tensor


def clip_positions(meshes: PackedMeshes, camera: Camera) -> Tensor:
    """Clip-space positions of all packed vertices, mesh b seen by camera b; V4."""
    vertices_V3, device = meshes.vertices_V3, meshes.vertices_V3.device
    first_B, count_B = meshes.vertex_ranges_B2.unbind(dim=1)
    matrices_B44 = to_device(camera.world2clip_B44, device)
    if is_fused(vertices_V3) and vertices_V3.dtype == matrices_B44.dtype == torch.float32:
        from get3d_model.ops.fused.clip_positions import ClipPositions

        first_vertex_B = meshes.first_vertex_B
        if first_vertex_B is None:
            first_vertex_B = to_device(first_B.contiguous(), device)
        return ClipPositions.apply(vertices_V3, matrices_B44, first_vertex_B)
    shape_V = torch.repeat_interleave(
        torch.arange(len(meshes), device=device),
        to_device(count_B, device).long(),
        output_size=len(vertices_V3),
    )
    matrix_V44 = matrices_B44[shape_V]
    return (matrix_V44[:, :, :3] @ vertices_V3[:, :, None]).squeeze(-1) + matrix_V44[:, :, 3]


def visible_surface(
    rasterizer: Rasterizer, meshes: PackedMeshes, camera: Camera, resolution: int
) -> VisibleSurface:
    """Rasterises mesh b with camera b."""
    clip_V4 = clip_positions(meshes, camera).contiguous()
    with torch.no_grad():
        rast_BHW4 = rasterizer.rasterize(
            clip_V4.detach(), meshes.faces_F3, meshes.face_ranges_B2, (resolution, resolution)
        )
        positions_BHW3 = rasterizer.interpolate(
            meshes.vertices_V3.detach().contiguous(), rast_BHW4, meshes.faces_F3
        )
    return VisibleSurface(clip_V4, rast_BHW4, positions_BHW3)


@torch.no_grad()
def covered_points(surface: VisibleSurface) -> CoveredPoints:
    """Packs the covered pixels; waits for the device, which knows their number."""
    covered_BP = surface.rast_BHW4[..., 3].flatten(1) > 0
    counts_B = covered_BP.sum(dim=1)
    pixel_Q = covered_BP.flatten().nonzero().squeeze(1)
    image_Q = pixel_Q // covered_BP.shape[1]
    slot_Q = torch.arange(len(pixel_Q), device=pixel_Q.device) - (counts_B.cumsum(0) - counts_B)[image_Q]
    points_BP3 = surface.positions_BHW3.new_zeros(len(covered_BP), max(int(counts_B.max()), 1), 3)
    points_BP3[image_Q, slot_Q] = surface.positions_BHW3.reshape(-1, 3)[pixel_Q]
    return CoveredPoints(points_BP3, image_Q, slot_Q, pixel_Q)
