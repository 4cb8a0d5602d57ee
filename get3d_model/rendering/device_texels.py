"""What `texels` computes, by tensor operations: for a GPU, where the texture field is as well.

The same numbers: every texel tries the faces and the border edges in whose box it lies, in float64, and an atomic
minimum of integer keys decides what the loops of `texels` decide by their order. CUDA tensors get the kernels of
ops/fused/texels.py.

Shape legend: W vertices, F faces, N boxes, K texels of boxes, H texture size, T needed texels
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from get3d_model.ops.dispatch import is_fused
from get3d_model.rendering.texels import MAX_OVERHANG, RING, border_half_edges
from get3d_model.rendering.uv_atlas import UnwrappedMesh

# Keys of texels: -1 - face where a face covers the centre, the last face of several; else the distance to a border
# edge in the upper and its half-edge in the lower 32 bits.
NOT_NEEDED = torch.iinfo(torch.int64).max
# Texels of boxes at once: about 1 GB of float64 temporaries.
TEXELS_AT_ONCE = 1 << 23


def needed_texels(unwrapped: UnwrappedMesh, resolution: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(pixel_T int64, points_T3 float32) on the device; see `texels.Texels`."""
    host_F3 = np.ascontiguousarray(unwrapped.mesh.faces_F3, np.int32)
    if not len(host_F3):
        return torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, 3, device=device)
    half_edge_B = torch.from_numpy(border_half_edges(host_F3, len(unwrapped.uvs_W2))).to(device).long()
    faces_F3 = torch.from_numpy(host_F3).to(device).long()
    xy_W2 = torch.from_numpy(unwrapped.uvs_W2).to(device).double()
    xy_W2 = xy_W2 * xy_W2.new_tensor([resolution, -resolution]) + xy_W2.new_tensor([0.0, resolution])
    corners_F33 = torch.from_numpy(unwrapped.mesh.vertices_V3).to(device).float()[faces_F3]
    faces_F32 = xy_W2[faces_F3]
    key_P = torch.full((resolution * resolution,), NOT_NEEDED, dtype=torch.int64, device=device)
    if is_fused(key_P):
        from get3d_model.ops.fused import texels as fused

        fused.claimed(faces_F32, half_edge_B, key_P, resolution, RING)
        pixel_T = (key_P != NOT_NEEDED).nonzero().squeeze(1)
        return pixel_T, fused.points(pixel_T, key_P, faces_F32, corners_F33, resolution, MAX_OVERHANG)
    next_B = half_edge_B // 3 * 3 + (half_edge_B + 1) % 3
    edges_B22 = faces_F32.view(-1, 2)[torch.stack([half_edge_B, next_B], 1)]
    for texels in _boxes(faces_F32, 0.0, resolution):
        _cover(faces_F32, *texels, resolution, key_P)
    for texels in _boxes(edges_B22, RING, resolution):
        _surround(edges_B22, half_edge_B, *texels, resolution, key_P)
    pixel_T = (key_P != NOT_NEEDED).nonzero().squeeze(1)
    return pixel_T, _points(pixel_T, key_P[pixel_T], faces_F32, corners_F33, resolution)


def texture_of(pixel_T: Tensor, color_T3: Tensor, resolution: int) -> Tensor:
    """HH3 uint8 with `color_T3` at the needed texels, and the rest filled as by `texels.texture_of`."""
    if is_fused(color_T3):
        from get3d_model.ops.fused.texels import filled

        return filled(pixel_T, color_T3, resolution)
    sums_HH4 = torch.zeros(resolution * resolution, 4, dtype=torch.int32, device=pixel_T.device)
    sums_HH4[pixel_T, :3] = color_T3.int()
    sums_HH4[pixel_T, 3] = 1
    levels = [sums_HH4.view(resolution, resolution, 4)]
    while levels[-1].shape[0] % 2 == 0:
        half = levels[-1].shape[0] // 2
        levels.append(levels[-1].view(half, 2, half, 2, 4).sum(dim=(1, 3), dtype=torch.int32))
    # White, where there is nothing at all.
    filled_HH3 = torch.full_like(levels[-1][..., :3], 255)
    for level_HH4 in reversed(levels):
        count_HH1 = level_HH4[..., 3:]
        mean_HH3 = (level_HH4[..., :3] + count_HH1 // 2) // count_HH1.clamp(min=1)
        times = len(level_HH4) // len(filled_HH3)
        around_HH3 = filled_HH3.repeat_interleave(times, 0).repeat_interleave(times, 1)
        filled_HH3 = torch.where(count_HH1 > 0, mean_HH3, around_HH3)
    return filled_HH3.to(torch.uint8)


def _boxes(corners_NC2: Tensor, margin: float, resolution: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(box, x, y) of the texel centres of the boxes around the corners, some boxes at a time."""
    low_N2 = (corners_NC2.amin(1) - margin - 0.5).ceil().clamp(min=0).long()
    high_N2 = (corners_NC2.amax(1) + margin - 0.5).floor().clamp(max=resolution - 1).long()
    size_N2 = (high_N2 - low_N2 + 1).clamp(min=0)
    count_N = size_N2.prod(1)
    start_N = count_N.cumsum(0) - count_N
    box_N4 = torch.cat([low_N2, size_N2[:, :1], start_N[:, None]], dim=1)
    starts = np.append(start_N.cpu().numpy(), int(count_N.sum()))
    number_N = torch.arange(len(corners_NC2), device=corners_NC2.device)
    first = 0
    while first < len(number_N):
        end = max(first + 1, int(np.searchsorted(starts, starts[first] + TEXELS_AT_ONCE, side="right")) - 1)
        total = int(starts[end] - starts[first])
        if total:
            number_K = torch.repeat_interleave(number_N[first:end], count_N[first:end], output_size=total)
            x0_K, y0_K, wide_K, start_K = box_N4[number_K].unbind(1)
            index_K = torch.arange(total, device=number_N.device) + int(starts[first]) - start_K
            x_K, y_K = x0_K + index_K % wide_K, y0_K + index_K // wide_K
            yield number_K, x_K.float() + 0.5, y_K.float() + 0.5
        first = end


def _pixel(x_K: Tensor, y_K: Tensor, resolution: int) -> Tensor:
    return y_K.long() * resolution + x_K.long()


def _cover(
    faces_F32: Tensor, face_K: Tensor, x_K: Tensor, y_K: Tensor, resolution: int, key_P: Tensor
) -> None:
    x_K3, y_K3 = faces_F32[face_K].unbind(2)
    (x0, x1, x2), (y0, y1, y2) = x_K3.unbind(1), y_K3.unbind(1)
    sign = ((x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)).sign()
    inside = sign != 0
    for ax, ay, bx, by in ((x0, y0, x1, y1), (x1, y1, x2, y2), (x2, y2, x0, y0)):
        inside &= sign * ((bx - ax) * (y_K - ay) - (by - ay) * (x_K - ax)) >= 0.0
    key_K = torch.where(inside, -1 - face_K, NOT_NEEDED)
    key_P.scatter_reduce_(0, _pixel(x_K, y_K, resolution), key_K, "amin")


def _surround(
    edges_B22: Tensor, half_edge_B: Tensor, number_K: Tensor, x_K: Tensor, y_K: Tensor, resolution: int,
    key_P: Tensor,
) -> None:  # fmt: skip
    first_K2, second_K2 = edges_B22[number_K].unbind(1)
    step_K2 = second_K2 - first_K2
    from_K2 = torch.stack([x_K, y_K], 1) - first_K2
    beyond_K2 = from_K2 - _along(from_K2, step_K2)[:, None] * step_K2
    distance_K = (beyond_K2[:, 0] ** 2 + beyond_K2[:, 1] ** 2).float()
    # Bits of floats that are not negative have the order of the floats.
    key_K = (distance_K.view(torch.int32).long() << 32) | half_edge_B[number_K]
    key_K = torch.where(distance_K < RING * RING, key_K, NOT_NEEDED)
    key_P.scatter_reduce_(0, _pixel(x_K, y_K, resolution), key_K, "amin")


def _along(from_K2: Tensor, step_K2: Tensor) -> Tensor:
    """How far along an edge the nearest point lies, 0 to 1."""
    square_K = step_K2[:, 0] * step_K2[:, 0] + step_K2[:, 1] * step_K2[:, 1]
    product_K = from_K2[:, 0] * step_K2[:, 0] + from_K2[:, 1] * step_K2[:, 1]
    return torch.where(square_K > 0.0, product_K / square_K, 0.0).clamp(0.0, 1.0)


def _points(
    pixel_T: Tensor, key_T: Tensor, faces_F32: Tensor, corners_F33: Tensor, resolution: int
) -> Tensor:
    """World points of texels by their keys, T3; see `texels._points_kernel`, whose rounding this follows."""
    covered_T = key_T < 0
    half_edge_T = key_T & 0xFFFFFFFF
    face_T = torch.where(covered_T, -1 - key_T, half_edge_T // 3)
    edge_T = torch.where(covered_T, 0, half_edge_T % 3)
    at_T2 = torch.stack([pixel_T % resolution, pixel_T // resolution], 1) + 0.5
    a_T2, b_T2, c_T2 = faces_F32[face_T].unbind(1)
    (bx, by), (cx, cy), (px, py) = ((x - a_T2).unbind(1) for x in (b_T2, c_T2, at_T2.double()))
    det_T = bx * cy - by * cx
    flat_T = det_T.abs() <= 1e-9
    v_T1 = torch.where(flat_T, 0.0, (px * cy - py * cx) / det_T)[:, None]
    w_T1 = torch.where(flat_T, 0.0, (bx * py - by * px) / det_T)[:, None]
    corners_T33 = corners_F33[face_T]
    i_T3, j_T3, k_T3 = corners_T33.unbind(1)
    inner_T3 = i_T3 + v_T1 * (j_T3 - i_T3) + w_T1 * (k_T3 - i_T3)

    every = torch.arange(len(pixel_T), device=pixel_T.device)
    next_T = (edge_T + 1) % 3
    first_T2, second_T2 = faces_F32[face_T, edge_T], faces_F32[face_T, next_T]
    t_T1 = _along(at_T2 - first_T2, second_T2 - first_T2)[:, None]
    first_T3, second_T3 = corners_T33[every, edge_T].double(), corners_T33[every, next_T].double()
    near_T3 = first_T3 + t_T1 * (second_T3 - first_T3)
    origin_T3 = i_T3.double()
    plane_T3 = origin_T3 + v_T1 * (j_T3.double() - origin_T3) + w_T1 * (k_T3.double() - origin_T3)
    beyond_T3 = torch.where(flat_T[:, None], 0.0, plane_T3 - near_T3)
    length_T = (beyond_T3 * beyond_T3).sum(1)
    area_T = torch.linalg.cross((j_T3 - i_T3).double(), (k_T3 - i_T3).double()).square().sum(1)
    texel_T = (area_T.sqrt() / det_T.abs()).sqrt()
    share_T = (MAX_OVERHANG * texel_T / length_T.sqrt()).clamp(max=1.0)
    outer_T3 = near_T3.float() + torch.where(length_T > 0.0, share_T, 0.0)[:, None] * beyond_T3
    return torch.where(covered_T[:, None], inner_T3, outer_T3).float()
