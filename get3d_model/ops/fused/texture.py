"""The texture field at every covered pixel, straight from the rasteriser's positions to RGB.

A program takes a tile of 8x8 pixels: three bilinear plane lookups of neighbouring pixels share cache lines, the
modulated MLP with one hidden layer and `to_rgb` run on the tile in registers, and nothing but the colour is
written. No list of covered pixels is made, so the host never waits. The backward pass does the lookup again
instead of storing features.

Shape legend: B images, H W size, R plane resolution, C features of a plane, M hidden width, O texture features
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from get3d_model.ops.fused.common import GAIN, SLOPE, cdiv, channels_last, programs_for

TILE = 8


@triton.jit
def _axis_taps(coordinate, R):
    """(index of the lower tap, weight of the upper one) at a coordinate in [-1, 1]; centres not aligned."""
    position = (coordinate + 1.0) * (R * 0.5) - 0.5
    low = tl.floor(position)
    return low.to(tl.int32), position - low


@triton.jit
def _sample(planes, base, plane: tl.constexpr, u, v, ok, R, C: tl.constexpr):
    """Bilinear lookup in one plane; [points, C]. u runs along columns, v along rows."""
    column, weight_c = _axis_taps(u, R)
    row, weight_r = _axis_taps(v, R)
    channel = tl.arange(0, C)
    total = tl.zeros((u.shape[0], C), tl.float32)
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            r = row + i
            c = column + j
            weight = (weight_r if i == 1 else 1.0 - weight_r) * (weight_c if j == 1 else 1.0 - weight_c)
            inside = ok & (r >= 0) & (r < R) & (c >= 0) & (c < R)
            at = base + (r * R + c)[:, None] * (3 * C) + plane * C + channel[None, :]
            total += tl.load(planes + at, mask=inside[:, None], other=0.0).to(tl.float32) * weight[:, None]
    return total


@triton.jit
def _scatter(grad_planes, base, plane: tl.constexpr, u, v, ok, R, C: tl.constexpr, value):
    """The transpose of `_sample`: adds value [points, C] to the four taps."""
    column, weight_c = _axis_taps(u, R)
    row, weight_r = _axis_taps(v, R)
    channel = tl.arange(0, C)
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            r = row + i
            c = column + j
            weight = (weight_r if i == 1 else 1.0 - weight_r) * (weight_c if j == 1 else 1.0 - weight_c)
            inside = ok & (r >= 0) & (r < R) & (c >= 0) & (c < R)
            at = base + (r * R + c)[:, None] * (3 * C) + plane * C + channel[None, :]
            tl.atomic_add(grad_planes + at, value * weight[:, None], mask=inside[:, None], sem="relaxed")


@triton.jit
def _tile_points(positions, rast, b, tile, H, W, tiles_x, sx, sy, sz, MIRROR: tl.constexpr, T: tl.constexpr):
    """(pixel index, inside the image, covered, x, y, z in [-1, 1]) of a tile's pixels."""
    lane = tl.arange(0, T * T)
    row = (tile // tiles_x) * T + lane // T
    column = (tile % tiles_x) * T + lane % T
    valid = (row < H) & (column < W)
    pixel = b * H * W + row * W + column
    covered = valid & (tl.load(rast + pixel * 4 + 3, mask=valid, other=0.0) > 0)
    x = tl.load(positions + pixel * 3, mask=covered, other=0.0) * sx
    y = tl.load(positions + pixel * 3 + 1, mask=covered, other=0.0) * sy
    z = tl.load(positions + pixel * 3 + 2, mask=covered, other=0.0) * sz
    if MIRROR:
        x = tl.abs(x)
    x = tl.minimum(tl.maximum(x, -1.0), 1.0)
    y = tl.minimum(tl.maximum(y, -1.0), 1.0)
    z = tl.minimum(tl.maximum(z, -1.0), 1.0)
    return pixel, valid, covered, x, y, z


@triton.jit
def _features(planes, base, x, y, z, covered, R, C: tl.constexpr):
    total = _sample(planes, base, 0, x, y, covered, R, C)
    total += _sample(planes, base, 1, y, z, covered, R, C)
    total += _sample(planes, base, 2, x, z, covered, R, C)
    return total


@triton.jit
def _shading_kernel(
    planes, positions, rast, w1, b1, w2, b2, w3, b3, rgb, H, W, R, tiles_x, tiles, views, sx, sy, sz,
    MIRROR: tl.constexpr, C: tl.constexpr, M: tl.constexpr, OUT: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    b = (program // tiles).to(tl.int64)
    shape = b // views
    tile = program % tiles
    pixel, valid, covered, x, y, z = _tile_points(
        positions, rast, b, tile, H, W, tiles_x, sx, sy, sz, MIRROR, T
    )
    c, m, o = tl.arange(0, C), tl.arange(0, M), tl.arange(0, OUT)
    if tl.sum(covered.to(tl.int32), axis=0) > 0:
        features = _features(planes, shape * R * R * 3 * C, x, y, z, covered, R, C)
        weight = tl.load(w1 + shape * M * C + m[None, :] * C + c[:, None])
        hidden = tl.dot(features, weight, input_precision="tf32") + tl.load(b1 + m)[None, :]
        hidden = tl.maximum(hidden, hidden * SLOPE) * GAIN
        weight = tl.load(w2 + shape * OUT * M + o[None, :] * M + m[:, None])
        texture = tl.dot(hidden, weight, input_precision="tf32") + tl.load(b2 + o)[None, :]
        for k in tl.static_range(3):
            background = tl.load(b3 + k)
            value = tl.sum(texture * tl.load(w3 + (shape * 3 + k) * OUT + o)[None, :], axis=1) + background
            tl.store(rgb + pixel * 3 + k, tl.where(covered, value, background), mask=valid)
    else:
        for k in tl.static_range(3):
            value = tl.zeros((T * T,), tl.float32) + tl.load(b3 + k)
            tl.store(rgb + pixel * 3 + k, value, mask=valid)


@triton.jit
def _shading_backward_kernel(
    grad, planes, positions, rast, w1, b1, w2, b2, w3, grad_planes, sums, H, W, R, tiles_x, tiles, views, sx, sy, sz,
    MIRROR: tl.constexpr, C: tl.constexpr, M: tl.constexpr, OUT: tl.constexpr, T: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """sums: one row of SIZE per program: w1 (MC), b1 (M), w2 (OM), b2 (OUT), w3 (3O)."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    b = tl.program_id(1).to(tl.int64)
    shape = b // views
    c, m, o = tl.arange(0, C), tl.arange(0, M), tl.arange(0, OUT)
    weight1 = tl.load(w1 + shape * M * C + m[:, None] * C + c[None, :])
    weight2 = tl.load(w2 + shape * OUT * M + o[:, None] * M + m[None, :])
    bias1, bias2 = tl.load(b1 + m), tl.load(b2 + o)
    sum_w1 = tl.zeros((M, C), tl.float32)
    sum_w2 = tl.zeros((OUT, M), tl.float32)
    sum_b1 = tl.zeros((M,), tl.float32)
    sum_b2 = tl.zeros((OUT,), tl.float32)
    sum_w30 = tl.zeros((OUT,), tl.float32)
    sum_w31 = tl.zeros((OUT,), tl.float32)
    sum_w32 = tl.zeros((OUT,), tl.float32)
    base = shape * R * R * 3 * C
    for tile in range(program, tiles, programs):
        pixel, _, covered, x, y, z = _tile_points(
            positions, rast, b, tile, H, W, tiles_x, sx, sy, sz, MIRROR, T
        )
        if tl.sum(covered.to(tl.int32), axis=0) > 0:
            features = _features(planes, base, x, y, z, covered, R, C)
            raw = tl.dot(features, tl.trans(weight1), input_precision="tf32") + bias1[None, :]
            hidden = tl.maximum(raw, raw * SLOPE) * GAIN
            texture = tl.dot(hidden, tl.trans(weight2), input_precision="tf32") + bias2[None, :]
            g0 = tl.load(grad + pixel * 3, mask=covered, other=0.0)
            g1 = tl.load(grad + pixel * 3 + 1, mask=covered, other=0.0)
            g2 = tl.load(grad + pixel * 3 + 2, mask=covered, other=0.0)
            sum_w30 += tl.sum(g0[:, None] * texture, axis=0)
            sum_w31 += tl.sum(g1[:, None] * texture, axis=0)
            sum_w32 += tl.sum(g2[:, None] * texture, axis=0)
            at = w3 + shape * 3 * OUT + o
            g_texture = (
                g0[:, None] * tl.load(at)[None, :]
                + g1[:, None] * tl.load(at + OUT)[None, :]
                + g2[:, None] * tl.load(at + 2 * OUT)[None, :]
            )
            sum_b2 += tl.sum(g_texture, axis=0)
            sum_w2 += tl.dot(tl.trans(g_texture), hidden, input_precision="tf32")
            g_raw = tl.dot(g_texture, weight2, input_precision="tf32") * tl.where(raw > 0, GAIN, GAIN * SLOPE)
            sum_b1 += tl.sum(g_raw, axis=0)
            sum_w1 += tl.dot(tl.trans(g_raw), features, input_precision="tf32")
            g_features = tl.dot(g_raw, weight1, input_precision="tf32")
            _scatter(grad_planes, base, 0, x, y, covered, R, C, g_features)
            _scatter(grad_planes, base, 1, y, z, covered, R, C, g_features)
            _scatter(grad_planes, base, 2, x, z, covered, R, C, g_features)
    at = sums + (b * programs + program) * SIZE
    tl.store(at + m[:, None] * C + c[None, :], sum_w1)
    tl.store(at + M * C + m, sum_b1)
    at += M * C + M
    tl.store(at + o[:, None] * M + m[None, :], sum_w2)
    tl.store(at + OUT * M + o, sum_b2)
    at += OUT * M + OUT
    tl.store(at + o, sum_w30)
    tl.store(at + OUT + o, sum_w31)
    tl.store(at + 2 * OUT + o, sum_w32)


class ShadePixels(Function):
    """RGB of every pixel, BHW3 float32: the field where rast_BHW4's triangle id is positive, else b3_3.

    Images b * n ... b * n + n - 1 show shape b. planes_BCRR: B(3C)RR channels-last float32. w1_BMC, w2_BOM,
    w3_B3O are modulated per shape; scale_3 turns world positions into [-1, 1]. Gradients flow into planes,
    weights and biases.
    """

    @staticmethod
    def forward(ctx, planes, w1, b1, w2, b2, w3, b3, positions, rast, scale, mirror) -> Tensor:
        planes = channels_last(planes)
        w1, w2, w3 = w1.contiguous(), w2.contiguous(), w3.contiguous()
        batch, height, width = rast.shape[:3]
        tiles_x = cdiv(width, TILE)
        tiles = tiles_x * cdiv(height, TILE)
        rgb = torch.empty((batch, height, width, 3), device=rast.device, dtype=torch.float32)
        ctx.sizes = {"C": w1.shape[2], "M": w1.shape[1], "OUT": w2.shape[1], "T": TILE, "MIRROR": mirror}
        views = batch // len(planes)
        ctx.geometry = (height, width, planes.shape[2], tiles_x, tiles, views, *scale)
        _shading_kernel[(batch * tiles,)](
            planes, positions, rast, w1, b1, w2, b2, w3, b3, rgb, *ctx.geometry, **ctx.sizes, num_warps=2
        )
        ctx.save_for_backward(planes, w1, b1, w2, b2, w3, positions, rast)
        return rgb

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        planes, w1, b1, w2, b2, w3, positions, rast = ctx.saved_tensors
        grad = grad.contiguous()
        batch = len(rast)
        (channels, hidden, outputs) = (ctx.sizes[name] for name in ("C", "M", "OUT"))
        size = hidden * channels + hidden + outputs * hidden + outputs + 3 * outputs
        tiles = ctx.geometry[4]
        programs = min(max(1, programs_for(tiles * batch, grad.device, per_sm=16) // batch), tiles)
        grad_planes = torch.zeros_like(planes)
        sums = torch.empty((batch, programs, size), device=grad.device, dtype=torch.float32)
        _shading_backward_kernel[(programs, batch)](
            grad, planes, positions, rast, w1, b1, w2, b2, w3, grad_planes, sums,
            *ctx.geometry, **ctx.sizes, SIZE=size, num_warps=4,
        )  # fmt: skip
        shapes = len(planes)
        parts = (
            sums.view(shapes, -1, size)
            .sum(dim=1)
            .split([hidden * channels, hidden, outputs * hidden, outputs, 3 * outputs], dim=1)
        )
        return (
            grad_planes,
            parts[0].view(shapes, hidden, channels),
            parts[1].sum(dim=0),
            parts[2].view(shapes, outputs, hidden),
            parts[3].sum(dim=0),
            parts[4].view(shapes, 3, outputs),
            grad.sum(dim=(0, 1, 2)),
            None, None, None, None,
        )  # fmt: skip
