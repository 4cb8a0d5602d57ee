"""`CpuRasterizer`: the kernels of this package behind torch autograd.

Everything is deterministic: the same input gives the same bits in every run, forward and backward, with any
number of threads. Safe to call from several Python threads and in forked workers.

Shape legend: B images, V packed vertices, F packed faces, H W image size, C channels, R = B * H rows,
    U S see scatter.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from get3d_model.parallel_for import parallel_for
from get3d_model.rendering.cpu import coverage, interpolation, scatter, silhouette
from get3d_model.rendering.cpu.connectivity import edge_rings

# rast holds triangle index + 1 in a float32, exact up to here.
MAX_TRIANGLES = 1 << 24


@dataclass(frozen=True)
class CpuRasterizer:
    """The `Rasterizer` of rendering/base.py on the CPU.

    threads: workers of one call; None uses as many as torch does (`torch.get_num_threads()`).
    silhouette_steps: how many triangles past the visible one antialiasing searches for the silhouette between
        two pixels. 0 is the published method, which misses silhouettes of triangles smaller than a pixel. The
        search ends at the second pixel; only at a rim seen edge-on does it take more than a few steps.
    """

    threads: int | None = None
    silhouette_steps: int = 64

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, or None; got {self.threads}")
        if self.silhouette_steps < 0:
            raise ValueError(f"silhouette_steps must not be negative; got {self.silhouette_steps}")

    def rasterize(
        self, pos_V4: Tensor, faces_F3: Tensor, ranges_B2: Tensor, resolution: tuple[int, int]
    ) -> Tensor:
        """See `Rasterizer.rasterize`. Raises ValueError on wrong shapes, types, indices or ranges."""
        height, width = resolution
        _check("pos_V4", pos_V4, torch.float32, (None, 4))
        _check_faces(faces_F3, len(pos_V4))
        _check("ranges_B2", ranges_B2, torch.int32, (None, 2))
        if height < 1 or width < 1:
            raise ValueError(f"resolution must be positive; got {resolution}")
        ranges = _array(ranges_B2).astype(np.int64)
        if len(ranges) and (ranges.min() < 0 or ranges.sum(1).max() > len(faces_F3)):
            raise ValueError(f"ranges_B2 reaches outside of the {len(faces_F3)} faces")
        return _Rasterize.apply(pos_V4, faces_F3, ranges_B2, (height, width), self._workers())

    def interpolate(self, attributes_VC: Tensor, rast_BHW4: Tensor, faces_F3: Tensor) -> Tensor:
        """See `Rasterizer.interpolate`. Raises ValueError on wrong shapes, types or indices."""
        _check("attributes_VC", attributes_VC, torch.float32, (None, None))
        _check("rast_BHW4", rast_BHW4, torch.float32, (None, None, None, 4))
        _check_faces(faces_F3, len(attributes_VC))
        _check_rast(rast_BHW4, len(faces_F3))
        return _Interpolate.apply(attributes_VC, rast_BHW4, faces_F3, self._workers())

    def antialias(self, color_BHWC: Tensor, rast_BHW4: Tensor, pos_V4: Tensor, faces_F3: Tensor) -> Tensor:
        """See `Rasterizer.antialias`. Raises ValueError on wrong shapes, types or indices.

        A feature thinner than a pixel takes blends from several sides, which may leave the range of the
        colours, as in the published method.
        """
        _check("rast_BHW4", rast_BHW4, torch.float32, (None, None, None, 4))
        _check("color_BHWC", color_BHWC, torch.float32, (*rast_BHW4.shape[:3], None))
        _check("pos_V4", pos_V4, torch.float32, (None, 4))
        _check_faces(faces_F3, len(pos_V4))
        _check_rast(rast_BHW4, len(faces_F3))
        return _Antialias.apply(
            color_BHWC, rast_BHW4, pos_V4, faces_F3, self.silhouette_steps, self._workers()
        )

    def _workers(self) -> int:
        return self.threads or torch.get_num_threads()


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        pos_V4: Tensor,
        faces_F3: Tensor,
        ranges_B2: Tensor,
        size: tuple[int, int],
        threads: int,
    ) -> Tensor:
        height, width = size
        images = len(ranges_B2)
        rast_BHW4 = np.zeros((images, height, width, 4), np.float32)
        # Pixels do not depend on the bands, so here (and only here) their number may follow the threads.
        bands = min(height, -(-2 * threads // max(images, 1))) if threads > 1 else 1
        parallel_for(
            coverage.rasterize_kernel,
            images * bands,
            threads,
            _array(pos_V4),
            _array(faces_F3),
            _array(ranges_B2),
            _centers(width),
            _centers(height),
            bands,
            rast_BHW4,
        )
        rast = torch.from_numpy(rast_BHW4)
        ctx.save_for_backward(pos_V4, faces_F3, rast)
        ctx.threads = threads
        return rast

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_rast_BHW4: Tensor) -> tuple[Tensor | None, ...]:
        pos_V4, faces_F3, rast_BHW4 = ctx.saved_tensors
        images, height, width, _ = rast_BHW4.shape
        bands = scatter.bands_for(images, height)
        rast, faces = _array(rast_BHW4), _array(faces_F3)
        slices = scatter.make_slices(
            scatter.visible_span_kernel, images * bands, ctx.threads, 3, rast, faces, bands
        )
        parallel_for(
            coverage.rasterize_backward_kernel,
            images * bands,
            ctx.threads,
            _array(pos_V4),
            faces,
            rast,
            _array(grad_rast_BHW4),
            _centers(width),
            _centers(height),
            bands,
            slices.spans_U2,
            slices.offsets_U,
            slices.sums_SC,
        )
        return _grad_pos(slices, len(pos_V4), ctx.threads), None, None, None, None


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, attributes_VC: Tensor, rast_BHW4: Tensor, faces_F3: Tensor, threads: int
    ) -> Tensor:
        images, height, width, _ = rast_BHW4.shape
        out_BHWC = np.zeros((images, height, width, attributes_VC.shape[1]), np.float32)
        parallel_for(
            interpolation.interpolate_kernel,
            images * height,
            threads,
            _array(attributes_VC),
            _rows(rast_BHW4),
            _array(faces_F3),
            out_BHWC.reshape(images * height, width, -1),
        )
        ctx.save_for_backward(attributes_VC, rast_BHW4, faces_F3)
        ctx.threads = threads
        return torch.from_numpy(out_BHWC)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_out_BHWC: Tensor) -> tuple[Tensor | None, ...]:
        attributes_VC, rast_BHW4, faces_F3 = ctx.saved_tensors
        images, height, _, _ = rast_BHW4.shape
        rast, faces = _array(rast_BHW4), _array(faces_F3)
        grad_attributes_VC = grad_rast_BHW4 = None
        if ctx.needs_input_grad[0]:
            bands = scatter.bands_for(images, height)
            slices = scatter.make_slices(
                scatter.visible_span_kernel,
                images * bands,
                ctx.threads,
                attributes_VC.shape[1],
                rast,
                faces,
                bands,
            )
            parallel_for(
                interpolation.interpolate_backward_attributes_kernel,
                images * bands,
                ctx.threads,
                rast,
                faces,
                _array(grad_out_BHWC),
                bands,
                slices.spans_U2,
                slices.offsets_U,
                slices.sums_SC,
            )
            grad_attributes_VC = torch.from_numpy(
                scatter.reduce_slices(slices, len(attributes_VC), ctx.threads)
            )
        if ctx.needs_input_grad[1]:
            grad_rast_BHW4 = torch.zeros_like(rast_BHW4, memory_format=torch.contiguous_format)
            parallel_for(
                interpolation.interpolate_backward_rast_kernel,
                images * height,
                ctx.threads,
                _array(attributes_VC),
                _rows(rast_BHW4),
                faces,
                _rows(grad_out_BHWC),
                _rows(grad_rast_BHW4),
            )
        return grad_attributes_VC, grad_rast_BHW4, None, None


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        color_BHWC: Tensor,
        rast_BHW4: Tensor,
        pos_V4: Tensor,
        faces_F3: Tensor,
        steps: int,
        threads: int,
    ) -> Tensor:
        images, height, width, _ = rast_BHW4.shape
        color, faces = _array(color_BHWC), _array(faces_F3)
        edge_BHW2 = np.empty((images, height, width, 2), np.int32)
        alpha_BHW2 = np.empty((images, height, width, 2), np.float32)
        parallel_for(
            silhouette.find_pairs_kernel,
            images * height,
            threads,
            _array(pos_V4),
            faces,
            edge_rings(faces, len(pos_V4), threads),
            _array(rast_BHW4),
            _centers(width),
            _centers(height),
            steps,
            edge_BHW2,
            alpha_BHW2,
        )
        out_BHWC = np.empty_like(color)
        parallel_for(silhouette.blend_kernel, images * height, threads, color, alpha_BHW2, out_BHWC)
        ctx.save_for_backward(
            color_BHWC, pos_V4, faces_F3, torch.from_numpy(edge_BHW2), torch.from_numpy(alpha_BHW2)
        )
        ctx.threads = threads
        return torch.from_numpy(out_BHWC)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_out_BHWC: Tensor) -> tuple[Tensor | None, ...]:
        color_BHWC, pos_V4, faces_F3, edge_BHW2, alpha_BHW2 = ctx.saved_tensors
        images, height, width, _ = color_BHWC.shape
        grad_out, edge, alpha, faces = map(_array, (grad_out_BHWC, edge_BHW2, alpha_BHW2, faces_F3))
        grad_color = grad_pos = None
        if ctx.needs_input_grad[0]:
            grad_color = torch.empty(color_BHWC.shape)
            parallel_for(
                silhouette.blend_backward_kernel,
                images * height,
                ctx.threads,
                grad_out,
                alpha,
                _array(grad_color),
            )
        if ctx.needs_input_grad[2]:
            bands = scatter.bands_for(images, height)
            slices = scatter.make_slices(
                silhouette.edge_span_kernel, images * bands, ctx.threads, 3, edge, faces, bands
            )
            parallel_for(
                silhouette.edge_backward_kernel,
                images * bands,
                ctx.threads,
                _array(pos_V4),
                faces,
                _array(color_BHWC),
                edge,
                alpha,
                grad_out,
                _centers(width),
                _centers(height),
                bands,
                slices.spans_U2,
                slices.offsets_U,
                slices.sums_SC,
            )
            grad_pos = _grad_pos(slices, len(pos_V4), ctx.threads)
        return grad_color, None, grad_pos, None, None, None


def _grad_pos(slices: scatter.Slices, vertices: int, threads: int) -> Tensor:
    """V4 from the sums for x, y and w; neither barycentrics nor silhouettes depend on z."""
    grad_V4 = torch.zeros(vertices, 4)
    grad_V4[:, [0, 1, 3]] = torch.from_numpy(scatter.reduce_slices(slices, vertices, threads))
    return grad_V4


def _centers(size: int) -> np.ndarray:
    """NDC coordinates of the pixel centres of one axis, float64."""
    return (2.0 * np.arange(size) + 1.0) / size - 1.0


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as a C-contiguous array (one layout, so that kernels compile once)."""
    return tensor.detach().contiguous().numpy()


def _rows(tensor_BHWC: Tensor) -> np.ndarray:
    images, height, width, channels = tensor_BHWC.shape
    return _array(tensor_BHWC).reshape(images * height, width, channels)


def _check(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int | None, ...]) -> None:
    matches = tensor.dim() == len(shape) and all(
        want is None or want == have for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not matches or tensor.dtype != dtype or tensor.device.type != "cpu":
        wanted = ", ".join("*" if want is None else str(want) for want in shape)
        raise ValueError(
            f"{name} must be a {dtype} CPU tensor of shape ({wanted}); "
            f"got {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        )


def _check_faces(faces_F3: Tensor, vertices: int) -> None:
    """The kernels do not check bounds: a wrong index would read or write foreign memory."""
    _check("faces_F3", faces_F3, torch.int32, (None, 3))
    if len(faces_F3) >= MAX_TRIANGLES:
        raise ValueError(
            f"faces_F3 has {len(faces_F3)} triangles; at most {MAX_TRIANGLES - 1} can be numbered"
        )
    if len(faces_F3):
        # numpy here and below: a torch reduction would wake torch's worker threads, which then spin for a
        # while and take the cores from ours.
        low, high = int(_array(faces_F3).min()), int(_array(faces_F3).max())
        if low < 0 or high >= vertices:
            raise ValueError(f"faces_F3 refers to vertices {low} to {high}, but there are {vertices}")


def _check_rast(rast_BHW4: Tensor, faces: int) -> None:
    triangle_id_BHW = _array(rast_BHW4)[..., 3]
    if triangle_id_BHW.size and not (triangle_id_BHW.min() >= 0 and triangle_id_BHW.max() <= faces):
        raise ValueError(f"rast_BHW4 refers to triangles outside of the {faces} faces")
