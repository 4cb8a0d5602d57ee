"""Baking texture fields into the texture images of meshes.

The field is queried once per texel that a lookup on the surface can read, nowhere else (see `texels`).

Shape legend: T needed texels
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from get3d_model.rendering import device_texels, texels
from get3d_model.rendering.texels import Texels
from get3d_model.rendering.uv_atlas import UnwrappedMesh, UvAtlas
from get3d_model.types import Mesh, TexturedMesh

# On a CPU: what is between two steps stays in the cache.
COLORS_AT_A_TIME = 1 << 15
ColorField = Callable[[Tensor], Tensor]
"""World points T3 to RGB, T3; the surface's colours are those clamped to [-1, 1]."""


@dataclass(frozen=True)
class BakeJob:
    """A mesh to texture with resolution^2 texels of a field."""

    mesh: Mesh
    resolution: int
    color_at: ColorField


def to_byte_tensor(color_T3: Tensor) -> Tensor:
    """[-1, 1] to 0 .. 255, clamped and rounded; where the colours are."""
    if color_T3.is_cuda:
        return _as_bytes(color_T3)
    bytes_T3 = torch.empty(color_T3.shape, dtype=torch.uint8)
    for part, out in zip(color_T3.split(COLORS_AT_A_TIME), bytes_T3.split(COLORS_AT_A_TIME), strict=True):
        out.copy_(_as_bytes(part))
    return bytes_T3


def _as_bytes(color_T3: Tensor) -> Tensor:
    return color_T3.float().clamp(-1.0, 1.0).add_(1.0).mul_(127.5).round_().to(torch.uint8)


def to_bytes(color_T3: Tensor) -> np.ndarray:
    """As `to_byte_tensor`, on the host."""
    return to_byte_tensor(color_T3).cpu().numpy()


class NeededTexels(Protocol):
    """The texels of an unwrapped mesh that lookups read."""

    @property
    def points_T3(self) -> Tensor:
        """Where the field is to be asked: float32 world points, on the device that was asked for."""
        ...

    def texture(self, color_T3: Tensor) -> np.ndarray:
        """HH3 uint8: the field's colours (uint8, on that device) and what fills the rest."""
        ...


@dataclass(frozen=True)
class _HostTexels:
    found: Texels
    resolution: int
    threads: int

    @property
    def points_T3(self) -> Tensor:
        return torch.from_numpy(self.found.points_T3)

    def texture(self, color_T3: Tensor) -> np.ndarray:
        return texels.texture_of(self.found, color_T3.numpy(), self.resolution, self.threads)


@dataclass(frozen=True)
class _DeviceTexels:
    pixel_T: Tensor
    points_T3: Tensor
    resolution: int

    def texture(self, color_T3: Tensor) -> np.ndarray:
        return device_texels.texture_of(self.pixel_T, color_T3, self.resolution).cpu().numpy()


def find_texels(
    unwrapped: UnwrappedMesh, resolution: int, device: torch.device, threads: int = 1
) -> NeededTexels:
    """The texels of a texture of resolution^2 that the surface needs, found on the device that the field is on.

    threads: on the CPU. The result depends on neither.
    """
    if device.type == "cpu":
        return _HostTexels(texels.needed_texels(unwrapped, resolution, threads), resolution, threads)
    return _DeviceTexels(*device_texels.needed_texels(unwrapped, resolution, device), resolution)


@dataclass(frozen=True)
class PendingBake:
    """A job whose unwrapping was started."""

    job: BakeJob
    device: torch.device
    prepared: Future[tuple[UnwrappedMesh, NeededTexels]]

    def finish(self) -> TexturedMesh:
        """Waits for the unwrapping and asks the field, in the calling thread; what the field raises is raised."""
        unwrapped, needed = self.prepared.result()
        color_T3 = torch.zeros(0, 3, dtype=torch.uint8, device=self.device)
        if len(needed.points_T3):
            color_T3 = to_byte_tensor(self.job.color_at(needed.points_T3))
        mesh = unwrapped.mesh
        return TexturedMesh(mesh.vertices_V3, mesh.faces_F3, unwrapped.uvs_W2, needed.texture(color_T3))


@contextmanager
def started_bakes(
    atlas: UvAtlas, jobs: Sequence[BakeJob], device: torch.device, threads: int
) -> Iterator[list[PendingBake]]:
    """Unwraps the meshes of all jobs on `threads` threads; with a GPU, while the caller finishes one after the other.

    Fields are asked on `device`, and a GPU finds the texels and fills the texture as well. A mesh depends neither on
    the other jobs nor on the threads; an empty one gets a white texture. At the end of the context what nobody
    finished is dropped.
    """
    own_threads = max(1, threads // max(1, len(jobs)))

    def prepare(job: BakeJob) -> tuple[UnwrappedMesh, NeededTexels]:
        unwrapped = atlas.unwrap(job.mesh, job.resolution, own_threads)
        return unwrapped, find_texels(unwrapped, job.resolution, device, own_threads)

    pool = ThreadPoolExecutor(max(1, min(threads, len(jobs))), "bake")
    try:
        bakes = [PendingBake(job, device, pool.submit(prepare, job)) for job in jobs]
        if device.type == "cpu":
            # The field wants all cores too, and its threads would wait for one another at every step.
            wait([bake.prepared for bake in bakes])
        yield bakes
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def bake_textures(
    atlas: UvAtlas, jobs: Sequence[BakeJob], device: torch.device, threads: int
) -> list[TexturedMesh]:
    """The textured meshes of `jobs`, in order; see `started_bakes`."""
    with started_bakes(atlas, jobs, device, threads) as bakes:
        return [bake.finish() for bake in bakes]
