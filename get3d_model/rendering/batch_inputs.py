"""Textured meshes as the CUDA renderer reads them: a record per face, all levels of the texture in one array.

The same quantities as `mipmap.py` and `normals.py` make for the CPU, by tensor operations on any device; tests compare
the two.

Shape legend: V vertices, F faces, K = 3 F corners, A corners with a j-th neighbour, T texels of all levels, L levels,
    H W texture size, M meshes
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from get3d_model.rendering.mipmap import SRGB_TO_LINEAR_256
from get3d_model.rendering.normals import CREASE_ANGLE_RAD, merge_positions
from get3d_model.types import TexturedMesh

RECORD = 24
# Slots of a texture's sizes; the last one's third number is the index of the last level.
MAX_LEVELS = 16
# Of more corners that meet in one point only so many are averaged.
MAX_DEGREE = 1 << 14


@dataclass(frozen=True)
class DeviceMesh:
    """One mesh on a device.

    vertices_V3: float64. faces_F3: int32. records_F24: float32 (cross product of two edges 3, its product with the first
    corner, normals of the corners 9, texel positions of the corners 6, twice the area in texels, highest mip level or -1
    where all texels in reach are equal, 0, 0, 0). texels_T4: float16, linear, all levels; sizes_L3: int32
    (height, width, first texel) of every level.
    """

    vertices_V3: Tensor
    faces_F3: Tensor
    records_F24: Tensor
    texels_T4: Tensor
    sizes_L3: Tensor


@dataclass(frozen=True)
class PackedRecords:
    """Of several meshes. first_record: of each mesh. sizes_ML3: int32, levels padded to `MAX_LEVELS`."""

    records_F24: Tensor
    texels_T4: Tensor
    sizes_ML3: Tensor
    first_record: tuple[int, ...]


def device_mesh(mesh: TexturedMesh, device: torch.device) -> DeviceMesh:
    """Prepares a mesh once for all its views."""
    vertices_V3 = torch.tensor(mesh.vertices_V3, dtype=torch.float32, device=device).double()
    faces_F3 = torch.tensor(mesh.faces_F3, dtype=torch.int32, device=device)
    corners_F33 = vertices_V3[faces_F3.long()]
    cross_F3 = torch.linalg.cross(
        corners_F33[:, 1] - corners_F33[:, 0], corners_F33[:, 2] - corners_F33[:, 0]
    )
    texture_HW3 = torch.tensor(mesh.texture_HW3, device=device)
    texels_F32, area_F, level_F = _texel_facts(
        torch.tensor(mesh.uvs_V2, dtype=torch.float32, device=device).double()[faces_F3.long()],
        texture_HW3,
    )
    position_V = torch.from_numpy(merge_positions(np.ascontiguousarray(mesh.vertices_V3, np.float32)))
    normals_F33 = corner_normals(corners_F33, position_V.to(device)[faces_F3.long()])
    records_F24 = torch.zeros(len(faces_F3), RECORD, device=device)
    records_F24[:, 0:3] = cross_F3
    records_F24[:, 3] = (cross_F3 * corners_F33[:, 0]).sum(1)
    records_F24[:, 4:13] = normals_F33.reshape(-1, 9)
    records_F24[:, 13:19] = texels_F32.reshape(-1, 6)
    records_F24[:, 19] = area_F
    records_F24[:, 20] = level_F
    texels_T4, sizes_L3 = mip_levels(texture_HW3)
    return DeviceMesh(vertices_V3, faces_F3, records_F24, texels_T4, sizes_L3)


def pack_records(meshes: Sequence[DeviceMesh]) -> PackedRecords:
    """One after the other."""
    device = meshes[0].records_F24.device
    sizes_ML3 = torch.zeros(len(meshes), MAX_LEVELS, 3, dtype=torch.int32)
    first_record, first_texel = [0], 0
    for number, mesh in enumerate(meshes):
        sizes_L3 = mesh.sizes_L3.clone()
        sizes_L3[:, 2] += first_texel
        sizes_ML3[number, : len(sizes_L3)] = sizes_L3
        sizes_ML3[number, -1, 2] = len(sizes_L3) - 1
        first_record.append(first_record[-1] + len(mesh.records_F24))
        first_texel += len(mesh.texels_T4)
    return PackedRecords(
        torch.cat([mesh.records_F24 for mesh in meshes]) if len(meshes) > 1 else meshes[0].records_F24,
        torch.cat([mesh.texels_T4 for mesh in meshes]) if len(meshes) > 1 else meshes[0].texels_T4,
        sizes_ML3.to(device),
        tuple(first_record[:-1]),
    )


def corner_normals(corners_F33: Tensor, position_F3: Tensor) -> Tensor:
    """Unit normals of every corner, F33: `normals.crease_normals` on any device.

    corners_F33: float64. position_F3: the number of each corner's position.
    """
    faces, device = len(corners_F33), corners_F33.device
    normal_F3 = torch.linalg.cross(
        corners_F33[:, 1] - corners_F33[:, 0], corners_F33[:, 2] - corners_F33[:, 0]
    )
    length_F1 = normal_F3.norm(dim=1, keepdim=True)
    normal_F3 = normal_F3 / torch.where(length_F1 > 0, length_F1, 1.0)
    to_next_F33 = corners_F33.roll(-1, 1) - corners_F33
    length_F31 = to_next_F33.norm(dim=2, keepdim=True)
    unit_F33 = to_next_F33 / torch.where(length_F31 > 0, length_F31, 1.0)
    angle_K = torch.arccos((-(unit_F33 * unit_F33.roll(1, 1)).sum(2)).clamp(-1.0, 1.0)).reshape(-1)

    order_K = torch.argsort(position_F3.reshape(-1), stable=True)
    _, count_P = torch.unique_consecutive(position_F3.reshape(-1)[order_K], return_counts=True)
    first_P = count_P.cumsum(0) - count_P
    # Corners with many neighbours first, so that those that have a j-th one are the first so many.
    degree_K, rank_K = torch.sort(count_P.repeat_interleave(count_P), descending=True, stable=True)
    mine_K, start_K = order_K[rank_K], first_P.repeat_interleave(count_P)[rank_K]
    out_K3 = torch.zeros(3 * faces, 3, dtype=torch.float64, device=device)
    own_K3 = normal_F3[mine_K // 3]
    min_cosine, degrees_K = math.cos(CREASE_ANGLE_RAD), degree_K.cpu().numpy()
    # One neighbour after the other and no scattered sums: the same mesh gives the same bits on a GPU, too.
    for j in range(min(int(degrees_K[0]) if faces else 0, MAX_DEGREE)):
        active = slice(0, int(np.searchsorted(-degrees_K, -j)))
        other_A = order_K[start_K[active] + j]
        toward_A3 = normal_F3[other_A // 3]
        cosine_A = (own_K3[active] * toward_A3).sum(1)
        weight_A = torch.where(cosine_A < 0, -angle_K[other_A], angle_K[other_A])
        weight_A = torch.where(cosine_A.abs() >= min_cosine, weight_A, 0.0)
        out_K3[active] += weight_A[:, None] * toward_A3
    out_K3 = torch.empty_like(out_K3).index_copy_(0, mine_K, out_K3)
    length_K1 = out_K3.norm(dim=1, keepdim=True)
    own_K3 = normal_F3.repeat_interleave(3, dim=0)
    return torch.where(length_K1 > 0, out_K3 / length_K1.clamp(min=1e-300), own_K3).view(faces, 3, 3)


def mip_levels(texture_HW3: Tensor) -> tuple[Tensor, Tensor]:
    """(texels T4 float16, sizes L3 int32 on the CPU) of all levels: `mipmap.build_mips` with level 0 in linear light too."""
    table_256 = torch.from_numpy(SRGB_TO_LINEAR_256).to(texture_HW3.device)
    level_HW3 = table_256[texture_HW3.int()]
    levels = [level_HW3]
    while max(level_HW3.shape[:2]) > 1:
        level_HW3 = _halve(_halve(level_HW3).transpose(0, 1)).transpose(0, 1)
        levels.append(level_HW3)
    if len(levels) > MAX_LEVELS - 1:
        raise ValueError(
            f"the texture is {texture_HW3.shape[1]} x {texture_HW3.shape[0]}; at most 16384 fit here"
        )
    texels_T4 = torch.zeros(
        sum(level.shape[0] * level.shape[1] for level in levels),
        4,
        dtype=torch.float16,
        device=level_HW3.device,
    )
    sizes, first = [], 0
    for level in levels:
        count = level.shape[0] * level.shape[1]
        texels_T4[first : first + count, :3] = level.reshape(-1, 3)
        sizes.append((level.shape[0], level.shape[1], first))
        first += count
    return texels_T4, torch.tensor(sizes, dtype=torch.int32)


def _halve(rows_HW3: Tensor) -> Tensor:
    """As in `mipmap.py`."""
    count = len(rows_HW3)
    if count == 1:
        return rows_HW3
    half = count // 2
    if count % 2 == 0:
        return (rows_HW3[0::2] + rows_HW3[1::2]) * 0.5
    row_H11 = torch.arange(half, dtype=torch.float32, device=rows_HW3.device)[:, None, None]
    total_HW3 = (half - row_H11) * rows_HW3[0:-1:2] + half * rows_HW3[1::2] + (row_H11 + 1) * rows_HW3[2::2]
    return total_HW3 / count


def _texel_facts(uv_F32: Tensor, texture_HW3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(texel positions of the corners F32, twice the area F, highest level F, -1 where one colour is all there is)."""
    height, width, _ = texture_HW3.shape
    size_2 = torch.tensor([width, height], dtype=torch.float64, device=uv_F32.device)
    texels_F32 = torch.stack([uv_F32[..., 0], 1.0 - uv_F32[..., 1]], dim=-1) * size_2
    texels_F32 = texels_F32 - (texels_F32.amin(1, keepdim=True) / size_2).floor() * size_2
    edges_F32 = texels_F32.roll(-1, 1) - texels_F32
    area_F = (edges_F32[:, 0, 0] * edges_F32[:, 1, 1] - edges_F32[:, 0, 1] * edges_F32[:, 1, 0]).abs()
    longest_F = edges_F32.norm(dim=2).amax(1).clamp(min=1e-12)
    level_F = torch.log2((area_F / longest_F * 0.5).clamp(min=1.0))
    low_F2 = (texels_F32.amin(1) - 0.5).floor().long()
    high_F2 = (texels_F32.amax(1) - 0.5).floor().long() + 1
    return texels_F32, area_F, torch.where(_flat(texture_HW3, low_F2, high_F2), -1.0, level_F)


def _flat(texture_HW3: Tensor, low_F2: Tensor, high_F2: Tensor) -> Tensor:
    """Whether all texels of the boxes (x, y), both ends included, of the repeating texture are equal."""
    height, width, _ = texture_HW3.shape
    changes_HW = (texture_HW3 != texture_HW3.roll(-1, 1)).any(2) | (
        texture_HW3 != texture_HW3.roll(-1, 0)
    ).any(2)
    sums_HW = torch.zeros(height + 1, width + 1, dtype=torch.int64, device=texture_HW3.device)
    sums_HW[1:, 1:] = changes_HW.long().cumsum(0).cumsum(1)

    def up_to(x_F: Tensor, y_F: Tensor) -> Tensor:
        """Changes in columns [0, x) and rows [0, y) of the repeating texture; signed for negative ends."""
        xs, x = x_F.div(width, rounding_mode="floor"), x_F.remainder(width)
        ys, y = y_F.div(height, rounding_mode="floor"), y_F.remainder(height)
        return ys * xs * sums_HW[-1, -1] + ys * sums_HW[-1, x] + xs * sums_HW[y, -1] + sums_HW[y, x]

    (x0, y0), (x1, y1) = low_F2.unbind(1), high_F2.unbind(1)
    count_F = up_to(x1, y1) - up_to(x0, y1) - up_to(x1, y0) + up_to(x0, y0)
    first_F3 = texture_HW3[y0.remainder(height), x0.remainder(width)]
    last_F3 = texture_HW3[y1.remainder(height), x1.remainder(width)]
    return (count_F == 0) & (first_F3 == last_F3).all(1)
