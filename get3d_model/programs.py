"""The networks of a generator as `torch.export` programs of one shape each: what is exported and served.

Sizes are static and the batch is one shape, so a shape's bits cannot depend on what is sampled with it. What depends
on the weights alone (the merged kernels of the upsampling layers, above all) is computed once, when a program is
loaded; that makes one shape at a time as quick as a batch through the modules.

Shape legend: B = 1 shape, Z latent width, D w width, L layers (copies of w), N grid vertices, Q cubes
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from get3d_model.errors import InputError
from get3d_model.generator import Generator
from get3d_model.types import GeometryOutput

MAPPING, FIELDS = "mapping", "fields"
PROGRAM_FILES = {name: f"{name}.pt2" for name in (MAPPING, FIELDS)}


class MappingProgram(nn.Module):
    """z_geo_BZ, z_tex_BZ (and class_B) -> w_geo_BD, w_tex_BD and the averages that truncation goes towards, BD."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.mapping_geo, self.mapping_tex = generator.mapping_geo, generator.mapping

    def forward(
        self, z_geo_BZ: Tensor, z_tex_BZ: Tensor, class_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        averages = [
            network.w_avg[None].clone() if class_B is None else network.w_avg[class_B]
            for network in (self.mapping_geo, self.mapping_tex)
        ]
        w_geo_BD = self.mapping_geo(z_geo_BZ, class_B=class_B)
        return w_geo_BD, self.mapping_tex(z_tex_BZ, class_B=class_B), averages[0], averages[1]


class FieldsProgram(nn.Module):
    """w_geo_BD, w_tex_BD -> texture planes, texture styles BLS, sdf_BN, deform_BN3, empty_B (and weights_BQ21)."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.synthesis = generator.synthesis
        self.num_ws = generator.num_ws_geo, generator.num_ws_tex

    def forward(self, w_geo_BD: Tensor, w_tex_BD: Tensor) -> tuple[Tensor, ...]:
        ws_geo_BLD, ws_tex_BLD = (
            w[:, None].expand(-1, num, -1) for w, num in zip((w_geo_BD, w_tex_BD), self.num_ws, strict=True)
        )
        styles_BLS = self.synthesis.texture_styles(ws_geo_BLD, ws_tex_BLD)
        planes_geo, planes_tex = self.synthesis.planes(ws_geo_BLD, styles_BLS)
        geometry = self.synthesis.geometry(planes_geo, ws_geo_BLD)
        weights = () if geometry.weights_BQ21 is None else (geometry.weights_BQ21,)
        # The programs own what they return, also where it is a view of an input.
        return (
            planes_tex,
            styles_BLS.clone(),
            geometry.sdf_BN,
            geometry.deform_BN3,
            geometry.empty_B,
            *weights,
        )


def fields_output(outputs: Sequence[Tensor]) -> tuple[GeometryOutput, Tensor, Tensor]:
    """(geometry, planes_tex, styles_BLS) from what a `FieldsProgram` returns."""
    planes_tex, styles_BLS, sdf_BN, deform_BN3, empty_B, *weights = outputs
    unused_B = sdf_BN.new_zeros(len(sdf_BN))
    weights_BQ21 = weights[0] if weights else None
    return GeometryOutput(sdf_BN, deform_BN3, empty_B, unused_B, weights_BQ21), planes_tex, styles_BLS


@dataclass(frozen=True)
class Network:
    """One network: its module and inputs that it takes."""

    module: nn.Module
    inputs: tuple[Tensor, ...]


def networks_of(generator: Generator, seed: int = 0) -> dict[str, Network]:
    """The two networks of a generator on the CPU, with inputs drawn from `seed`."""
    random = torch.Generator().manual_seed(seed)
    latents = tuple(torch.randn(1, generator.z_dim, generator=random) for _ in range(2))
    classes = (torch.zeros(1, dtype=torch.int64),) if generator.num_classes else ()
    mapping = MappingProgram(generator)
    with torch.no_grad():
        w_geo_BD, w_tex_BD = mapping(*latents, *classes)[:2]
    return {
        MAPPING: Network(mapping, (*latents, *classes)),
        FIELDS: Network(FieldsProgram(generator), (w_geo_BD, w_tex_BD)),
    }


def export_program(network: Network) -> ExportedProgram:
    """The program of a network, without anything that tells where it was made."""
    with torch.no_grad():
        program = torch.export.export(network.module, network.inputs, strict=False)
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn"):
            node.meta.pop(key, None)
    return program


def save_program(program: ExportedProgram, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path)


def load_program(path: Path) -> Callable[..., Any]:
    """A program as a callable, with everything computed that does not depend on its inputs. Raises InputError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
    except Exception as error:  # the reader raises whatever a damaged file makes happen in it
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a readable program ({reason}); export the model again") from None
    from torch._inductor.constant_folding import constant_fold

    module = program.module()
    with torch.no_grad():
        constant_fold(module)
    _lay_out_for_convolutions(module)
    _work_in_place(module)
    # Shapes and types are those of the export; a fifth of all steps would only check that.
    for node in module.graph.nodes:
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _lay_out_for_convolutions(module: torch.fx.GraphModule) -> None:
    """Constant kernels of images with their channels last get theirs last, too, which would be done at every call."""
    layout = torch.channels_last
    for node in module.graph.nodes:
        if node.target is not torch.ops.aten.conv2d.default:
            continue
        image, weight = node.args[:2]
        constant = weight.op == "get_attr" and len(weight.users) == 1
        if constant and image.meta["val"].is_contiguous(memory_format=layout):
            kernel = getattr(module, weight.target).detach().contiguous(memory_format=layout)
            setattr(module, weight.target, nn.Parameter(kernel, requires_grad=False))


def _work_in_place(module: torch.fx.GraphModule) -> None:
    """Sums, products and activations overwrite what nobody else reads: the same bits, and half the memory to go through."""
    aten = torch.ops.aten
    in_place = {
        aten.add.Tensor: aten.add_.Tensor,
        aten.mul.Tensor: aten.mul_.Tensor,
        aten.leaky_relu.default: aten.leaky_relu_.default,
        aten.clamp.default: aten.clamp_.default,
    }
    makers = {
        aten.conv2d.default, aten.pixel_shuffle.default, aten.bmm.default, *in_place, *in_place.values()
    }  # fmt: skip
    views = {aten.permute.default, aten.unflatten.int}

    def is_spare(node: object) -> bool:
        if not isinstance(node, torch.fx.Node) or len(node.users) != 1:
            return False
        return node.target in makers or (node.target in views and is_spare(node.args[0]))

    for node in module.graph.nodes:
        if node.target in in_place and is_spare(node.args[0]):
            given, made = node.args[0].meta["val"], node.meta["val"]
            if (given.shape, given.stride(), given.dtype) == (made.shape, made.stride(), made.dtype):
                node.target = in_place[node.target]


class Programs:
    """The loaded networks, on the CPU. Safe to call from several threads."""

    def __init__(self, mapping: Callable[..., Any], fields: Callable[..., Any]) -> None:
        self._mapping, self._fields = mapping, fields

    @classmethod
    def load(cls, folder: Path) -> Programs:
        """What an export wrote into `folder`. Raises InputError."""
        return cls(*(load_program(Path(folder) / PROGRAM_FILES[name]) for name in (MAPPING, FIELDS)))

    @torch.no_grad()
    def map(
        self, z_geo_BZ: Tensor, z_tex_BZ: Tensor, truncation_psi: float, class_B: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """w_geo_BD, w_tex_BD of one shape, truncated."""
        classes = () if class_B is None else (class_B,)
        w_geo, w_tex, average_geo, average_tex = self._mapping(z_geo_BZ, z_tex_BZ, *classes)
        if truncation_psi == 1.0:
            return w_geo, w_tex
        return average_geo.lerp(w_geo, truncation_psi), average_tex.lerp(w_tex, truncation_psi)

    @torch.no_grad()
    def fields(self, w_geo_BD: Tensor, w_tex_BD: Tensor) -> tuple[GeometryOutput, Tensor, Tensor]:
        """(geometry, planes_tex, styles_BLS) of one shape."""
        return fields_output(self._fields(w_geo_BD, w_tex_BD))
