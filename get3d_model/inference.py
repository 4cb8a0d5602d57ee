"""Checkpoint -> sampler: seeds, truncation, interpolation, images and textured meshes.

Shape legend: B batch, Z latent width, D w width, L layers (copies of w), H W image size
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from get3d_model.bundle import EMA, GENERATOR_FILE, load_parts
from get3d_model.config import Config, config_from_dict
from get3d_model.errors import InputError
from get3d_model.files import sha256_file
from get3d_model.generator import Generator, build_generator, stored_grid
from get3d_model.latents import average_w, latent_codes
from get3d_model.limits import check_psi
from get3d_model.programs import FieldsProgram, fields_output
from get3d_model.recorded import RecordedFunction
from get3d_model.rendering.base import Rasterizer
from get3d_model.rendering.grid_atlas import GridAtlas
from get3d_model.rendering.select import make_rasterizer
from get3d_model.rendering.texture_bake import BakeJob, PendingBake, started_bakes, to_bytes
from get3d_model.rendering.uv_atlas import UvAtlas
from get3d_model.types import Camera, ColoredMesh, GeometryOutput, PackedMeshes, TexturedMesh
from get3d_model.weights import load_module

CHECKPOINT_FILE = "checkpoint.json"
BEST_FILE = "best.json"
# Texture points that go through the field at a time on a GPU: a 1024 texture has up to a million.
POINTS_AT_A_TIME = 1 << 18


@dataclass(frozen=True)
class ModelIdentity:
    """Which model a mesh came from. sha256 is that of the weight file. class_names: of a class-conditional model."""

    name: str
    kimg: float
    sha256: str
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Styles:
    """One w per shape for each of the two codes, already truncated; BD. class_B: of a class-conditional model."""

    w_geo_BD: Tensor
    w_tex_BD: Tensor
    class_B: Tensor | None = None

    def __len__(self) -> int:
        return self.w_geo_BD.shape[0]

    def __getitem__(self, index: slice) -> Styles:
        class_B = None if self.class_B is None else self.class_B[index]
        return Styles(self.w_geo_BD[index], self.w_tex_BD[index], class_B)


@dataclass(frozen=True)
class Shapes:
    """Geometry of a batch and what is needed to colour it."""

    meshes: PackedMeshes
    empty_B: Tensor
    planes_tex: Tensor
    ws_tex_BLD: Tensor

    def single(self, index: int) -> Shapes:
        """Shape `index` as a batch of its own."""
        one = slice(index, index + 1)
        return Shapes(
            self.meshes.single(index), self.empty_B[one], self.planes_tex[one], self.ws_tex_BLD[one]
        )


def find_checkpoint(path: Path) -> Path:
    """The weight file meant by `path`: the file itself, a checkpoint folder, or a training folder (its newest).

    The `best.json` of a training folder means its best checkpoint by the validation metric. Raises InputError.
    """
    path = Path(path)
    if path.name == BEST_FILE:
        return _best_checkpoint(path)
    if path.is_file():
        return path
    if (path / GENERATOR_FILE).is_file():
        return path / GENERATOR_FILE
    # Complete checkpoints only: their names are numbers, so neither retired nor half-written ones count.
    found = sorted(path.glob(f"checkpoints/[0-9]*/{CHECKPOINT_FILE}"))
    if found:
        return found[-1].parent / GENERATOR_FILE
    raise InputError(
        f"{path}: no checkpoint here; give a {GENERATOR_FILE}, a checkpoint folder or a training folder"
    )


def _best_checkpoint(path: Path) -> Path:
    try:
        file = path.parent / json.loads(path.read_text())["checkpoint"] / GENERATOR_FILE
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); training writes it with its first validated checkpoint"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); give the training folder instead") from None
    if not file.is_file():
        raise InputError(f"{path} names {file}, which is gone; give the training folder instead")
    return file


class Sampler:
    """Samples shapes from one generator (its EMA weights).

    atlas: how meshes are unwrapped; the fast one unless another is given (`XatlasAtlas` for quality).
    """

    def __init__(
        self,
        generator: Generator,
        config: Config,
        identity: ModelIdentity,
        rasterizer: Rasterizer,
        device: torch.device,
        atlas: UvAtlas | None = None,
    ) -> None:
        self.generator = generator.eval().requires_grad_(False).to(device)
        self.config = config
        self.identity = identity
        self.fixed_class: int | None = None
        self.rasterizer = rasterizer
        self.device = device
        self.atlas = atlas or GridAtlas()
        self._fields: RecordedFunction | None = None

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu", atlas: UvAtlas | None = None) -> Sampler:
        """Loads a checkpoint (see `find_checkpoint`). Raises InputError."""
        file = find_checkpoint(path)
        device = torch.device(device)
        parts, description = load_parts(file, [EMA])
        if not {"config", "kimg"} <= description.keys():
            raise InputError(f"{file}: holds no generator; give the {GENERATOR_FILE} of a checkpoint")
        tensors = parts[EMA]
        config = config_from_dict(description["config"], f"{file} header")
        generator = build_generator(config.model, stored_grid(tensors, config.model, file))
        load_module(generator, tensors, file)
        class_names = tuple((description.get("dataset") or {}).get("classes", ()))
        identity = ModelIdentity(config.name, description["kimg"], sha256_file(file), class_names)
        return cls(generator, config, identity, cls.rasterizer_for(device), device, atlas)

    @staticmethod
    def rasterizer_for(device: torch.device) -> Rasterizer | None:
        """What a loaded sampler renders with. Raises InputError."""
        return make_rasterizer(device)

    def styles(
        self,
        seeds: Sequence[int],
        truncation_psi: float = 1.0,
        class_number: int | Sequence[int] | None = None,
    ) -> Styles:
        """The two codes of each seed (see `latent_codes`).

        class_number: of a class-conditional model, one for all or one each; None: the class that the seed draws.
        Raises InputError for a seed outside 0 .. 2^63 - 1, a psi outside 0 .. 2 or a class that does not exist.
        """
        z_B2Z, class_B = latent_codes(seeds, self.generator.z_dim, self.generator.num_classes)
        return self.map(z_B2Z, truncation_psi, self.classes(class_B, class_number))

    @torch.no_grad()
    def map(self, z_B2Z: Tensor, truncation_psi: float = 1.0, class_B: Tensor | None = None) -> Styles:
        """Styles of codes (geometry, texture). Raises InputError for a psi outside 0 .. 2."""
        check_psi(truncation_psi)
        z_B2Z = z_B2Z.to(self.device)
        class_B = None if class_B is None else class_B.to(self.device)
        return Styles(
            self.generator.mapping_geo(z_B2Z[:, 0], truncation_psi, class_B),
            self.generator.mapping(z_B2Z[:, 1], truncation_psi, class_B),
            class_B,
        )

    def record_networks(self) -> None:
        """From now on the networks are replayed as CUDA graphs, recorded once for every number of shapes at once: a
        quarter of the time for one shape of the demo's generator. Needs a CUDA device."""
        self._fields = RecordedFunction(FieldsProgram(self.generator))

    def with_class(self, text: str) -> Sampler:
        """The same sampler for one class, given by name or number; it asks for it wherever none is named.

        Raises InputError naming the classes.
        """
        chosen = copy.copy(self)
        chosen.fixed_class = self.class_number(text)
        return chosen

    def recompute_averages(self, samples: int) -> None:
        """Replaces what truncation goes towards by the mean w of `samples` codes, for weights that come without."""
        for seed, mapping in enumerate((self.generator.mapping, self.generator.mapping_geo)):
            mapping.w_avg.copy_(average_w(mapping, samples, seed))

    def classes(self, drawn_B: Tensor | None, class_number: int | Sequence[int] | None) -> Tensor | None:
        """The classes asked for, in the place of the drawn ones; None for a model without. Raises InputError."""
        class_number = self.fixed_class if class_number is None else class_number
        if class_number is None:
            return drawn_B
        if drawn_B is None:
            raise InputError(f"the model {self.identity.name} has no classes; leave the class out")
        class_B = torch.as_tensor(class_number, dtype=torch.int64).expand(len(drawn_B))
        if not 0 <= int(class_B.min()) <= int(class_B.max()) < self.generator.num_classes:
            raise InputError(
                f"class {class_number} does not exist; {self.identity.name} has 0 to {self.generator.num_classes - 1}"
            )
        return class_B

    def class_number(self, text: str) -> int:
        """The number of a class given by name or number. Raises InputError naming the classes."""
        names = self.identity.class_names or tuple(str(i) for i in range(self.generator.num_classes))
        if not self.generator.num_classes:
            raise InputError(f"the model {self.identity.name} has no classes; leave the class out")
        if text in names:
            return names.index(text)
        if text.isdecimal() and int(text) < len(names):
            return int(text)
        raise InputError(f"class {text!r} does not exist; {self.identity.name} has {', '.join(names)}")

    @torch.no_grad()
    def shapes(self, styles: Styles) -> Shapes:
        """Networks and isosurface extraction, once for the whole batch."""
        geometry, planes_tex, ws_tex = self.networks(styles)
        meshes = self.generator.synthesis.extractor.surface(geometry).meshes
        return Shapes(meshes, geometry.empty_B, planes_tex, ws_tex)

    @torch.no_grad()
    def networks(self, styles: Styles) -> tuple[GeometryOutput, Tensor, Tensor]:
        """(geometry, planes_tex, ws_tex_BLD): everything of `shapes` whose sizes do not depend on the shapes."""
        if self._fields is not None:
            return fields_output(self._fields(styles.w_geo_BD, styles.w_tex_BD))
        ws_geo, ws_tex = self.generator.broadcast(styles.w_geo_BD, styles.w_tex_BD)
        synthesis = self.generator.synthesis
        ws_tex = synthesis.texture_styles(ws_geo, ws_tex)
        planes_geo, planes_tex = synthesis.planes(ws_geo, ws_tex)
        return synthesis.geometry(planes_geo, ws_geo), planes_tex, ws_tex

    @torch.no_grad()
    def point_colors(
        self, shapes: Shapes, index: int, points_T3: Tensor, threads: int | None = None
    ) -> Tensor:
        """The texture field of shape `index` at world points on the sampler's device; RGB in [-1, 1], T3.

        threads: on the CPU; None: as many as torch uses. A point's colour does not depend on it, nor on other points.
        """
        synthesis = self.generator.synthesis
        one = slice(index, index + 1)
        field = synthesis.texture_field(shapes.planes_tex[one], shapes.ws_tex_BLD[one])
        if self.device.type == "cpu":
            # Numba is loaded only where it is needed.
            from get3d_model.rendering.cpu.texture_field import CpuTextureField

            asked = CpuTextureField(field, synthesis.inverse_extent, synthesis.mirror_symmetry)
            return torch.from_numpy(asked.colors(points_T3.numpy(), threads or torch.get_num_threads()))
        return torch.cat(
            [synthesis.field_colors(field, b[None])[0] for b in points_T3.split(POINTS_AT_A_TIME)]
        )

    def textured_mesh(self, shapes: Shapes, index: int, texture_resolution: int) -> TexturedMesh:
        """Shape `index` of the batch, unwrapped and with its texture field baked."""
        (mesh,) = self.textured_meshes(shapes, [index], [texture_resolution])
        return mesh

    def textured_meshes(
        self, shapes: Shapes, indices: Sequence[int], texture_resolutions: Sequence[int]
    ) -> list[TexturedMesh]:
        """Shapes of the batch, unwrapped and with their texture fields baked, in the order of `indices`. A mesh
        does not depend on what is textured with it."""
        with self.texturing(shapes, indices, texture_resolutions) as bakes:
            return [bake.finish() for bake in bakes]

    def texturing(
        self, shapes: Shapes, indices: Sequence[int], texture_resolutions: Sequence[int]
    ) -> AbstractContextManager[list[PendingBake]]:
        """As `textured_meshes`, but the caller decides which to finish: all are unwrapped meanwhile, on as many
        threads as torch uses."""
        meshes = shapes.meshes.to_host()
        jobs = [
            BakeJob(meshes[index], resolution, partial(self.point_colors, shapes, index))
            for index, resolution in zip(indices, texture_resolutions, strict=True)
        ]
        return started_bakes(self.atlas, jobs, self.device, torch.get_num_threads())

    @torch.no_grad()
    def colored_mesh(self, shapes: Shapes, index: int) -> ColoredMesh:
        """Shape `index` of the batch with the texture field's colours at its vertices: no atlas, no texture."""
        first, count = shapes.meshes.vertex_ranges_B2[index].tolist()
        points_V3 = shapes.meshes.vertices_V3[first : first + count]
        mesh = shapes.meshes.mesh(index)
        color_V3 = (
            to_bytes(self.point_colors(shapes, index, points_V3)) if count else np.zeros((0, 3), np.uint8)
        )
        return ColoredMesh(mesh.vertices_V3, mesh.faces_F3, color_V3)

    def generate(
        self, seeds: Sequence[int], truncation_psi: float = 0.7, texture_resolution: int = 1024
    ) -> list[TexturedMesh]:
        """One textured mesh per seed; `extras` say where it came from."""
        shapes = self.shapes(self.styles(seeds, truncation_psi))
        meshes = self.textured_meshes(shapes, range(len(seeds)), [texture_resolution] * len(seeds))
        return [
            with_extras(mesh, self.extras(seed, truncation_psi))
            for seed, mesh in zip(seeds, meshes, strict=True)
        ]

    def generate_colored(self, seeds: Sequence[int], truncation_psi: float = 0.7) -> list[ColoredMesh]:
        """One mesh with vertex colours per seed; `extras` say where it came from."""
        shapes = self.shapes(self.styles(seeds, truncation_psi))
        return [
            with_extras(self.colored_mesh(shapes, index), self.extras(seed, truncation_psi))
            for index, seed in enumerate(seeds)
        ]

    def extras(self, seed: int, truncation_psi: float, class_number: int | None = None) -> dict[str, Any]:
        """What is written into `asset.extras` of a generated mesh. class_number: None: the one the seed draws."""
        class_entry: dict[str, Any] = {}
        if self.generator.num_classes:
            _, drawn_B = latent_codes([seed], self.generator.z_dim, self.generator.num_classes)
            number = int(self.classes(drawn_B, class_number)[0])
            class_entry = {
                "class": self.identity.class_names[number] if self.identity.class_names else number
            }
        return {
            **class_entry,
            "seed": seed,
            "truncation_psi": truncation_psi,
            "model": self.identity.name,
            "kimg": self.identity.kimg,
            "checkpoint_sha256": self.identity.sha256,
        }

    @torch.no_grad()
    def render(self, styles: Styles, camera: Camera, resolution: int | None = None) -> np.ndarray:
        """Feature images of shape b seen by camera b (what the discriminator is trained on); BHW4 uint8 RGBA.

        RGB is the image over the training background, alpha the antialiased silhouette.
        """
        return self.picture(self.shapes(styles), camera, resolution)

    @torch.no_grad()
    def picture(self, shapes: Shapes, camera: Camera, resolution: int | None = None) -> np.ndarray:
        """As `render`, of shapes that are there already."""
        output = self.generator.synthesis.render(
            self.rasterizer, shapes.meshes, camera, shapes.planes_tex, shapes.ws_tex_BLD, resolution
        )
        rgb = ((output.rgb_B3HW.clamp(-1, 1) + 1) * 127.5).round()
        rgba = torch.cat([rgb, (output.mask_B1HW.clamp(0, 1) * 255).round()], dim=1)
        return rgba.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()


def interpolate_styles(first: Styles, second: Styles, steps: int) -> Styles:
    """`steps` styles from one shape to another, linear in w (both given with one row)."""
    weight_S1 = torch.linspace(0.0, 1.0, steps, device=first.w_geo_BD.device)[:, None]
    return Styles(
        torch.lerp(first.w_geo_BD, second.w_geo_BD, weight_S1),
        torch.lerp(first.w_tex_BD, second.w_tex_BD, weight_S1),
    )


AnyMesh = TypeVar("AnyMesh", TexturedMesh, ColoredMesh)


def with_extras(mesh: AnyMesh, extras: dict[str, Any]) -> AnyMesh:
    return replace(mesh, extras=extras)
