"""Two StyleGAN2 discriminators, on RGB and on the silhouette, conditioned on the camera by projection.

Source: GET3D (Gao et al. 2022), section 3.3; StyleGAN2 (Karras et al. 2020); projection, Miyato & Koyama 2018.

Shape legend: B batch, C channels, H W size, E camera encoding, K classes
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from get3d_model.networks.layers import Conv2d, FullyConnected
from get3d_model.networks.mapping import ConditionMapping
from get3d_model.networks.synthesis import block_channels, block_resolutions
from get3d_model.ops.activation import activated_low_pass
from get3d_model.ops.from_rgb import PendingActivation, add_from_rgb
from get3d_model.ops.resample import downsample_2x
from get3d_model.ops.side_by_side import side_by_side

CAMERA_FREQUENCIES = (1.0, 2.0, 4.0)
CAMERA_ENCODING_DIM = 2 + 2 * 2 * len(CAMERA_FREQUENCIES)
MINIBATCH_STD_GROUP = 4


def encode_camera(angles_B2: Tensor) -> Tensor:
    """Sines and cosines of (rotation, elevation) in radians at 1, 2 and 4 times, then the raw angles; B14."""
    parts = []
    for frequency in CAMERA_FREQUENCIES:
        parts += [torch.sin(angles_B2 * frequency), torch.cos(angles_B2 * frequency)]
    return torch.cat([*parts, angles_B2], dim=1)


def minibatch_std(x_BCHW: Tensor, group_size: int = MINIBATCH_STD_GROUP) -> Tensor:
    """Appends one channel: the mean over features of the standard deviation within groups of the batch.

    A batch that `group_size` does not divide uses the largest smaller group that does.
    """
    batch, channels, height, width = x_BCHW.shape
    group = max(g for g in range(1, min(group_size, batch) + 1) if batch % g == 0)
    # Sample b belongs to group b mod (batch / group), as in the published layout.
    grouped = x_BCHW.float().view(group, -1, channels, height, width)
    deviation = (grouped - grouped.mean(dim=0)).square().mean(dim=0).add(1e-8).sqrt()
    statistic = deviation.mean(dim=(1, 2, 3)).repeat(group).to(x_BCHW.dtype)
    return torch.cat([x_BCHW, statistic[:, None, None, None].expand(-1, 1, height, width)], dim=1)


class FromRgb(Conv2d):
    """1x1 convolution of the image of one resolution, added to what comes from the resolution above."""

    def __init__(self, image_channels: int, channels: int, clamp: float | None = None) -> None:
        super().__init__(image_channels, channels, kernel_size=1, clamp=clamp)

    def forward(self, below: PendingActivation | None, image_BKHW: Tensor, dtype: torch.dtype) -> Tensor:
        weight_CK = self.weight[:, :, 0, 0] * self.weight_gain
        return add_from_rgb(below, image_BKHW, weight_CK, self.bias, self.clamp, dtype)


class DiscriminatorBlock(nn.Module):
    """Adds `fromrgb` of the image at this resolution to the features, then halves the resolution.

    Bias and activation of `conv1` are left to the block below, which reads its result anyway.
    """

    def __init__(
        self, in_channels: int, out_channels: int, image_channels: int, clamp: float | None, recompute: bool
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.fromrgb = FromRgb(image_channels, in_channels, clamp)
        self.conv0 = Conv2d(in_channels, in_channels, 3, clamp=clamp)
        self.conv1 = Conv2d(in_channels, out_channels, 3, clamp=clamp)

    def forward(
        self, below: PendingActivation | None, image: Tensor, dtype: torch.dtype
    ) -> PendingActivation:
        enter = partial(self.fromrgb, below, image, dtype)
        raw = self.conv0.convolve(enter(), padding=1, remake_input=enter if self.recompute else None)
        low_pass = partial(activated_low_pass, raw, self.conv0.bias, self.conv0.clamp)
        out = self.conv1.convolve(low_pass(), stride=2, remake_input=low_pass if self.recompute else None)
        return PendingActivation(out, self.conv1.bias, self.conv1.clamp)


class DiscriminatorEpilogue(nn.Module):
    """4x4: `fromrgb`, minibatch standard deviation, conv, fc, out."""

    def __init__(self, channels: int, image_channels: int, minibatch_std_group: int) -> None:
        super().__init__()
        self.minibatch_std_group = minibatch_std_group
        self.fromrgb = FromRgb(image_channels, channels)
        self.conv = Conv2d(channels + 1, channels, 3)
        self.fc = FullyConnected(channels * 16, channels, activate=True)
        self.out = FullyConnected(channels, channels)

    def forward(self, below: PendingActivation, image_BCHW: Tensor, batches: int) -> Tensor:
        x = self.fromrgb(below, image_BCHW, torch.float32)
        x = torch.cat([minibatch_std(part, self.minibatch_std_group) for part in x.chunk(batches)])
        # The published weights flatten in channel, row, column order, whatever the memory format.
        return self.out(self.fc(self.conv(x).contiguous().flatten(1)))


class Discriminator(nn.Module):
    """Scores RGBA images (RGB in [-1, 1], silhouette in [0, 1]) given their cameras.

    Returns (logits_B1, logits_mask_B1).
    """

    def __init__(
        self,
        resolution: int,
        channel_base: int,
        channel_max: int,
        num_half_precision_blocks: int = 0,
        clamp: float | None = None,
        mapping_layers: int = 8,
        minibatch_std_group: int = MINIBATCH_STD_GROUP,
        num_classes: int = 0,
        recompute_activations: bool = False,
    ) -> None:
        """num_classes: of a class-conditional model; its one-hot class stands beside the camera encoding.

        recompute_activations: inputs of convolutions are made again in the backward pass instead of being kept.
        """
        super().__init__()
        self.resolution = resolution
        self.num_classes = num_classes
        self.half_precision_from = resolution >> num_half_precision_blocks
        self.resolutions = block_resolutions(resolution)[:0:-1]
        self.channels = block_channels(4, channel_base, channel_max)
        for prefix, image_channels in (("", 3), ("mask_", 1)):
            for res in self.resolutions:
                block = DiscriminatorBlock(
                    block_channels(res, channel_base, channel_max),
                    block_channels(res // 2, channel_base, channel_max),
                    image_channels,
                    clamp if res > self.half_precision_from else None,
                    recompute_activations,
                )
                self.add_module(f"{prefix}b{res}", block)
            self.add_module(
                f"{prefix}b4", DiscriminatorEpilogue(self.channels, image_channels, minibatch_std_group)
            )
            self.add_module(
                f"{prefix}mapping",
                ConditionMapping(CAMERA_ENCODING_DIM + num_classes, self.channels, mapping_layers),
            )

    def forward(
        self,
        rgba_B4HW: Tensor,
        angles_B2: Tensor,
        half_dtype: torch.dtype = torch.float32,
        class_B: Tensor | None = None,
        batches: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """class_B: int64, needed if and only if the network has classes. Raises ValueError otherwise.

        batches: how many batches of equal size follow each other in the input (generated and real images, say).
        They share the passes through the layers; the minibatch statistics stay apart.
        """
        if (class_B is not None) != bool(self.num_classes):
            raise ValueError(f"a discriminator of {self.num_classes} classes was given class_B={class_B}")
        encoding_BE = encode_camera(angles_B2)
        if class_B is not None:
            encoding_BE = torch.cat([encoding_BE, F.one_hot(class_B, self.num_classes).float()], dim=1)
        images = [rgba_B4HW]
        while images[-1].shape[-1] > 4:
            images.append(downsample_2x(images[-1]))
        prefixes = {"": slice(0, 3), "mask_": slice(3, 4)}
        parts = [
            partial(self._features, prefix, [image[:, channels] for image in images], half_dtype, batches)
            for prefix, channels in prefixes.items()
        ]
        parts += [partial(getattr(self, f"{prefix}mapping"), encoding_BE) for prefix in prefixes]
        rgb_BC, mask_BC, rgb_map_BC, mask_map_BC = side_by_side(parts, [*images, encoding_BE])
        return self._logits(rgb_BC, rgb_map_BC), self._logits(mask_BC, mask_map_BC)

    def first_to_have_gradients(self) -> list[nn.Parameter]:
        """Nearly all parameters, but none of the two highest resolutions: a backward pass ends there, and has its largest
        images still to go through when these have their gradients."""
        last = tuple(f"{prefix}b{res}." for prefix in ("", "mask_") for res in self.resolutions[:2])
        return [parameter for name, parameter in self.named_parameters() if not name.startswith(last)]

    def _features(self, prefix: str, images: list[Tensor], half_dtype: torch.dtype, batches: int) -> Tensor:
        x: PendingActivation | None = None
        for res, image in zip(self.resolutions, images, strict=False):
            dtype = half_dtype if res > self.half_precision_from else torch.float32
            x = getattr(self, f"{prefix}b{res}")(x, image, dtype)
        return getattr(self, f"{prefix}b4")(x, images[-1], batches)

    def _logits(self, features_BC: Tensor, projection_BC: Tensor) -> Tensor:
        return (features_BC * projection_BC).sum(dim=1, keepdim=True) / math.sqrt(self.channels)
