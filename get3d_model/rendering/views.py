"""Several views of every mesh of a batch: the packed meshes repeated, an entry per image.

Shape legend: B meshes, I images, V F packed vertices and faces of all images
"""

from __future__ import annotations

import torch
from torch import Tensor

from get3d_model.types import PackedMeshes


def repeat_meshes(meshes: PackedMeshes, views: int) -> PackedMeshes:
    """Every mesh `views` times in a row: entry b * views + v is mesh b. Gradients of all copies meet in the original.

    The copies have vertices of their own, because every view projects them elsewhere; nothing else of a shape (its
    planes, its SDF, its extraction) is computed more than once. Raises ValueError for less than one view.
    """
    if views < 1:
        raise ValueError(f"views must be at least 1, got {views}")
    if views == 1:
        return meshes
    device = meshes.vertices_V3.device
    vertex_ranges_I2, index_V, _ = _repeat(meshes.vertex_ranges_B2, views, device)
    face_ranges_I2, index_F, entry_F = _repeat(meshes.face_ranges_B2, views, device)
    shift_I = (vertex_ranges_I2[:, 0] - meshes.vertex_ranges_B2[:, 0].repeat_interleave(views)).to(device)
    faces_F3 = meshes.faces_F3[index_F] + shift_I[entry_F][:, None].to(meshes.faces_F3.dtype)
    return PackedMeshes(meshes.vertices_V3[index_V], faces_F3, vertex_ranges_I2, face_ranges_I2)


def _repeat(ranges_B2: Tensor, views: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(new ranges I2 on the CPU; for every new element: the old one's index, its entry I).

    The ranges are known on the host, so nothing waits for the device.
    """
    first_I, count_I = ranges_B2.repeat_interleave(views, dim=0).unbind(dim=1)
    new_first_I = count_I.cumsum(0, dtype=count_I.dtype) - count_I
    total = int(count_I.sum())
    entry = torch.repeat_interleave(
        torch.arange(len(count_I), device=device), count_I.to(device).long(), output_size=total
    )
    back_I = (first_I - new_first_I).to(device).long()
    index = torch.arange(total, device=device) + back_I[entry]
    return torch.stack([new_first_I, count_I], dim=1), index, entry
