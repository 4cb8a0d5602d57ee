"""The generator: latents -> w -> planes or volumes -> SDF and deformation -> mesh -> image or texture.

Read this file first. Source: GET3D (Gao et al. 2022, arXiv 2209.11163), section 3.

Shape legend: B batch, Z latent width, D w width, L layers (copies of w), N grid vertices, P points,
H W image size, C features, S style width of the texture networks
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from get3d_model.bundle import GRID_PREFIX
from get3d_model.config import ModelConfig
from get3d_model.errors import InputError
from get3d_model.isosurface.base import IsosurfaceExtractor, IsosurfaceGrid
from get3d_model.isosurface.cube_grid import cube_grid
from get3d_model.isosurface.empty_shape import repair_empty_shapes
from get3d_model.isosurface.flexicubes import FlexiCubes
from get3d_model.isosurface.grid import TetrahedralGrid, bcc_grid
from get3d_model.isosurface.marching_tets import MarchingTetrahedra
from get3d_model.networks.base import GeneratorNetworks, RawGeometry
from get3d_model.networks.fields import run_layers
from get3d_model.networks.layers import ToFeature
from get3d_model.networks.mapping import MappingNetwork
from get3d_model.networks.separate import SeparateGenerator
from get3d_model.networks.unified import UnifiedTriPlaneGenerator
from get3d_model.ops.side_by_side import side_by_side
from get3d_model.ops.triplane import sample_triplanes
from get3d_model.rendering.base import Rasterizer
from get3d_model.rendering.surface import VisibleSurface, covered_points, visible_surface
from get3d_model.rendering.tile_shading import can_shade_tiles, shade_tiles
from get3d_model.rendering.views import repeat_meshes
from get3d_model.types import (
    Camera,
    GeneratorFields,
    GeneratorOutput,
    GeometryOutput,
    PackedMeshes,
    RenderOutput,
    TextureField,
)


class Synthesis(nn.Module):
    """ws -> geometry, mesh, image, with the networks and the isosurface it is given.

    `to_rgb` and the names of the networks are the published parameter names.
    """

    def __init__(
        self, config: ModelConfig, networks: GeneratorNetworks, extractor: IsosurfaceExtractor
    ) -> None:
        super().__init__()
        for name, module in networks.networks.items():
            self.add_module(name, module)
        self.generator = networks
        self.w_dim = config.w_dim
        self.to_rgb = ToFeature(config.texture_features, 3, config.w_dim)
        self.extractor = extractor
        grid = extractor.grid
        cell = 1.0 / grid.resolution
        self.max_deformation = extractor.max_deformation_cells * cell / config.deformation_multiplier
        self.image_resolution = config.image_resolution
        self.antialias_color = config.antialias_color
        self.mirror_symmetry = config.mirror_symmetry
        # Known on the host, so that kernels take it as numbers.
        self.inverse_extent = tuple(1.0 / value for value in grid.extent.tolist())
        self.lookup = networks.grid_lookup(grid, config.mirror_symmetry)
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

    def texture_styles(self, ws_geo_BLD: Tensor, ws_tex_BLD: Tensor) -> Tensor:
        """What all texture methods take as `ws_tex_BLD`: the texture ws, and what the networks need beside them."""
        return self.generator.texture_styles(ws_geo_BLD, ws_tex_BLD)

    def planes(
        self, ws_geo_BLD: Tensor, ws_tex_BLD: Tensor, half_dtype: torch.dtype = torch.float32
    ) -> tuple[Any, Tensor]:
        """(planes_geo: planes or volumes, whatever the networks make their geometry from; planes_tex)."""
        sources = self.generator.sources(ws_geo_BLD, ws_tex_BLD, half_dtype)
        return sources.geometry(), sources.texture()

    def fields(
        self, ws_geo_BLD: Tensor, ws_tex_BLD: Tensor, half_dtype: torch.dtype = torch.float32
    ) -> GeneratorFields:
        """Geometry, and the field that the texture networks make; side by side where the networks let it be."""
        sources = self.generator.sources(ws_geo_BLD, ws_tex_BLD, half_dtype)
        # The first part stays on the stream of the common layers: their backward passes begin with the texture's, while
        # the geometry's, which keeps fewer of the device's units busy for longer, runs beside them.
        texture, geometry = side_by_side(
            [
                lambda: self.texture_field(sources.texture(), ws_tex_BLD),
                lambda: self.geometry(sources.geometry(), ws_geo_BLD),
            ],
            [ws_geo_BLD, ws_tex_BLD, *sources.made],
        )
        return GeneratorFields(geometry, texture)

    def raw_geometry(self, planes_geo: Any, ws_geo_BLD: Tensor) -> RawGeometry:
        """Values at the grid vertices, deformation in world units, before the empty-shape rule."""
        raw = self.generator.geometry(self.lookup(planes_geo), ws_geo_BLD)
        # Three values of four in a row: gathered first, since on a CPU only rows without gaps are worked on as vectors.
        deform_BN3 = torch.tanh(raw.deform_BN3.float().contiguous()) * self.deform_scale_N3
        return RawGeometry(raw.sdf_BN.float() + self.prior_N, deform_BN3, raw.weights_BQ21)

    def geometry(self, planes_geo: Any, ws_geo_BLD: Tensor) -> GeometryOutput:
        """SDF and deformation with the empty-shape rule applied."""
        raw = self.raw_geometry(planes_geo, ws_geo_BLD)
        repaired = repair_empty_shapes(raw.sdf_BN, raw.deform_BN3, self.extractor.grid)
        return GeometryOutput(*repaired, raw.weights_BQ21)

    def texture_field(self, planes_tex: Tensor, ws_tex_BLD: Tensor) -> TextureField:
        """The field that planes and styles make."""
        return TextureField(
            planes_tex,
            tuple(self.generator.texture_mlp(ws_tex_BLD)),
            self.to_rgb.point_weight(ws_tex_BLD[:, -1, : self.w_dim]),
            self.to_rgb.bias.float(),
        )

    def field_colors(self, field: TextureField, points_BP3: Tensor) -> Tensor:
        """RGB in [-1, 1] (not clamped) at world points; BP3."""
        if self.mirror_symmetry:
            points_BP3 = torch.cat([points_BP3[..., :1].abs(), points_BP3[..., 1:]], dim=-1)
        features_BCP = sample_triplanes(field.planes_BCRR, points_BP3 / self.extractor.grid.extent)
        features_BCP = run_layers(field.layers, features_BCP)
        colors_B3P = torch.bmm(field.to_rgb_B3I.to(features_BCP.dtype), features_BCP)
        return (colors_B3P + field.background_3[:, None]).transpose(1, 2)

    def point_colors(self, planes_tex: Tensor, points_BP3: Tensor, ws_tex_BLD: Tensor) -> Tensor:
        """`field_colors` of the field that planes and styles make."""
        return self.field_colors(self.texture_field(planes_tex, ws_tex_BLD), points_BP3)

    def render(
        self,
        rasterizer: Rasterizer,
        meshes: PackedMeshes,
        camera: Camera,
        planes_tex: Tensor,
        ws_tex_BLD: Tensor,
        resolution: int | None = None,
    ) -> RenderOutput:
        """`render_field` of the field that planes and styles make."""
        field = self.texture_field(planes_tex, ws_tex_BLD)
        return self.render_field(rasterizer, meshes, camera, field, resolution)

    def render_field(
        self,
        rasterizer: Rasterizer,
        meshes: PackedMeshes,
        camera: Camera,
        field: TextureField,
        resolution: int | None = None,
    ) -> RenderOutput:
        """Images of mesh b seen by cameras b * n ... b * n + n - 1, where there are n cameras per mesh.

        Uncovered pixels have zero features, that is, `to_rgb`'s bias.
        """
        size = resolution or self.image_resolution
        shapes = len(meshes)
        meshes = repeat_meshes(meshes, len(camera) // shapes)
        surface = visible_surface(rasterizer, meshes, camera, size)
        rgb_BHW3 = self._pixel_colors(surface, field)
        mask_BHW1 = surface.coverage_BHW1
        color = torch.cat([rgb_BHW3, mask_BHW1], dim=-1) if self.antialias_color else mask_BHW1
        color = rasterizer.antialias(color.contiguous(), surface.rast_BHW4, surface.clip_V4, meshes.faces_F3)
        if self.antialias_color:
            rgb_BHW3, mask_BHW1 = color[..., :3], color[..., 3:]
        else:
            mask_BHW1 = color
        return RenderOutput(rgb_BHW3.permute(0, 3, 1, 2), mask_BHW1.permute(0, 3, 1, 2))

    def _pixel_colors(self, surface: VisibleSurface, field: TextureField) -> Tensor:
        """BHW3: the texture field where a surface is seen, the background elsewhere."""
        if can_shade_tiles(field):
            return shade_tiles(surface, field, self.inverse_extent, self.mirror_symmetry)
        covered = covered_points(surface)
        # All views of a shape ask its texture field together.
        points_BP3 = covered.points_BP3.reshape(len(field.planes_BCRR), -1, 3)
        colors_BP3 = self.field_colors(field, points_BP3).reshape(covered.points_BP3.shape)
        covered_Q3 = colors_BP3[covered.image_Q, covered.slot_Q].float()
        images, height, width = surface.rast_BHW4.shape[:3]
        rgb_P3 = field.background_3.expand(images * height * width, 3)
        rgb_P3 = rgb_P3.index_put((covered.pixel_Q,), covered_Q3)
        return rgb_P3.view(images, height, width, 3)


class Generator(nn.Module):
    """Two latents to textured meshes: `mapping` (texture), `mapping_geo` (geometry), `synthesis`."""

    def __init__(self, config: ModelConfig, synthesis: Synthesis) -> None:
        super().__init__()
        self.z_dim = config.z_dim
        self.num_classes = config.num_classes
        mapping = (config.z_dim, config.w_dim, config.mapping_layers, config.num_classes)
        self.mapping = MappingNetwork(*mapping)
        self.mapping_geo = MappingNetwork(*mapping)
        self.synthesis = synthesis

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
        parts = [
            partial(self.mapping_geo, z_geo_BZ, truncation_psi, class_B),
            partial(self.mapping, z_tex_BZ, truncation_psi, class_B),
        ]
        shared = [z_geo_BZ, z_tex_BZ] if class_B is None else [z_geo_BZ, z_tex_BZ, class_B]
        return self.broadcast(*side_by_side(parts, shared))

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
        """Views of every shape (see `Synthesis.render_field` for their order), with everything a phase needs."""
        return self.image(self.fields(ws_geo_BLD, ws_tex_BLD, half_dtype), camera, rasterizer)

    def fields(
        self, ws_geo_BLD: Tensor, ws_tex_BLD: Tensor, half_dtype: torch.dtype = torch.float32
    ) -> GeneratorFields:
        """The networks: everything before the mesh, with sizes that do not depend on the shapes."""
        styles_tex_BLS = self.synthesis.texture_styles(ws_geo_BLD, ws_tex_BLD)
        return self.synthesis.fields(ws_geo_BLD, styles_tex_BLS, half_dtype)

    def first_to_have_gradients(self) -> list[nn.Parameter]:
        """All parameters but those where a backward pass ends: the mappings and the two lowest resolutions."""
        return [
            parameter
            for name, parameter in self.named_parameters()
            if not name.startswith("mapping") and ".b4." not in name and ".b8." not in name
        ]

    def image(self, fields: GeneratorFields, camera: Camera, rasterizer: Rasterizer) -> GeneratorOutput:
        """Mesh and views of every shape."""
        surface = self.synthesis.extractor.surface(fields.geometry)
        render = self.synthesis.render_field(rasterizer, surface.meshes, camera, fields.texture)
        return GeneratorOutput(render, fields.geometry, surface)


def initial_sdf(vertices_N3: Tensor, half_extents: tuple[float, float, float] | None) -> Tensor:
    """SDF-like values of a rounded box (a superellipsoid of exponent 4), added to the field's output.

    About +1 at the centre, 0 on the surface, falling linearly outside: the scale of an untrained head's output.
    Zeros where no initial shape is asked for (the published model).
    """
    if half_extents is None:
        return torch.zeros(vertices_N3.shape[0])
    scaled = vertices_N3.double().abs() / torch.tensor(half_extents, dtype=torch.float64)
    return (1.0 - scaled.pow(4).sum(dim=1).pow(0.25)).float()


def build_generator(config: ModelConfig, grid: IsosurfaceGrid | None = None) -> Generator:
    """The generator of a configuration: the one place where its networks and its isosurface are chosen.

    grid: one of its own (see `stored_grid`); None: the regular grid of the isosurface.
    """
    uses_cubes = config.isosurface == "flexicubes"
    if grid is None:
        make_grid = cube_grid if uses_cubes else bcc_grid
        grid = make_grid(config.tet_res, config.grid_scale)
    make_networks = {"unified": UnifiedTriPlaneGenerator, "separate": SeparateGenerator}[config.generator]
    networks = make_networks(config, grid if uses_cubes else None)
    extractor = FlexiCubes(grid) if uses_cubes else MarchingTetrahedra(grid)
    return Generator(config, Synthesis(config, networks, extractor))


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
