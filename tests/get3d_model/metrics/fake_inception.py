"""A small TorchScript network with the interface of the Inception file: uint8 images of any size in, features out.

It stands for the real network, which is a download of 95 MB; its features mean nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from get3d_model.files import sha256_file

WIDTH = 12


class Fake(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, WIDTH, 5, stride=4)
        self.head = nn.Linear(WIDTH, 7)

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        resized = F.interpolate(img.float() / 127.5 - 1.0, [63, 63], mode="bilinear", align_corners=False)
        features = self.conv(resized).relu().mean(dim=[2, 3])
        return features if return_features else self.head(features)


def write_fake_inception(path: Path) -> str:
    """Writes the network to `path` and returns its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.jit.script(Fake().eval()).save(str(path))
    return sha256_file(path)
