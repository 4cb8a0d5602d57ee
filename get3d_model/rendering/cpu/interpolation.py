"""Kernels: vertex attributes at the covered pixels, and the gradient.

Shape legend: B images, V packed vertices, F packed faces, H W image size, C channels, U S see scatter.py.
"""

from __future__ import annotations

import numpy as np

from get3d_model.jit import kernel


@kernel
def interpolate_kernel(first_row, end_row, attributes_VC, rast_RW4, faces_F3, out_RWC):
    """Fills the rows [first_row, end_row) of out (zeros on entry); R = B * H rows."""
    channels = attributes_VC.shape[1]
    for row in range(first_row, end_row):
        for column in range(rast_RW4.shape[1]):
            face = int(rast_RW4[row, column, 3]) - 1
            if face < 0:
                continue
            u = rast_RW4[row, column, 0]
            v = rast_RW4[row, column, 1]
            w = np.float32(1.0) - u - v
            i0 = faces_F3[face, 0]
            i1 = faces_F3[face, 1]
            i2 = faces_F3[face, 2]
            for channel in range(channels):
                out_RWC[row, column, channel] = (
                    u * attributes_VC[i0, channel]
                    + v * attributes_VC[i1, channel]
                    + w * attributes_VC[i2, channel]
                )


@kernel
def interpolate_backward_rast_kernel(
    first_row, end_row, attributes_VC, rast_RW4, faces_F3, grad_out_RWC, grad_rast_RW4
):
    """d loss / d (u, v) into channels 0 and 1 of grad_rast (zeros on entry)."""
    channels = attributes_VC.shape[1]
    for row in range(first_row, end_row):
        for column in range(rast_RW4.shape[1]):
            face = int(rast_RW4[row, column, 3]) - 1
            if face < 0:
                continue
            i0 = faces_F3[face, 0]
            i1 = faces_F3[face, 1]
            i2 = faces_F3[face, 2]
            grad_u = np.float32(0.0)
            grad_v = np.float32(0.0)
            for channel in range(channels):
                grad = grad_out_RWC[row, column, channel]
                last = attributes_VC[i2, channel]
                grad_u += grad * (attributes_VC[i0, channel] - last)
                grad_v += grad * (attributes_VC[i1, channel] - last)
            grad_rast_RW4[row, column, 0] = grad_u
            grad_rast_RW4[row, column, 1] = grad_v


@kernel
def interpolate_backward_attributes_kernel(
    first_unit, end_unit, rast_BHW4, faces_F3, grad_out_BHWC, bands, spans_U2, offsets_U, sums_SC
):
    """Adds d loss / d attributes into each unit's slice of sums_SC (see scatter.py)."""
    height = rast_BHW4.shape[1]
    channels = grad_out_BHWC.shape[3]
    for unit in range(first_unit, end_unit):
        image = unit // bands
        band = unit % bands
        shift = offsets_U[unit] - spans_U2[unit, 0]
        for row in range(height * band // bands, height * (band + 1) // bands):
            for column in range(rast_BHW4.shape[2]):
                face = int(rast_BHW4[image, row, column, 3]) - 1
                if face < 0:
                    continue
                u = rast_BHW4[image, row, column, 0]
                v = rast_BHW4[image, row, column, 1]
                w = np.float32(1.0) - u - v
                slot0 = shift + faces_F3[face, 0]
                slot1 = shift + faces_F3[face, 1]
                slot2 = shift + faces_F3[face, 2]
                for channel in range(channels):
                    grad = grad_out_BHWC[image, row, column, channel]
                    sums_SC[slot0, channel] += u * grad
                    sums_SC[slot1, channel] += v * grad
                    sums_SC[slot2, channel] += w * grad
