"""nvdiffrast behind the `Rasterizer` interface: the only module that imports it, and only when used.

Source: the nvdiffrast documentation (range mode; CUDA contexts; releases from 0.3.3 on take any resolution).

Shape legend: B images, V packed vertices, F packed faces, H W image size, C channels
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from get3d_model.errors import InputError

INSTALL_HINT = (
    "pip install --no-build-isolation git+https://github.com/NVlabs/nvdiffrast "
    "(needs the CUDA toolkit that matches torch)"
)


def missing_requirement() -> str | None:
    """Why nvdiffrast cannot be used on this machine, with the fix; None when it can be tried."""
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            return "this torch is built without CUDA; install a CUDA build of torch"
        return "torch sees no CUDA device; check the driver with nvidia-smi"
    if importlib.util.find_spec("nvdiffrast") is None:
        return f"the package nvdiffrast is not installed; {INSTALL_HINT}"
    return None


@dataclass(frozen=True)
class NvdiffrastRasterizer:
    """The `Rasterizer` of rendering/base.py on one CUDA device.

    Its gradients are summed with atomic additions: two runs agree to rounding, not bit for bit.
    Raises InputError, with the fix, when nvdiffrast or CUDA is missing.
    """

    device: torch.device
    _library: ModuleType = field(init=False, repr=False, compare=False)
    _context: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        problem = missing_requirement()
        if problem is None and self.device.type != "cuda":
            problem = f"the device is {self.device}; choose a cuda device"
        if problem is not None:
            raise InputError(f"rasteriser nvdiffrast cannot be used: {problem}")
        try:
            library = importlib.import_module("nvdiffrast.torch")
            context = library.RasterizeCudaContext(device=self.device)
        except (ImportError, OSError, RuntimeError) as error:  # no extension module, or one for another CUDA
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"rasteriser nvdiffrast cannot be used: it does not load ({why}); reinstall: {INSTALL_HINT}"
            ) from error
        object.__setattr__(self, "_library", library)
        object.__setattr__(self, "_context", context)

    def rasterize(
        self, pos_V4: Tensor, faces_F3: Tensor, ranges_B2: Tensor, resolution: tuple[int, int]
    ) -> Tensor:
        """See `Rasterizer.rasterize`."""
        # Without the derivatives of (u, v) by the pixel: nothing here filters by them.
        rast_BHW4, _ = self._library.rasterize(
            self._context,
            pos_V4.contiguous(),
            faces_F3.contiguous(),
            resolution=list(resolution),
            ranges=ranges_B2.cpu().contiguous(),
            grad_db=False,
        )
        return rast_BHW4

    def interpolate(self, attributes_VC: Tensor, rast_BHW4: Tensor, faces_F3: Tensor) -> Tensor:
        """See `Rasterizer.interpolate`."""
        out_BHWC, _ = self._library.interpolate(
            attributes_VC.contiguous(), rast_BHW4.contiguous(), faces_F3.contiguous()
        )
        return out_BHWC

    def antialias(self, color_BHWC: Tensor, rast_BHW4: Tensor, pos_V4: Tensor, faces_F3: Tensor) -> Tensor:
        """See `Rasterizer.antialias`."""
        return self._library.antialias(
            color_BHWC.contiguous(), rast_BHW4.contiguous(), pos_V4.contiguous(), faces_F3.contiguous()
        )
