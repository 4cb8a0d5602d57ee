"""The light field descriptor of a mesh: features of a hundred silhouettes, quantised to bytes.

Headless: the silhouettes come from our own rasteriser on the CPU, or through the rasteriser interface on a GPU. The
mesh is scaled into the unit sphere around the centre of its bounding box, so place and size do not matter; rotations
are left to the distance (metrics/lfd_distance.py).

Numbers are not those of the program that Chen et al. published: that one's ten orientations, contour and steps of
quantisation are not in the paper. Compare distances with distances of ours only.

Source: Chen, Tian, Shen, Ouhyoung 2003, "On Visual Similarity Based 3D Model Retrieval".

Shape legend: L light fields (10), A axes (10), K = L A views, F features (47), H rows, W words of a row
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch

from get3d_model.errors import InputError
from get3d_model.metrics.light_field import AXES, LIGHT_FIELDS, view_frames
from get3d_model.metrics.points import normalized_mesh
from get3d_model.metrics.silhouette_features import FEATURES, silhouette_features
from get3d_model.types import Mesh, TexturedMesh

# Changes when a descriptor would, so that stored ones are not mixed.
VERSION = 1
RESOLUTION = 256
_LEVELS = 255.0


class SilhouetteRenderer(Protocol):
    """Draws a mesh inside the unit sphere from many sides."""

    in_workers: bool
    """Whether several threads may call it at once (else one thread draws while others compute features)."""

    def __call__(self, mesh: Mesh | TexturedMesh, frames_K33: np.ndarray, size: int) -> np.ndarray:
        """KHW uint64, packed as by `rendering.cpu.mask.orthographic_masks`."""
        ...


class CpuSilhouettes:
    """Our own rasteriser, one thread a call."""

    in_workers = True

    def __call__(self, mesh: Mesh | TexturedMesh, frames_K33: np.ndarray, size: int) -> np.ndarray:
        """See `SilhouetteRenderer.__call__`."""
        from get3d_model.rendering.cpu.mask import orthographic_masks

        return orthographic_masks(mesh.vertices_V3, mesh.faces_F3, frames_K33, size, threads=1)


def silhouette_backend(device: torch.device) -> str:
    """What draws the silhouettes on a device: "cpu", or "nvdiffrast" on CUDA devices where it is installed.

    They differ in pixels whose centres lie on an edge, so descriptors of one are not quite those of the other.
    """
    from get3d_model.rendering import nvdiffrast_backend

    return (
        "nvdiffrast" if device.type == "cuda" and nvdiffrast_backend.missing_requirement() is None else "cpu"
    )


def make_silhouette_renderer(device: torch.device) -> SilhouetteRenderer:
    """What `silhouette_backend` names."""
    if silhouette_backend(device) == "cpu":
        return CpuSilhouettes()
    from get3d_model.metrics.silhouettes_gpu import RasterizedSilhouettes
    from get3d_model.rendering.select import make_rasterizer

    return RasterizedSilhouettes(make_rasterizer(device), device)


def lfd_descriptor(mesh: Mesh | TexturedMesh, renderer: SilhouetteRenderer | None = None) -> np.ndarray:
    """The descriptor of one mesh, LAF uint8.

    Raises InputError for a mesh without faces, with vertices that are not numbers, or that no silhouette shows.
    """
    return _features(_silhouettes(mesh, renderer or CpuSilhouettes()))


def lfd_descriptors(
    named: Iterable[tuple[str, Mesh | TexturedMesh]],
    device: torch.device | None = None,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda meshes: None,
) -> Iterator[tuple[str, np.ndarray | InputError]]:
    """(name, descriptor LAF uint8) of every mesh, in order; what has no descriptor comes as an error with its name.

    Only some meshes per thread are held at a time, so `named` may load them as it is walked.
    """
    renderer = make_silhouette_renderer(device or torch.device("cpu"))
    threads = threads or torch.get_num_threads()

    def whole(name: str, mesh: Mesh | TexturedMesh) -> np.ndarray | InputError:
        return _named(name, lambda: lfd_descriptor(mesh, renderer))

    waiting: deque[tuple[str, Future]] = deque()
    meshes = iter(named)
    with ThreadPoolExecutor(threads, thread_name_prefix="lfd") as pool:
        while True:
            for name, mesh in itertools.islice(meshes, max(0, 4 * threads - len(waiting))):
                if renderer.in_workers:
                    waiting.append((name, pool.submit(whole, name, mesh)))
                    continue
                masks = _named(name, lambda mesh=mesh: _silhouettes(mesh, renderer))
                waiting.append(
                    (
                        name,
                        pool.submit(
                            lambda masks=masks: masks if isinstance(masks, InputError) else _features(masks)
                        ),
                    )
                )
            if not waiting:
                return
            name, future = waiting.popleft()
            yield name, future.result()
            progress(1)


def _named(name: str, compute: Callable[[], np.ndarray]) -> np.ndarray | InputError:
    try:
        return compute()
    except InputError as error:
        return InputError(f"{name}: {error}")


def _silhouettes(mesh: Mesh | TexturedMesh, renderer: SilhouetteRenderer) -> np.ndarray:
    if not len(mesh.faces_F3):
        raise InputError("the mesh renders empty: it has no faces")
    if not np.isfinite(mesh.vertices_V3).all():
        raise InputError("the mesh has vertices that are not finite numbers")
    # A pixel of room around the picture.
    inside = normalized_mesh(mesh, "sphere")
    frames_K33 = view_frames() * (1.0 - 2.0 / RESOLUTION)
    masks_KHW = renderer(inside, frames_K33, RESOLUTION)
    if not masks_KHW.any():
        raise InputError("the mesh renders empty: none of its silhouettes covers a pixel")
    return masks_KHW


def _features(masks_KHW: np.ndarray) -> np.ndarray:
    features_KF = silhouette_features(masks_KHW, threads=1)
    quantised_KF = np.rint(np.clip(features_KF, 0.0, 1.0) * _LEVELS).astype(np.uint8)
    return quantised_KF.reshape(LIGHT_FIELDS, AXES, FEATURES)
