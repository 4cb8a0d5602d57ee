"""Silhouettes of a mesh through the rasteriser interface, packed to bits where they were drawn.

Roofline: a hundred pictures of 256 x 256 are 105 MB of rasteriser output, 0.1 ms to write and read at 4 TB/s;
transforming and setting up 100 x 10 000 triangles is about a millisecond. As bits, 0.8 MB go to the host.

Shape legend: V vertices, F faces, K views, H rows and columns, W words of a row (64 pixels)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from get3d_model.rendering.base import Rasterizer
from get3d_model.types import Mesh, TexturedMesh

# The number of a triangle comes back as a float32, exact to 2^24; less bounds the memory.
_MAX_TRIANGLES = 1 << 22


@dataclass(frozen=True)
class RasterizedSilhouettes:
    """The `SilhouetteRenderer` of metrics/lfd.py by a `Rasterizer` on its device."""

    rasterizer: Rasterizer
    device: torch.device

    in_workers = False

    def __call__(self, mesh: Mesh | TexturedMesh, frames_K33: np.ndarray, size: int) -> np.ndarray:
        """See `SilhouetteRenderer.__call__`."""
        vertices_V3 = torch.from_numpy(np.ascontiguousarray(mesh.vertices_V3, np.float32)).to(self.device)
        faces_F3 = torch.from_numpy(np.ascontiguousarray(mesh.faces_F3, np.int32)).to(self.device)
        frames = torch.from_numpy(np.ascontiguousarray(frames_K33, np.float32)).to(self.device)
        at_once = max(1, min(len(frames), _MAX_TRIANGLES // len(faces_F3)))
        parts = [
            self._packed(vertices_V3, faces_F3, frames[first : first + at_once], size)
            for first in range(0, len(frames), at_once)
        ]
        return torch.cat(parts).cpu().numpy().view(np.uint64)

    def _packed(
        self, vertices_V3: torch.Tensor, faces_F3: torch.Tensor, frames_K33: torch.Tensor, size: int
    ) -> torch.Tensor:
        """KHW int64, bit i of word w is pixel 64 w + i."""
        views, vertices, faces = len(frames_K33), len(vertices_V3), len(faces_F3)
        # Exact products, whatever the trainer has allowed: silhouettes should not depend on it.
        position_KV3 = (frames_K33[:, None] * vertices_V3[None, :, None]).sum(dim=-1)
        position_KV4 = torch.cat([position_KV3, torch.ones_like(position_KV3[..., :1])], dim=-1)
        number_K = torch.arange(views, device=self.device, dtype=torch.int32)
        packed_faces = (faces_F3[None] + (number_K * vertices)[:, None, None]).reshape(-1, 3)
        first_K = torch.arange(views, dtype=torch.int32) * faces
        ranges_K2 = torch.stack([first_K, torch.full_like(first_K, faces)], dim=1)
        rast_KHW4 = self.rasterizer.rasterize(
            position_KV4.reshape(-1, 4), packed_faces, ranges_K2, (size, size)
        )
        bits = (rast_KHW4[..., 3] > 0).reshape(views, size, size // 64, 64)
        weights_64 = torch.ones(64, dtype=torch.int64, device=self.device) << torch.arange(
            64, device=self.device
        )
        return (bits * weights_64).sum(dim=-1)
