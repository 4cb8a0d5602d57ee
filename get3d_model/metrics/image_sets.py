"""The sets of pictures that FID and KID compare, all of one size over one background, and their cached features.

Shape legend: B batch, N images, H W image size, D features
"""

from __future__ import annotations

import contextlib
import importlib.util
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from get3d_model.cameras import CameraDistribution
from get3d_model.data.dataset import RenderedDataset, to_training_tensor
from get3d_model.files import atomic_path, sha256_json
from get3d_model.inference import Sampler, Shapes
from get3d_model.rendering.base import Rasterizer
from get3d_model.rendering.batch_inputs import device_mesh
from get3d_model.rendering.batch_renderer import BatchRenderer
from get3d_model.rendering.mesh_renderer import Lighting, MeshRenderer
from get3d_model.types import Camera, TexturedMesh

# Samples per pixel and axis of the renders of meshes.
SUPERSAMPLE = 4
# Pixels of a batch.
BATCH_PIXELS = 16 * 256**2
BATCH = 16


def batch_size(resolution: int) -> int:
    """Images handled at a time."""
    return max(1, min(BATCH, BATCH_PIXELS // resolution**2))


def real_images(
    dataset: RenderedDataset, items: Sequence[int] | np.ndarray, resolution: int, background: float
) -> Iterator[np.ndarray]:
    """Batches BHW3 uint8 of pictures of a data set over `background` (grey in [-1, 1]).

    Larger pictures are scaled down with an antialiasing bilinear filter. Raises ValueError for smaller ones.
    """
    if dataset.resolution < resolution:
        raise ValueError(f"pictures of {dataset.resolution} pixels cannot be shown at {resolution}")
    size = batch_size(dataset.resolution)
    for first in range(0, len(items), size):
        rgba_B4HW = dataset.read_batch(items[first : first + size]).rgba_B4HW
        rgb_B3HW = to_training_tensor(rgba_B4HW, background)[:, :3]
        if dataset.resolution > resolution:
            rgb_B3HW = F.interpolate(rgb_B3HW, (resolution, resolution), mode="bilinear", antialias=True)
        yield _bytes(rgb_B3HW)


@dataclass(frozen=True)
class GeneratedImages:
    """Pictures of samples: seed `first_seed` + i, seen by camera i of a seeded sequence.

    Either kind of picture shows the same shapes from the same sides. texture_resolution: of the meshes.
    """

    sampler: Sampler
    cameras: CameraDistribution
    first_seed: int
    truncation_psi: float
    resolution: int
    background: float
    texture_resolution: int

    def feature_images(self, count: int) -> Iterator[np.ndarray]:
        """What the generator draws (FID-Ori); batches BHW3 uint8."""
        for seeds, camera in self._batches(count):
            shapes = self.sampler.shapes(self.sampler.styles(seeds, self.truncation_psi))
            yield self.draw(shapes, camera)

    @torch.no_grad()
    def draw(self, shapes: Shapes, camera: Camera, own_background: bool = True) -> np.ndarray:
        """What the generator draws of shapes that are there already, shape b seen by camera b; BHW3 uint8.

        own_background: with the background that the generator has learned; else `background` is put there.
        """
        output = self.sampler.generator.synthesis.render(
            self.sampler.rasterizer,
            shapes.meshes,
            camera,
            shapes.planes_tex,
            shapes.ws_tex_BLD,
            self.resolution,
        )
        rgb_B3HW = output.rgb_B3HW.clamp(-1, 1)
        if not own_background:
            mask_B1HW = output.mask_B1HW.clamp(0, 1)
            rgb_B3HW = rgb_B3HW * mask_B1HW + self.background * (1.0 - mask_B1HW)
        return _bytes(rgb_B3HW)

    def mesh_images(self, count: int) -> Iterator[np.ndarray]:
        """Renders of the extracted textured meshes (FID-3D); batches BHW3 uint8.

        Unlit: the textures hold the shading that the pictures have.
        """
        draw = mesh_drawer(self.sampler.rasterizer, self.resolution, self.sampler.device)
        for seeds, camera in self._batches(count):
            shapes = self.sampler.shapes(self.sampler.styles(seeds, self.truncation_psi))
            meshes = self.sampler.textured_meshes(
                shapes, range(len(seeds)), [self.texture_resolution] * len(seeds)
            )
            rgba_BHW4 = draw(meshes, [one_camera(camera, i) for i in range(len(meshes))])
            rgba_B4HW = torch.from_numpy(rgba_BHW4).permute(0, 3, 1, 2)
            yield _bytes(to_training_tensor(rgba_B4HW, self.background)[:, :3])

    def all_cameras(self, count: int) -> Camera:
        """The cameras of the first `count` pictures, on the CPU: the same ones on every device."""
        return self.cameras.sample(count, torch.Generator().manual_seed(self.first_seed))

    def _batches(self, count: int) -> Iterator[tuple[range, Camera]]:
        camera = self.all_cameras(count)
        size = batch_size(self.resolution)
        for first in range(0, count, size):
            end = min(first + size, count)
            seeds = range(self.first_seed + first, self.first_seed + end)
            yield seeds, camera_slice(camera, slice(first, end), self.sampler.device)


MeshDrawer = Callable[[Sequence[TexturedMesh], Sequence[Camera]], np.ndarray]
"""Meshes and a camera for each to RGBA pictures, BHW4 uint8."""


def mesh_drawer(rasterizer: Rasterizer, resolution: int, device: torch.device) -> MeshDrawer:
    """Draws textured meshes unlit: on CUDA devices with Triton a batch in one launch, else one by one, shaded on the
    CPU. The pictures are the same to rounding, and to what the rasterisers decide otherwise on edges."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        return batch_drawer(rasterizer, resolution, device)
    renderer = MeshRenderer(rasterizer, resolution, SUPERSAMPLE, Lighting.unlit(), device)

    def draw(meshes: Sequence[TexturedMesh], cameras: Sequence[Camera]) -> np.ndarray:
        return np.concatenate([renderer.render(*pair) for pair in zip(meshes, cameras, strict=True)])

    return draw


def batch_drawer(rasterizer: Rasterizer, resolution: int, device: torch.device) -> MeshDrawer:
    """That of `mesh_drawer` for CUDA devices; elsewhere it needs Triton's interpreter."""
    renderer = BatchRenderer(rasterizer, resolution, SUPERSAMPLE, Lighting.unlit(), device)

    def draw(meshes: Sequence[TexturedMesh], cameras: Sequence[Camera]) -> np.ndarray:
        pictures_BHW4 = np.zeros((len(meshes), resolution, resolution, 4), np.uint8)
        shown = [i for i, mesh in enumerate(meshes) if len(mesh.faces_F3)]
        if shown:
            drawn = renderer.render_batch(
                [device_mesh(meshes[i], device) for i in shown], [cameras[i] for i in shown]
            )
            pictures_BHW4[shown] = torch.cat(list(drawn)).cpu().numpy()
        return pictures_BHW4

    return draw


def one_camera(camera: Camera, index: int) -> Camera:
    """Camera `index` of several, alone."""
    return camera_slice(camera, slice(index, index + 1), camera.rotation_rad_B.device)


def camera_slice(camera: Camera, index: slice, device: torch.device) -> Camera:
    """Some of several cameras, on `device`."""
    return Camera(
        camera.rotation_rad_B[index].to(device),
        camera.elevation_rad_B[index].to(device),
        camera.world2cam_B44[index].to(device),
        camera.projection_44.to(device),
    )


def cached_features(
    cache: Path, key: dict[str, Any], compute: Callable[[], np.ndarray]
) -> tuple[np.ndarray, bool]:
    """Features ND of a set that `key` (JSON-able) tells from every other, and whether they came from the cache.

    A file that cannot be read is computed again; a cache that cannot be written keeps nothing.
    """
    path = Path(cache) / "features" / f"{sha256_json(key)}.npz"
    try:
        with np.load(path) as stored:
            return stored["features_ND"], True
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    features_ND = compute()
    # The features are hours of work of a network; a full or forbidden cache is no reason to lose them.
    with contextlib.suppress(OSError), atomic_path(path) as temporary:
        np.savez(temporary, features_ND=features_ND)
    return features_ND, False


def _bytes(rgb_B3HW: Tensor) -> np.ndarray:
    """[-1, 1] to uint8 BHW3."""
    rgb = ((rgb_B3HW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return rgb.permute(0, 2, 3, 1).cpu().numpy()
