"""Pictures of textured meshes on a GPU: many views of many meshes in one launch (the rasteriser's range mode).

The same pictures as `mesh_renderer.py` makes on the CPU, to rounding: it works in float64 and shades pixels inside one
face at half the rate. Nothing of a mesh is computed per view but its projection.

Shape legend: I images of a launch, V F vertices and faces of a launch, H W pixels
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from get3d_model.rendering.base import Rasterizer
from get3d_model.rendering.batch_inputs import DeviceMesh, PackedRecords, device_mesh, pack_records
from get3d_model.rendering.lighting import LightSource
from get3d_model.types import Camera, TexturedMesh

# Rasterised at a time: the rasteriser's buffers take about 40 bytes of each.
MAX_SAMPLES = 1 << 27
# Triangles are numbered in float32.
MAX_FACES = 1 << 23


@dataclass(frozen=True)
class _View:
    """One image to be made. mesh: its number in the batch."""

    mesh: int
    world2clip_44: Tensor
    centre_3: Tensor


@dataclass(frozen=True)
class BatchRenderer:
    """Renders meshes from several cameras each.

    resolution, supersample, lighting: as of `MeshRenderer`. device: where `rasterizer` and the shading work; a CUDA device
    with Triton. max_samples: rasterised in one launch.
    """

    rasterizer: Rasterizer
    resolution: int
    supersample: int
    lighting: LightSource
    device: torch.device
    max_samples: int = MAX_SAMPLES

    def render(self, mesh: TexturedMesh, camera: Camera) -> np.ndarray:
        """As `MeshRenderer.render`."""
        if not len(mesh.faces_F3):
            return np.zeros((len(camera), self.resolution, self.resolution, 4), np.uint8)
        prepared = device_mesh(mesh, self.device)
        return torch.cat(list(self.render_batch([prepared], [camera]))).cpu().numpy()

    def render_batch(self, meshes: Sequence[DeviceMesh], cameras: Sequence[Camera]) -> Iterator[Tensor]:
        """Yields IHW4 uint8 on the device, launch by launch: all views of the first mesh, then of the second, and so on.

        One launch holds views of as many meshes as fit. Meshes need at least one face.
        """
        packed = pack_records(meshes)
        views = [
            _View(number, clip_44, centre_3)
            for number, camera in enumerate(cameras)
            for clip_44, centre_3 in zip(
                camera.world2clip_B44.detach().cpu().double(),
                torch.linalg.inv(camera.world2cam_B44.detach().cpu().double())[:, :3, 3],
                strict=True,
            )
        ]
        projection_44 = cameras[0].projection_44.detach().cpu().double()
        for chunk in self._launches(meshes, views):
            yield self._launch(meshes, packed, chunk, projection_44)

    def _launches(self, meshes: Sequence[DeviceMesh], views: list[_View]) -> Iterator[list[_View]]:
        images = max(1, self.max_samples // (self.resolution * self.supersample) ** 2)
        chunk: list[_View] = []
        faces = 0
        for view in views:
            count = len(meshes[view.mesh].faces_F3)
            if chunk and (len(chunk) == images or faces + count > MAX_FACES):
                yield chunk
                chunk, faces = [], 0
            chunk.append(view)
            faces += count
        if chunk:
            yield chunk

    def _launch(
        self, meshes: Sequence[DeviceMesh], packed: PackedRecords, views: list[_View], projection_44: Tensor
    ) -> Tensor:
        from get3d_model.ops.fused.mesh_shading import shade_samples

        clip_V4, faces_F3, ranges_I2, shifts_I2 = self._geometry(meshes, packed, views)
        views_I8 = torch.zeros(len(views), 8, dtype=torch.float64)
        for number, view in enumerate(views):
            views_I8[number, :3] = view.centre_3
            views_I8[number, 3] = torch.linalg.det(view.world2clip_44[[0, 1, 3], :3]).abs()
            # z = P22 z_cam + P23 and w = -z_cam, so z/w = -P22 + P23 / w.
            views_I8[number, 4] = projection_44[2, 2]
            views_I8[number, 5] = projection_44[2, 3]
        size, samples = self.resolution, self.supersample
        shading = (
            views_I8.float().to(self.device),
            shifts_I2.to(self.device),
            packed.records_F24,
            packed.texels_T4,
            packed.sizes_ML3,
            *self._lights(),
            samples,
            (2.0 / (size * samples)) ** 2,
        )
        # One launch unless even one image is too large; then strips of it, as on the CPU.
        rows = max(1, min(size, self.max_samples // (len(views) * size * samples * samples)))
        strips = []
        for first in range(0, size, rows):
            end = min(size, first + rows)
            cropped_V4 = clip_V4
            if end - first < size:
                cropped_V4 = clip_V4.clone()
                cropped_V4[:, 1] = (clip_V4[:, 1] * size + clip_V4[:, 3] * (size - first - end)) / (
                    end - first
                )
            rast_IHW4 = self.rasterizer.rasterize(
                cropped_V4.float(), faces_F3, ranges_I2, ((end - first) * samples, size * samples)
            )
            strips.append(shade_samples(rast_IHW4, *shading))
        return strips[0] if len(strips) == 1 else torch.cat(strips, dim=1)

    def _geometry(
        self, meshes: Sequence[DeviceMesh], packed: PackedRecords, views: list[_View]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(clip positions V4 float64, faces F3, ranges I2, shifts I2 for the shading) of the images of a launch."""
        clips, faces, ranges, shifts = [], [], [], []
        vertex, face, first = 0, 0, 0
        while first < len(views):
            number = views[first].mesh
            end = first
            while end < len(views) and views[end].mesh == number:
                end += 1
            mesh, count = meshes[number], end - first
            vertices, triangles = len(mesh.vertices_V3), len(mesh.faces_F3)
            world2clip_I44 = torch.stack([view.world2clip_44 for view in views[first:end]]).to(self.device)
            clip_IV4 = mesh.vertices_V3 @ world2clip_I44[:, :, :3].mT + world2clip_I44[:, None, :, 3]
            clips.append(clip_IV4.reshape(-1, 4))
            offset_I = vertex + vertices * torch.arange(count, dtype=torch.int32, device=self.device)
            faces.append((mesh.faces_F3 + offset_I[:, None, None]).reshape(-1, 3))
            for _ in range(count):
                ranges.append((face, triangles))
                shifts.append((packed.first_record[number] - face, number))
                face += triangles
            vertex += vertices * count
            first = end
        return (
            torch.cat(clips),
            torch.cat(faces),
            torch.tensor(ranges, dtype=torch.int32),
            torch.tensor(shifts, dtype=torch.int32),
        )

    def _lights(self) -> tuple[Tensor, Tensor]:
        map_RR3 = self.lighting.irradiance_map()
        if map_RR3 is None:
            map_RR3 = np.zeros((0, 0, 3), np.float32)
        lights_10 = torch.from_numpy(self.lighting.as_array().astype(np.float32))
        return lights_10.to(self.device), torch.from_numpy(map_RR3).to(self.device)
