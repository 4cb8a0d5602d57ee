"""The texture field at points, on the CPU: tri-plane lookup and MLP in one pass over tiles of points.

The composition in PyTorch (`Synthesis.field_colors`, which defines the values) writes and reads every feature of
every point several times; here a tile's features stay in the fastest cache. The last layer and the map to RGB are both
linear and are merged. A point's colour depends neither on other points nor on the number of threads.

Shape legend: T points, P points of a tile, C plane channels, R plane resolution, L hidden layers, I O features
"""

from __future__ import annotations

import numpy as np

from get3d_model.ops.leaky import LEAKY_GAIN, LEAKY_SLOPE
from get3d_model.rendering.cpu.threads import parallel_for
from get3d_model.rendering.jit import kernel
from get3d_model.types import TextureField

TILE = 64
POINTS_PER_UNIT = 4096


class CpuTextureField:
    """The field of one shape (`field` has a batch of one, on the CPU, without gradients), ready to be asked.

    inverse_extent, mirror: of the generator's grid; see `Synthesis`.
    """

    def __init__(self, field: TextureField, inverse_extent: tuple[float, ...], mirror: bool) -> None:
        planes_3CRR = field.planes_BCRR[0].float().unflatten(0, (3, -1))
        self.planes_3RRC = planes_3CRR.permute(0, 2, 3, 1).contiguous().numpy()
        hidden, (last_BOI, last_bias_O) = field.layers[:-1], field.layers[-1]
        channels = planes_3CRR.shape[1]
        width = max([channels, last_BOI.shape[2], *(bias.shape[0] for _, bias in hidden)])
        width = -(-width // 4) * 4
        # Padding with zeros changes nothing: a padded feature is the activation of zero.
        self.weight_LOI = np.zeros((len(hidden), width, width), np.float32)
        self.bias_LO = np.zeros((len(hidden), width), np.float32)
        for index, (weight_BOI, bias_O) in enumerate(hidden):
            outputs, inputs = weight_BOI.shape[1:]
            self.weight_LOI[index, :outputs, :inputs] = weight_BOI[0].float().numpy()
            self.bias_LO[index, :outputs] = bias_O.float().numpy()
        to_rgb_3I = field.to_rgb_B3I[0].double()
        self.last_3I = np.zeros((3, width), np.float32)
        self.last_3I[:, : last_BOI.shape[2]] = (to_rgb_3I @ last_BOI[0].double()).float().numpy()
        last_bias_3 = to_rgb_3I @ last_bias_O.double() + field.background_3.double()
        self.last_bias_3 = last_bias_3.float().numpy()
        self.scale_3 = np.array(inverse_extent, np.float32)
        self.mirror = mirror

    def colors(self, points_T3: np.ndarray, threads: int = 1) -> np.ndarray:
        """RGB in [-1, 1] (not clamped) at world points; float32 T3."""
        points_T3 = np.ascontiguousarray(points_T3, np.float32)
        colors_T3 = np.empty((len(points_T3), 3), np.float32)
        units = -(-len(points_T3) // POINTS_PER_UNIT)
        parallel_for(
            _colors_kernel, units, threads, POINTS_PER_UNIT, points_T3, self.planes_3RRC, self.weight_LOI, self.bias_LO,
            self.last_3I, self.last_bias_3, self.scale_3, self.mirror, colors_T3,
        )  # fmt: skip
        return colors_T3


@kernel
def _colors_kernel(
    first_unit, end_unit, unit_points, points_T3, planes_3RRC, weight_LOI, bias_LO, last_3I, last_bias_3, scale_3,
    mirror, colors_T3,
):  # fmt: skip
    size, channels = planes_3RRC.shape[1], planes_3RRC.shape[3]
    layers, width = weight_LOI.shape[0], weight_LOI.shape[1]
    one, half, zero = np.float32(1.0), np.float32(0.5), np.float32(0.0)
    gain, negative = np.float32(LEAKY_GAIN), np.float32(LEAKY_GAIN * LEAKY_SLOPE)
    half_size = np.float32(0.5 * size)
    point_P3 = np.empty((TILE, 3), np.float32)
    lookup_C = np.empty(channels, np.float32)
    x_IP = np.zeros((width, TILE), np.float32)
    y_IP = np.zeros((width, TILE), np.float32)
    accumulator_P = np.empty(TILE, np.float32)
    for start in range(first_unit * unit_points, min(end_unit * unit_points, len(points_T3)), TILE):
        count = min(TILE, len(points_T3) - start)
        for p in range(count):
            for axis in range(3):
                value = points_T3[start + p, axis]
                if axis == 0 and mirror:
                    value = abs(value)
                point_P3[p, axis] = min(max(value * scale_3[axis], -one), one)
        for p in range(count):
            for c in range(channels):
                lookup_C[c] = zero
            for plane in range(3):
                u = point_P3[p, 1] if plane == 1 else point_P3[p, 0]
                v = point_P3[p, 1] if plane == 0 else point_P3[p, 2]
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
                w00, w01 = above_weight * left_weight, above_weight * right_weight
                w10, w11 = below_weight * left_weight, below_weight * right_weight
                for c in range(channels):
                    lookup_C[c] += (
                        w00 * planes_3RRC[plane, r0, c0, c]
                        + w01 * planes_3RRC[plane, r0, c1, c]
                        + w10 * planes_3RRC[plane, r1, c0, c]
                        + w11 * planes_3RRC[plane, r1, c1, c]
                    )
            for c in range(channels):
                x_IP[c, p] = lookup_C[c]
        for c in range(channels, width):
            for p in range(TILE):
                x_IP[c, p] = zero
        for layer in range(layers):
            for o in range(width):
                bias = bias_LO[layer, o]
                for p in range(TILE):
                    accumulator_P[p] = bias
                # Four at a time: the sums are read and written that much less.
                for i in range(0, width, 4):
                    w0, w1 = weight_LOI[layer, o, i], weight_LOI[layer, o, i + 1]
                    w2, w3 = weight_LOI[layer, o, i + 2], weight_LOI[layer, o, i + 3]
                    for p in range(TILE):
                        accumulator_P[p] += (
                            w0 * x_IP[i, p] + w1 * x_IP[i + 1, p] + w2 * x_IP[i + 2, p] + w3 * x_IP[i + 3, p]
                        )
                for p in range(TILE):
                    value = accumulator_P[p]
                    y_IP[o, p] = value * (gain if value > zero else negative)
            x_IP, y_IP = y_IP, x_IP
        for channel in range(3):
            for p in range(TILE):
                accumulator_P[p] = last_bias_3[channel]
            for i in range(width):
                weight = last_3I[channel, i]
                for p in range(TILE):
                    accumulator_P[p] += weight * x_IP[i, p]
            for p in range(count):
                colors_T3[start + p, channel] = accumulator_P[p]
