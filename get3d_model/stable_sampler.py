"""A sampler whose shapes do not depend on what is sampled with them, to the last bit.

Networks round differently for batches of different sizes, so they see one shape at a time here; extraction, which
computes every shape by itself, still runs once for a batch.

Shape legend: B batch, Z latent width
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from get3d_model.errors import InputError
from get3d_model.inference import Sampler, Styles
from get3d_model.limits import check_psi
from get3d_model.programs import Programs
from get3d_model.rendering.base import Rasterizer
from get3d_model.types import GeometryOutput


class StableSampler(Sampler):
    """programs: the exported networks, which then take the place of the modules; the CPU only."""

    programs: Programs | None = None

    @classmethod
    def load_exported(cls, folder: Path, device: torch.device | str = "cpu") -> StableSampler:
        """What an export wrote into `folder`: on the CPU its programs; on a GPU its weights, the networks as a CUDA
        graph. Raises InputError."""
        sampler = cls.load(folder, device)
        if sampler.device.type == "cpu":
            sampler.programs = Programs.load(folder)
        elif sampler.device.type == "cuda":
            sampler.record_networks()
        return sampler

    @staticmethod
    def rasterizer_for(device: torch.device) -> Rasterizer | None:
        """None where there is none: only images need one."""
        try:
            return Sampler.rasterizer_for(device)
        except InputError:
            return None

    @torch.no_grad()
    def map(self, z_B2Z: Tensor, truncation_psi: float = 1.0, class_B: Tensor | None = None) -> Styles:
        check_psi(truncation_psi)
        parts = []
        for index in range(len(z_B2Z)):
            z_12Z = z_B2Z[index : index + 1]
            class_1 = None if class_B is None else class_B[index : index + 1]
            if self.programs is None:
                parts.append(super().map(z_12Z, truncation_psi, class_1))
            else:
                z_geo, z_tex = z_12Z.unbind(dim=1)
                pair = self.programs.map(z_geo.contiguous(), z_tex.contiguous(), truncation_psi, class_1)
                parts.append(Styles(*pair, class_1))
        classes = None if class_B is None else torch.cat([part.class_B for part in parts])
        return Styles(
            torch.cat([part.w_geo_BD for part in parts]),
            torch.cat([part.w_tex_BD for part in parts]),
            classes,
        )

    @torch.no_grad()
    def networks(self, styles: Styles) -> tuple[GeometryOutput, Tensor, Tensor]:
        parts = []
        for index in range(len(styles)):
            one = styles[index : index + 1]
            if self.programs is None:
                parts.append(super().networks(one))
            else:
                parts.append(self.programs.fields(one.w_geo_BD.contiguous(), one.w_tex_BD.contiguous()))
        if len(parts) == 1:
            return parts[0]
        geometries, planes, ws = zip(*parts, strict=True)
        weights = [geometry.weights_BQ21 for geometry in geometries]
        geometry = GeometryOutput(
            torch.cat([g.sdf_BN for g in geometries]),
            torch.cat([g.deform_BN3 for g in geometries]),
            torch.cat([g.empty_B for g in geometries]),
            torch.cat([g.empty_regulariser_B for g in geometries]),
            None if weights[0] is None else torch.cat(weights),
        )
        return geometry, torch.cat(planes), torch.cat(ws)
