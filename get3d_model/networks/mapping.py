"""Mapping network z -> w with truncation.

Source: StyleGAN (Karras et al. 2019), section 2 and appendix B (truncation in W).

Shape legend: B batch, Z latent width, D w width, C conditioning width, K classes
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from get3d_model.networks.layers import FullyConnected, normalize_second_moment

MAPPING_LR_MULTIPLIER = 0.01
W_AVG_BETA = 0.998


class MappingNetwork(nn.Module):
    """z, normalised to unit second moment, through equalised fully connected layers.

    w_avg is an exponential moving average of w for truncation; `update_w_avg` is called in the
    discriminator phase.

    With `num_classes`, an embedding of the class (`embed`, an equalised fully connected layer on the one-hot class,
    normalised like z) stands beside z, and every class has its own average: w_avg is KD then, and D without.
    """

    def __init__(self, z_dim: int, w_dim: int, num_layers: int = 8, num_classes: int = 0) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.num_layers = num_layers
        self.num_classes = num_classes
        if num_classes:
            self.embed = FullyConnected(num_classes, w_dim)
        in_features = z_dim + w_dim if num_classes else z_dim
        for index in range(num_layers):
            layer = FullyConnected(
                in_features if index == 0 else w_dim,
                w_dim,
                activate=True,
                lr_multiplier=MAPPING_LR_MULTIPLIER,
            )
            self.add_module(f"fc{index}", layer)
        self.register_buffer("w_avg", torch.zeros((num_classes, w_dim) if num_classes else w_dim))

    def forward(self, z_BZ: Tensor, truncation_psi: float = 1.0, class_B: Tensor | None = None) -> Tensor:
        """Returns w, BD, float32; truncated towards w_avg when truncation_psi != 1.

        class_B: int64, needed if and only if the network has classes. Raises ValueError otherwise.
        """
        w = normalize_second_moment(z_BZ.float())
        if (class_B is not None) != bool(self.num_classes):
            raise ValueError(f"a mapping network of {self.num_classes} classes was given class_B={class_B}")
        if class_B is not None:
            one_hot_BK = F.one_hot(class_B, self.num_classes).float()
            w = torch.cat([w, normalize_second_moment(self.embed(one_hot_BK))], dim=1)
        for index in range(self.num_layers):
            w = getattr(self, f"fc{index}")(w)
        if truncation_psi == 1.0:
            return w
        average = self.w_avg if class_B is None else self.w_avg[class_B]
        return truncate(w, average, truncation_psi)

    @torch.no_grad()
    def update_w_avg(self, w_BD: Tensor, class_B: Tensor | None = None) -> None:
        """One step of the moving average; of the classes that are in the batch, when there are classes."""
        w_BD = w_BD.detach().float()
        if class_B is None:
            self.w_avg.copy_(w_BD.mean(dim=0).lerp(self.w_avg, W_AVG_BETA))
            return
        one_hot_BK = F.one_hot(class_B, self.num_classes).float()
        count_K1 = one_hot_BK.sum(dim=0)[:, None]
        mean_KD = one_hot_BK.T @ w_BD / count_K1.clamp(min=1.0)
        self.w_avg.copy_(torch.where(count_K1 > 0, mean_KD.lerp(self.w_avg, W_AVG_BETA), self.w_avg))


def truncate(w_BD: Tensor, w_avg: Tensor, truncation_psi: float) -> Tensor:
    """w' = w_avg + psi (w - w_avg); w_avg: D, or BD for one average each."""
    return w_avg.lerp(w_BD, truncation_psi)


class ConditionMapping(nn.Module):
    """Embeds the camera encoding (and the class) and maps it to the projection vector of a discriminator."""

    def __init__(self, condition_dim: int, out_dim: int, num_layers: int = 8) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.embed = FullyConnected(condition_dim, out_dim)
        for index in range(num_layers):
            self.add_module(
                f"fc{index}",
                FullyConnected(out_dim, out_dim, activate=True, lr_multiplier=MAPPING_LR_MULTIPLIER),
            )

    def forward(self, condition_BC: Tensor) -> Tensor:
        """Returns B(out_dim)."""
        x = normalize_second_moment(self.embed(condition_BC.float()))
        for index in range(self.num_layers):
            x = getattr(self, f"fc{index}")(x)
        return x
