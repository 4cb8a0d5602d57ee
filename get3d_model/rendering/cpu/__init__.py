"""Our own rasteriser for machines without a GPU: numba kernels behind the `Rasterizer` interface."""

from get3d_model.rendering.cpu.rasterizer import CpuRasterizer

__all__ = ["CpuRasterizer"]
