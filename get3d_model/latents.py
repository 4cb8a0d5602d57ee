"""Latent codes: from seeds, between codes, around a code; and the average of w.

A code is a pair of vectors N(0, I): index 0 makes the geometry, index 1 the texture.

Shape legend: B codes, S steps, Z latent width, D w width, K classes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from get3d_model.limits import check_seed
from get3d_model.networks.mapping import MappingNetwork

W_AVG_SAMPLES = 100_000
# Codes that go through a mapping network at a time.
MAPPING_BATCH = 4096
# Which of the two vectors of a code.
CODE_PARTS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"geometry": (0,), "texture": (1,), "both": (0, 1)}
)


def latent_codes(seeds: Sequence[int], z_dim: int, num_classes: int = 0) -> tuple[Tensor, Tensor | None]:
    """(codes B2Z, int64 classes B or None) of seeds: drawn on the CPU, so that a seed means the same on every device.

    The class is drawn after the code, uniformly. Raises InputError for a seed outside 0 .. 2^63 - 1.
    """
    codes, classes = [], []
    for seed in seeds:
        check_seed(seed)
        random = torch.Generator().manual_seed(seed)
        codes.append(torch.randn(2, z_dim, generator=random))
        if num_classes:
            classes.append(torch.randint(num_classes, (), generator=random))
    return torch.stack(codes), torch.stack(classes) if num_classes else None


def slerp(first_Z: Tensor, last_Z: Tensor, weight_S: Tensor) -> Tensor:
    """Spherical interpolation of two vectors: the direction turns evenly, the length goes evenly. Returns SZ.

    Source: Shoemake 1985, "Animating rotation with quaternion curves"; for Gaussian codes, White 2016
    (arXiv 1609.04468): points on the straight line between two codes are shorter than any code a network has seen.
    Raises ValueError for a zero vector, and for opposite ones, between which no way is the shortest.
    """
    first, last, weight_S1 = first_Z.double(), last_Z.double(), weight_S.double()[:, None]
    lengths = first.norm(), last.norm()
    if not min(lengths) > 0:
        raise ValueError("a zero vector has no direction to interpolate")
    first, last = first / lengths[0], last / lengths[1]
    # Exact for small angles too, unlike the arc cosine of the product.
    angle = 2.0 * torch.atan2((first - last).norm(), (first + last).norm())
    if (first + last).norm() < 1e-6:
        raise ValueError("opposite vectors have no shortest way between them")
    if angle < 1e-7:
        direction_SZ = first + weight_S1 * (last - first)
    else:
        ends = torch.sin((1.0 - weight_S1) * angle) * first, torch.sin(weight_S1 * angle) * last
        direction_SZ = (ends[0] + ends[1]) / torch.sin(angle)
    return (direction_SZ * torch.lerp(*lengths, weight_S1)).to(first_Z.dtype)


def neighbours(code_2Z: Tensor, count: int, sigma: float, part: str, random: torch.Generator) -> Tensor:
    """`count` codes around one: (z + sigma n) / sqrt(1 + sigma^2) with n ~ N(0, I) for the given part; B2Z.

    What is around a code N(0, I) is N(0, I) again, so a neighbour is as likely a sample as any. sigma is the size
    of the step in units of the code's own spread; 0 changes nothing. part: of `CODE_PARTS`.
    """
    noise_B2Z = torch.randn(count, *code_2Z.shape, generator=random, device=random.device).to(code_2Z.device)
    moved_B2Z = (code_2Z + sigma * noise_B2Z) / (1.0 + sigma**2) ** 0.5
    result_B2Z = code_2Z.expand(count, -1, -1).clone()
    for index in CODE_PARTS[part]:
        result_B2Z[:, index] = moved_B2Z[:, index]
    return result_B2Z


@torch.no_grad()
def average_w(mapping: MappingNetwork, samples: int = W_AVG_SAMPLES, seed: int = 0) -> Tensor:
    """The mean w of `samples` codes, what truncation goes towards: D, or KD with samples / K codes of each class.

    Unlike the moving average of training, it is the average of the weights that are sampled. Computed where the
    network is; the same for the same weights, seed and kind of device. Raises ValueError for less than one sample.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    device = mapping.w_avg.device
    random = torch.Generator(device).manual_seed(seed)
    classes = mapping.num_classes
    each = -(-samples // max(1, classes))
    means = []
    for number in range(max(1, classes)):
        total_D = torch.zeros(mapping.w_avg.shape[-1], dtype=torch.float64, device=device)
        for first in range(0, each, MAPPING_BATCH):
            count = min(MAPPING_BATCH, each - first)
            z_BZ = torch.randn(count, mapping.z_dim, generator=random, device=device)
            class_B = torch.full((count,), number, device=device) if classes else None
            total_D += mapping(z_BZ, class_B=class_B).double().sum(dim=0)
        means.append((total_D / each).float())
    return torch.stack(means) if classes else means[0]
