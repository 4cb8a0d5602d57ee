"""Inception-v3 of 2015-12-05 as a feature module for FID and KID: the TorchScript network that the field shares.

Nothing here knows the network: the file holds it, with its own resizing to 299 x 299 and its own normalisation, so
that every user of that file gets the same features. Source: Heusel et al. 2017 (FID); the file is a translation to
TorchScript of http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz.

Shape legend: B batch, N images, H W image size, D = 2048 features
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from get3d_model.errors import InputError
from get3d_model.files import atomic_path, sha256_file

FILE_NAME = "inception-2015-12-05.pt"
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
FEATURES = 2048
TIMEOUT_S = 30.0
CHUNK = 1 << 20


def cache_dir() -> Path:
    """Where downloads and reference statistics are kept: $GET3D_CACHE, or get3d below the user's cache folder."""
    chosen = os.environ.get("GET3D_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "get3d"


def how_to_get(cache: Path | None = None) -> str:
    """A line for users who have no weights."""
    return (
        f"the Inception-v3 weights are not there; give --weights {URL} (downloaded once, 95 MB), --weights FILE, or put "
        f"{FILE_NAME} into {cache or cache_dir()}"
    )


def find_weights(wanted: str | None, sha256: str = SHA256, cache: Path | None = None) -> Path | None:
    """The weight file: `wanted` (a path, or a URL that is downloaded into the cache), else the cache's; None without.

    Raises InputError for a missing file, a failed download or a file with another hash.
    """
    cache = cache or cache_dir()
    cached = cache / FILE_NAME
    if wanted and "://" not in wanted:
        path = Path(wanted)
        if not path.is_file():
            raise InputError(f"the Inception weights {path} do not exist; {how_to_get(cache)}")
        return _checked(path, sha256)
    if cached.is_file():
        return _checked(cached, sha256)
    if not wanted:
        return None
    try:
        with atomic_path(cached) as temporary:
            _download(wanted, temporary)
            _checked(temporary, sha256, f"{wanted} ")
    # Of an address that is none, urllib says so by a ValueError.
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise InputError(
            f"{wanted} cannot be downloaded to {cached} ({reason}); {how_to_get(cache)}"
        ) from None
    return cached


class InceptionFeatures(nn.Module):
    """Images (BHW, 3 channels) to features (BD): what torchmetrics takes as `feature`."""

    num_features = FEATURES

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        """Raises InputError for a file that is no TorchScript network."""
        super().__init__()
        try:
            self.network = torch.jit.load(str(path), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{path} is no TorchScript network ({str(error).splitlines()[0]})") from None
        self.device = torch.device(device)

    @torch.no_grad()
    def forward(self, images_B3HW: Tensor) -> Tensor:
        """uint8 RGB images, B3HW, any size; BD float32."""
        if images_B3HW.dtype != torch.uint8 or images_B3HW.ndim != 4 or images_B3HW.shape[1] != 3:
            raise ValueError(
                f"expected uint8 (B, 3, H, W), got {images_B3HW.dtype} {tuple(images_B3HW.shape)}"
            )
        return self.network(images_B3HW.to(self.device), return_features=True).float()


class GivenFeatures(nn.Module):
    """Hands on features that were extracted before, so that one pass of the network serves every metric."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features_ND: Tensor) -> Tensor:
        return features_ND


def extract(network: nn.Module, batches: Iterable[np.ndarray]) -> np.ndarray:
    """Features of batches of uint8 BHW3 images, ND float32."""
    parts = [
        network(torch.from_numpy(np.ascontiguousarray(images_BHW3.transpose(0, 3, 1, 2)))).cpu().numpy()
        for images_BHW3 in batches
    ]
    return np.concatenate(parts) if parts else np.zeros((0, FEATURES), np.float32)


def _checked(path: Path, sha256: str, name: str = "") -> Path:
    found = sha256_file(path)
    if found != sha256.lower():
        asked_for = "the Inception-v3 network of 2015-12-05" if sha256 == SHA256 else "the file asked for"
        raise InputError(
            f"{name or path} is not {asked_for}: its SHA-256 is {found}, not {sha256}; "
            "give another file, or delete it from the cache"
        )
    return path


def _download(url: str, target: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "get3d"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer, open(target, "wb") as file:
        while chunk := answer.read(CHUNK):
            file.write(chunk)
