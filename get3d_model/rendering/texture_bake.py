"""Baking texture fields into the texture images of meshes.

The field is queried once per texel that a lookup on the surface can read, nowhere else (see `texels`).

Shape legend: T needed texels
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from get3d_model.rendering.texels import Texels, needed_texels, texture_of
from get3d_model.rendering.uv_atlas import UnwrappedMesh, UvAtlas
from get3d_model.types import Mesh, TexturedMesh

ColorField = Callable[[Tensor], Tensor]
"""World points T3 to RGB, T3; the surface's colours are those clamped to [-1, 1]."""


@dataclass(frozen=True)
class BakeJob:
    """A mesh to texture with resolution^2 texels of a field."""

    mesh: Mesh
    resolution: int
    color_at: ColorField


def to_bytes(color_T3: Tensor) -> np.ndarray:
    """[-1, 1] to 0 .. 255, clamped and rounded; on the host."""
    return ((color_T3.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8).cpu().numpy()


@dataclass(frozen=True)
class PendingBake:
    """A job whose unwrapping was started."""

    job: BakeJob
    device: torch.device
    prepared: Future[tuple[UnwrappedMesh, Texels]]
    threads: int = 1

    def finish(self) -> TexturedMesh:
        """Waits for the unwrapping and asks the field, in the calling thread; what the field raises is raised."""
        unwrapped, texels = self.prepared.result()
        color_T3 = np.zeros((0, 3), np.uint8)
        if len(texels.pixel_T):
            color_T3 = to_bytes(self.job.color_at(torch.from_numpy(texels.points_T3).to(self.device)))
        texture_HH3 = texture_of(texels, color_T3, self.job.resolution, self.threads)
        mesh = unwrapped.mesh
        return TexturedMesh(mesh.vertices_V3, mesh.faces_F3, unwrapped.uvs_W2, texture_HH3)


@contextmanager
def started_bakes(
    atlas: UvAtlas, jobs: Sequence[BakeJob], device: torch.device, threads: int
) -> Iterator[list[PendingBake]]:
    """Unwraps the meshes of all jobs on `threads` threads; with a GPU, while the caller finishes one after the other.

    Fields are asked on `device`. A mesh depends neither on the other jobs nor on the threads; an empty one gets a
    white texture. At the end of the context what nobody finished is dropped.
    """
    own_threads = max(1, threads // max(1, len(jobs)))

    def prepare(job: BakeJob) -> tuple[UnwrappedMesh, Texels]:
        unwrapped = atlas.unwrap(job.mesh, job.resolution, own_threads)
        return unwrapped, needed_texels(unwrapped, job.resolution, own_threads)

    pool = ThreadPoolExecutor(max(1, min(threads, len(jobs))), "bake")
    try:
        bakes = [PendingBake(job, device, pool.submit(prepare, job), own_threads) for job in jobs]
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
