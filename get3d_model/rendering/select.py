"""Which rasteriser serves a device, and which are there."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from get3d_model.errors import InputError
from get3d_model.rendering import nvdiffrast_backend
from get3d_model.rendering.base import Rasterizer


@dataclass(frozen=True)
class RasterizerBackend:
    """One way to rasterise on this machine.

    available: whether `make_rasterizer` gives it for a device of its kind.
    reason: why it is or is not, with the fix.
    """

    name: str
    available: bool
    reason: str


def make_rasterizer(device: torch.device) -> Rasterizer:
    """nvdiffrast for CUDA devices, our own rasteriser for the CPU.

    Raises InputError for another kind of device, and when nvdiffrast is missing for a CUDA device.
    """
    if device.type == "cuda":
        return nvdiffrast_backend.NvdiffrastRasterizer(device)
    if device.type == "cpu":
        # Numba is loaded only where it rasterises.
        from get3d_model.rendering.cpu import CpuRasterizer

        return CpuRasterizer()
    raise InputError(f"device {device}: there is no rasteriser for it; use cpu or cuda")


def rasterizer_backends() -> tuple[RasterizerBackend, ...]:
    """What this machine can rasterise with, for `get3d doctor`."""
    problem = nvdiffrast_backend.missing_requirement()
    return (
        RasterizerBackend("cpu", True, f"built in; {torch.get_num_threads()} threads"),
        RasterizerBackend("nvdiffrast", problem is None, problem or "installed, CUDA device present"),
    )
