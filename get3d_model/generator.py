"""The generator: latents -> w -> tri-planes -> SDF and deformation -> mesh -> image or texture.

Read this file first. Source: GET3D (Gao et al. 2022, arXiv 2209.11163), section 3.

Shape legend: B batch, Z latent width, D w width, L layers (copies of w), N grid vertices, P points,
H W image size, C features
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from get3d_model.bundle import GRID_PREFIX
from get3d_model.config import ModelConfig
from get3d_model.errors import InputError
from get3d_model.isosurface.empty_shape import repair_empty_shapes
from get3d_model.isosurface.grid import TetrahedralGrid, bcc_grid
from get3d_model.isosurface.marching_tets import MarchingTetrahedra
from get3d_model.networks.layers import ToFeature
from get3d_model.networks.mapping import MappingNetwork
from get3d_model.networks.unified import UnifiedTriPlaneGenerator
from get3d_model.ops.triplane import LatticeLookup, PointLookup, sample_triplanes
from get3d_model.rendering.base import Rasterizer
from get3d_model.rendering.surface import visible_surface
from get3d_model.rendering.views import repeat_meshes
from get3d_model.types import Camera, GeneratorOutput, GeometryOutput, PackedMeshes, RenderOutput


class Synthesis(nn.Module):
    """ws -> geometry, mesh, image. `generator` and `to_rgb` are the published parameter names."""

    def __init__(self, config: ModelConfig, extractor: MarchingTetrahedra) -> None:
        super().__init__()
        self.generator = UnifiedTriPlaneGenerator(config)
        self.to_rgb = ToFeature(config.texture_features, 3, config.w_dim)
        self.extractor = extractor
        grid = extractor.grid
        self.max_deformation = 1.0 / (grid.resolution * config.deformation_multiplier)
        self.image_resolution = config.image_resolution
        self.antialias_color = config.antialias_color
        self.mirror_symmetry = config.mirror_symmetry
        self.lookup = grid_lookup(grid, config.tri_plane_resolution, config.mirror_symmetry)
        # Mirrored halves deform towards opposite sides; vertices on the mirror plane stay on it.
        sign_N1 = (
            torch.sign(grid.vertices_N3[:, :1])
            if config.mirror_symmetry
            else torch.ones_like(grid.vertices_N3[:, :1])
        )
        deform_scale_N3 = (
            torch.cat([sign_N1, torch.ones_like(grid.vertices_N3[:, 1:])], dim=1) * self.max_deformation
        )
        self.register_buffer("deform_scale_N3", deform_scale_N3, persistent=False)
        self.register_buffer("prior_N", initial_sdf(grid.vertices_N3, config.initial_shape), persistent=False)

    def planes(
        self, ws_geo_BLD: Tensor, ws_tex_BLD: Tensor, half_dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """(planes_geo, planes_tex)."""
        return self.generator.planes(ws_geo_BLD, ws_tex_BLD, half_dtype)

    def raw_geometry(self, planes_geo: Tensor, ws_geo_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """(sdf_BN, deform_BN3 in world units) at the grid vertices, before the empty-shape rule."""
        sdf_BN, deform_B3N = self.generator.sdf_and_deformation(self.lookup(planes_geo), ws_geo_BLD)
        deform_BN3 = torch.tanh(deform_B3N.float()).transpose(1, 2) * self.deform_scale_N3
        return sdf_BN.float() + self.prior_N, deform_BN3

    def geometry(self, planes_geo: Tensor, ws_geo_BLD: Tensor) -> GeometryOutput:
        """SDF and deformation with the empty-shape rule applied."""
        return GeometryOutput(
            *repair_empty_shapes(*self.raw_geometry(planes_geo, ws_geo_BLD), self.extractor.grid)
        )

    def texture_features(self, planes_tex: Tensor, points_BP3: Tensor, ws_tex_BLD: Tensor) -> Tensor:
        """Features of the texture field at world points; BCP."""
        if self.mirror_symmetry:
            points_BP3 = torch.cat([points_BP3[..., :1].abs(), points_BP3[..., 1:]], dim=-1)
        features_BCP = sample_triplanes(planes_tex, points_BP3 / self.extractor.grid.extent)
        return self.generator.texture_features(features_BCP, ws_tex_BLD)

    def point_colors(self, planes_tex: Tensor, points_BP3: Tensor, ws_tex_BLD: Tensor) -> Tensor:
        """RGB in [-1, 1] (not clamped) at world points; BP3."""
        features_BCP = self.texture_features(planes_tex, points_BP3, ws_tex_BLD)
        return self.to_rgb.at_points(features_BCP, ws_tex_BLD[:, -1]).transpose(1, 2)

    def render(
        self,
        rasterizer: Rasterizer,
        meshes: PackedMeshes,
        camera: Camera,
        planes_tex: Tensor,
        ws_tex_BLD: Tensor,
        resolution: int | None = None,
    ) -> RenderOutput:
        """Images of mesh b seen by cameras b * n ... b * n + n - 1, where there are n cameras per mesh.

        Uncovered pixels have zero features, that is, `to_rgb`'s bias.
        """
        size = resolution or self.image_resolution
        shapes = len(meshes)
        meshes = repeat_meshes(meshes, len(camera) // shapes)
        surface = visible_surface(rasterizer, meshes, camera, size)
        # All views of a shape ask its texture field together.
        points_BP3 = surface.points_BP3.reshape(shapes, -1, 3)
        colors_BP3 = self.point_colors(planes_tex, points_BP3, ws_tex_BLD).reshape(surface.points_BP3.shape)
        covered_Q3 = colors_BP3[surface.image_Q, surface.slot_Q].float()
        background_3 = self.to_rgb.bias.float()
        rgb_BHW3 = background_3.expand(len(meshes) * size * size, 3).index_put((surface.pixel_Q,), covered_Q3)
        rgb_BHW3 = rgb_BHW3.view(len(meshes), size, size, 3)
        mask_BHW1 = surface.coverage_BHW1
        color = torch.cat([rgb_BHW3, mask_BHW1], dim=-1) if self.antialias_color else mask_BHW1
        color = rasterizer.antialias(color.contiguous(), surface.rast_BHW4, surface.clip_V4, meshes.faces_F3)
        if self.antialias_color:
            rgb_BHW3, mask_BHW1 = color[..., :3], color[..., 3:]
        else:
            mask_BHW1 = color
        return RenderOutput(rgb_BHW3.permute(0, 3, 1, 2), mask_BHW1.permute(0, 3, 1, 2))


class Generator(nn.Module):
    """Two latents to textured meshes: `mapping` (texture), `mapping_geo` (geometry), `synthesis`."""

    def __init__(self, config: ModelConfig, extractor: MarchingTetrahedra) -> None:
        super().__init__()
        self.z_dim = config.z_dim
        self.num_classes = config.num_classes
        mapping = (config.z_dim, config.w_dim, config.mapping_layers, config.num_classes)
        self.mapping = MappingNetwork(*mapping)
        self.mapping_geo = MappingNetwork(*mapping)
        self.synthesis = Synthesis(config, extractor)

    @property
    def num_ws_geo(self) -> int:
        return self.synthesis.generator.num_ws_geo

    @property
    def num_ws_tex(self) -> int:
        return self.synthesis.generator.num_ws_tex

    def map(
        self,
        z_geo_BZ: Tensor,
        z_tex_BZ: Tensor,
        truncation_psi: float = 1.0,
        class_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(ws_geo_BLD, ws_tex_BLD): one w for each, broadcast to all layers. class_B: of a class-conditional model."""
        w_geo_BD = self.mapping_geo(z_geo_BZ, truncation_psi, class_B)
        w_tex_BD = self.mapping(z_tex_BZ, truncation_psi, class_B)
        return self.broadcast(w_geo_BD, w_tex_BD)

    def broadcast(self, w_geo_BD: Tensor, w_tex_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of one w per layer."""
        return (
            w_geo_BD[:, None].expand(-1, self.num_ws_geo, -1),
            w_tex_BD[:, None].expand(-1, self.num_ws_tex, -1),
        )

    def forward(
        self,
        ws_geo_BLD: Tensor,
        ws_tex_BLD: Tensor,
        camera: Camera,
        rasterizer: Rasterizer,
        half_dtype: torch.dtype = torch.float32,
    ) -> GeneratorOutput:
        """Views of every shape (see `Synthesis.render` for their order), with everything a training phase needs."""
        synthesis = self.synthesis
        planes_geo, planes_tex = synthesis.planes(ws_geo_BLD, ws_tex_BLD, half_dtype)
        geometry = synthesis.geometry(planes_geo, ws_geo_BLD)
        meshes = synthesis.extractor(geometry.sdf_BN, geometry.deform_BN3)
        render = synthesis.render(rasterizer, meshes, camera, planes_tex, ws_tex_BLD)
        return GeneratorOutput(render, geometry, meshes)


def grid_lookup(grid: TetrahedralGrid, plane_resolution: int, mirror_symmetry: bool) -> nn.Module:
    """The fastest exact tri-plane lookup for the vertices of a grid; |x| stands for x under mirror symmetry."""

    def fold(x: Tensor) -> Tensor:
        return x.abs() if mirror_symmetry else x

    if not grid.lattices:
        points_N3 = grid.vertices_N3 / grid.extent
        return PointLookup(torch.cat([fold(points_N3[:, :1]), points_N3[:, 1:]], dim=1))
    extent = grid.extent.unbind()
    lattices = [(fold(x) / extent[0], y / extent[1], z / extent[2]) for x, y, z in grid.lattices]
    return LatticeLookup(lattices, plane_resolution)


def initial_sdf(vertices_N3: Tensor, half_extents: tuple[float, float, float] | None) -> Tensor:
    """SDF-like values of a rounded box (a superellipsoid of exponent 4), added to the field's output.

    About +1 at the centre, 0 on the surface, falling linearly outside: the scale of an untrained head's output.
    Zeros where no initial shape is asked for (the published model).
    """
    if half_extents is None:
        return torch.zeros(vertices_N3.shape[0])
    scaled = vertices_N3.double().abs() / torch.tensor(half_extents, dtype=torch.float64)
    return (1.0 - scaled.pow(4).sum(dim=1).pow(0.25)).float()


def build_generator(config: ModelConfig, grid: TetrahedralGrid | None = None) -> Generator:
    """The generator of a configuration. grid: one of its own (see `stored_grid`); None: our BCC grid."""
    return Generator(config, MarchingTetrahedra(grid or bcc_grid(config.tet_res, config.grid_scale)))


def stored_grid(tensors: Mapping[str, Tensor], config: ModelConfig, source: Path) -> TetrahedralGrid | None:
    """The grid that stands among a generator's tensors; None where it has none of its own.

    Raises InputError, naming `source`, for a damaged one.
    """
    vertices, tets = (tensors.get(GRID_PREFIX + name) for name in ("vertices_N3", "tets_T4"))
    if vertices is None or tets is None:
        return None
    if (
        vertices.shape[1:] != (3,)
        or tets.shape[1:] != (4,)
        or tets.is_floating_point()
        or not len(tets)
        or not torch.isfinite(vertices).all()
        or not 0 <= int(tets.min()) <= int(tets.max()) < len(vertices)
    ):
        raise InputError(f"{source}: its grid ({GRID_PREFIX}*) is damaged; import the checkpoint again")
    return TetrahedralGrid(vertices, tets, config.tet_res, stored=True)
