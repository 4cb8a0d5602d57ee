"""Resampling against explicit zero insertion and convolution in float64."""

import torch
import torch.nn.functional as F

from get3d_model.ops.resample import downsample_2x, low_pass_kernel, upsample_2x


def insert_zeros(x):
    batch, channels, height, width = x.shape
    out = x.new_zeros(batch, channels, height * 2, width * 2)
    out[:, :, ::2, ::2] = x
    return out


def filtered(x, padding):
    kernel = low_pass_kernel(dtype=x.dtype).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, padding), kernel, groups=x.shape[1])


def test_upsampling_is_zero_insertion_and_low_pass_with_gain_4():
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    assert torch.allclose(upsample_2x(x), filtered(insert_zeros(x), (2, 1, 2, 1)) * 4, atol=1e-12)


def test_downsampling_is_low_pass_and_decimation():
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    assert torch.allclose(downsample_2x(x), filtered(x, (1, 1, 1, 1))[:, :, ::2, ::2], atol=1e-12)


def test_a_constant_stays_constant_inside():
    x = torch.ones(1, 1, 8, 8)
    assert torch.allclose(upsample_2x(x)[:, :, 1:-1, 1:-1], torch.ones(1, 1, 14, 14))
    assert torch.allclose(downsample_2x(x)[:, :, 1:-1, 1:-1], torch.ones(1, 1, 2, 2))
