"""The texture field at points, on the CPU: tri-plane lookup and MLP point by point.

The composition in PyTorch (`Synthesis.field_colors`, which defines the values) writes and reads every feature of
every point several times; here a point's features stay in registers. Everything linear is merged: a lookup is a
weighted sum of texels, so the first layer is applied once to every texel of the planes, of which there are far fewer
than points; the last layer and the map to RGB are one. A point's colour depends neither on other points nor on the
number of threads.

Shape legend: T points, C plane channels, R plane resolution, L layers between the first and the last, W width (a multiple
of LANES), I O features
"""

from __future__ import annotations

import numpy as np
import torch

from get3d_model.jit import kernel
from get3d_model.ops.leaky import LEAKY_GAIN, LEAKY_SLOPE
from get3d_model.parallel_for import parallel_for
from get3d_model.types import TextureField

POINTS_PER_UNIT = 4096
# Features that a loop takes at a time: known when kernels are compiled, so that it becomes a few vector instructions.
LANES = 32


class CpuTextureField:
    """The field of one shape (`field` has a batch of one, on the CPU, without gradients), ready to be asked.

    inverse_extent, mirror: of the generator's grid; see `Synthesis`.
    """

    def __init__(self, field: TextureField, inverse_extent: tuple[float, ...], mirror: bool) -> None:
        planes_3CQ = field.planes_BCRR[0].float().unflatten(0, (3, -1)).flatten(2)
        self.resolution = field.planes_BCRR.shape[-1]
        hidden = [(weight_BOI[0].float(), bias_O.float()) for weight_BOI, bias_O in field.layers[:-1]]
        last_BOI, last_bias_O = field.layers[-1]
        to_rgb_3I = field.to_rgb_B3I[0].double()
        last_3I = (to_rgb_3I @ last_BOI[0].double()).float()
        last_bias_3 = (to_rgb_3I @ last_bias_O.double() + field.background_3.double()).float()
        if hidden:
            slopes = (LEAKY_GAIN * LEAKY_SLOPE, LEAKY_GAIN)
        else:
            # The only layer is the first one, whose features are the colours.
            hidden, slopes = [(last_3I, last_bias_3)], (1.0, 1.0)
            last_3I, last_bias_3 = torch.eye(3), torch.zeros(3)
        width = -(-max(bias.shape[0] for _, bias in hidden) // LANES) * LANES

        def padded(values: torch.Tensor, *shape: int) -> torch.Tensor:
            # Zeros change nothing: a padded feature is the activation of zero.
            out = torch.zeros(shape)
            out[tuple(slice(0, size) for size in values.shape)] = values
            return out

        first_weight_WC = padded(hidden[0][0], width, planes_3CQ.shape[1])
        self.planes = torch.matmul(planes_3CQ.transpose(1, 2), first_weight_WC.T).flatten().numpy()
        self.bias_LW = torch.stack([padded(bias, width) for _, bias in hidden]).numpy()
        # Of the layers after the first, outputs last.
        weights = [padded(weight.T, width, width) for weight, _ in hidden[1:]]
        self.weight_LWW = (torch.stack(weights) if weights else torch.zeros(0, width, width)).numpy()
        self.last_3W = padded(last_3I, 3, width).numpy()
        self.last_bias_3 = last_bias_3.numpy()
        self.slopes_2 = np.array(slopes, np.float32)
        self.scale_3 = np.array(inverse_extent, np.float32)
        self.mirror = mirror

    def colors(self, points_T3: np.ndarray, threads: int = 1) -> np.ndarray:
        """RGB in [-1, 1] (not clamped) at world points; float32 T3."""
        points_T3 = np.ascontiguousarray(points_T3, np.float32)
        colors_T3 = np.empty((len(points_T3), 3), np.float32)
        units = -(-len(points_T3) // POINTS_PER_UNIT)
        parallel_for(
            _colors_kernel, units, threads, POINTS_PER_UNIT, points_T3, self.planes, self.resolution, self.bias_LW,
            self.weight_LWW, self.last_3W, self.last_bias_3, self.slopes_2, self.scale_3, self.mirror, colors_T3,
        )  # fmt: skip
        return colors_T3


@kernel(fastmath={"contract", "reassoc"})  # sums over features in any order, which is the same for all points
def _colors_kernel(
    first_unit, end_unit, unit_points, points_T3, planes, size, bias_LW, weight_LWW, last_3W, last_bias_3, slopes_2,
    scale_3, mirror, colors_T3,
):  # fmt: skip
    one, half, zero = np.float32(1.0), np.float32(0.5), np.float32(0.0)
    half_size = np.float32(0.5 * size)
    slope, gain = slopes_2[0], slopes_2[1]
    width = bias_LW.shape[1]
    layers = weight_LWW.shape[0]
    point_3 = np.empty(3, np.float32)
    # Unsigned: a negative index would mean one from the end, which costs a test for every read.
    texel_12, weight_12 = np.empty(12, np.uint64), np.empty(12, np.float32)
    x_W, y_W = np.empty(width, np.float32), np.empty(width, np.float32)
    for point in range(first_unit * unit_points, min(end_unit * unit_points, len(points_T3))):
        for axis in range(3):
            value = points_T3[point, axis]
            if axis == 0 and mirror:
                value = abs(value)
            point_3[axis] = min(max(value * scale_3[axis], -one), one)
        for plane in range(3):
            u = point_3[1] if plane == 1 else point_3[0]
            v = point_3[1] if plane == 0 else point_3[2]
            column, row = (u + one) * half_size - half, (v + one) * half_size - half
            column_floor, row_floor = np.floor(column), np.floor(row)
            right, below = column - column_floor, row - row_floor
            c0, r0 = int(column_floor), int(row_floor)
            c1, r1 = c0 + 1, r0 + 1
            # Texels outside count as zero: they are read at the border with no weight.
            left_weight = one - right if c0 >= 0 else zero
            right_weight = right if c1 < size else zero
            above_weight = one - below if r0 >= 0 else zero
            below_weight = below if r1 < size else zero
            c0, r0, c1, r1 = max(c0, 0), max(r0, 0), min(c1, size - 1), min(r1, size - 1)
            row0, row1 = (plane * size + r0) * size, (plane * size + r1) * size
            t = 4 * plane
            texel_12[t], texel_12[t + 1] = (row0 + c0) * width, (row0 + c1) * width
            texel_12[t + 2], texel_12[t + 3] = (row1 + c0) * width, (row1 + c1) * width
            weight_12[t], weight_12[t + 1] = above_weight * left_weight, above_weight * right_weight
            weight_12[t + 2], weight_12[t + 3] = below_weight * left_weight, below_weight * right_weight
        # Names instead of a loop: the sum of all taps is made in one pass over the features.
        t0, t1, t2, t3 = texel_12[0], texel_12[1], texel_12[2], texel_12[3]
        t4, t5, t6, t7 = texel_12[4], texel_12[5], texel_12[6], texel_12[7]
        t8, t9, ta, tb = texel_12[8], texel_12[9], texel_12[10], texel_12[11]
        w0, w1, w2, w3 = weight_12[0], weight_12[1], weight_12[2], weight_12[3]
        w4, w5, w6, w7 = weight_12[4], weight_12[5], weight_12[6], weight_12[7]
        w8, w9, wa, wb = weight_12[8], weight_12[9], weight_12[10], weight_12[11]
        red, green, blue = zero, zero, zero
        for block in range(0, width, LANES):
            first = np.uint64(block)
            for lane in range(np.uint64(LANES)):
                c = first + lane
                value = (
                    bias_LW[0, c]
                    + w0 * planes[t0 + c] + w1 * planes[t1 + c] + w2 * planes[t2 + c] + w3 * planes[t3 + c]
                    + w4 * planes[t4 + c] + w5 * planes[t5 + c] + w6 * planes[t6 + c] + w7 * planes[t7 + c]
                    + w8 * planes[t8 + c] + w9 * planes[t9 + c] + wa * planes[ta + c] + wb * planes[tb + c]
                )  # fmt: skip
                value *= gain if value > zero else slope
                if layers == 0:
                    red += value * last_3W[0, c]
                    green += value * last_3W[1, c]
                    blue += value * last_3W[2, c]
                else:
                    x_W[c] = value
        for layer in range(layers):
            for c in range(width):
                y_W[c] = bias_LW[layer + 1, c]
            for i in range(width):
                feature = x_W[i]
                for block in range(0, width, LANES):
                    first = np.uint64(block)
                    for lane in range(np.uint64(LANES)):
                        y_W[first + lane] += weight_LWW[layer, i, first + lane] * feature
            for c in range(width):
                value = y_W[c]
                x_W[c] = value * (gain if value > zero else slope)
        if layers > 0:
            for block in range(0, width, LANES):
                first = np.uint64(block)
                for lane in range(np.uint64(LANES)):
                    c = first + lane
                    red += x_W[c] * last_3W[0, c]
                    green += x_W[c] * last_3W[1, c]
                    blue += x_W[c] * last_3W[2, c]
        colors_T3[point, 0] = red + last_bias_3[0]
        colors_T3[point, 1] = green + last_bias_3[1]
        colors_T3[point, 2] = blue + last_bias_3[2]
