"""State dictionaries of the published GET3D implementation <-> our configuration and state dictionaries.

Our parameter names are the published ones; what differs is that the published dictionaries also hold the constant
`resample_filter` of every resampling layer, and that they do not say which grid they belong to. The settings of the
model are read off the shapes. Source: observed names and shapes of published checkpoints.

Shape legend: R resolution
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from get3d_model.bundle import GRID_PREFIX
from get3d_model.errors import InputError
from get3d_model.networks.discriminator import CAMERA_ENCODING_DIM
from get3d_model.networks.synthesis import block_channels, block_resolutions
from get3d_model.networks.volume_field import RESOLUTIONS as VOLUME_RESOLUTIONS
from get3d_model.ops.resample import low_pass_kernel

DISCRIMINATOR_MAPPING_LAYERS = 8
UNIFIED, SEPARATE = "synthesis.generator", "synthesis.geometry_synthesis_tex"
VOLUMES = "synthesis.geometry_synthesis_sdf"
FILTER = "resample_filter"
# Layers whose published counterpart holds the low-pass filter, by the name of their weight. Two-dimensional
# convolutions and every discriminator layer have it; heads, fully connected and 3-D layers have not.
FILTER_OWNERS = (
    re.compile(r"(.*\btri_plane_synthesis\.b\d+\.conv[01])\.weight"),
    re.compile(r"((?:mask_)?b\d+\.(?:fromrgb|conv0|conv1|conv))\.weight"),
    re.compile(r"(.*\bgeometry_synthesis_(?:sdf|def)\.b\d+\.skip)\.weight"),
)
# Blocks that hold one too.
FILTER_BLOCKS = (
    re.compile(r"(.*\btri_plane_synthesis\.b\d+)\.conv1\.weight"),
    re.compile(r"((?:mask_)?b\d+)\.conv0\.weight"),
)


class _Shapes:
    """Shapes by name. `what` names the dictionary in errors."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
        self.shapes, self.what = shapes, what

    def of(self, name: str, dimensions: int) -> tuple[int, ...]:
        shape = self.shapes.get(name)
        if shape is None:
            raise InputError(
                f"{self.what} lacks {name}; not a GET3D checkpoint, or a kind that is not supported"
            )
        if len(shape) != dimensions:
            raise InputError(
                f"{self.what}: {name} has shape {tuple(shape)}, expected {dimensions} dimensions"
            )
        return shape

    def numbers(self, pattern: str) -> list[int]:
        """The numbers that stand at the group of `pattern`, ascending, once each."""
        matches = (re.fullmatch(pattern, name) for name in self.shapes)
        return sorted({int(match[1]) for match in matches if match})

    def count(self, pattern: str) -> int:
        """How many there are; they must be 0, 1, 2, ..."""
        found = self.numbers(pattern)
        if not found or found != list(range(len(found))):
            raise InputError(
                f"{self.what}: its layers {pattern} are numbered {found}; not a GET3D checkpoint"
            )
        return len(found)


def generator_settings(shapes: Mapping[str, tuple[int, ...]], what: str = "G_ema") -> dict[str, Any]:
    """Fields of `ModelConfig` that the shapes of a generator tell. Raises InputError."""
    names = _Shapes(shapes, what)
    if "mapping.embed.weight" in shapes:
        raise InputError(
            f"{what} is conditioned on a class (it has mapping.embed.weight), which is not supported"
        )
    separate = f"{SEPARATE}.tri_plane_synthesis.b4.const" in shapes
    root = SEPARATE if separate else UNIFIED
    backbone, texture_mlp = (
        f"{root}.tri_plane_synthesis",
        f"{root}.mlp_synthesis" + ("" if separate else "_tex"),
    )
    z_dim = names.of("mapping.fc0.weight", 2)[1]
    (w_dim,) = names.of("mapping.w_avg", 1)
    channels = {4: names.of(f"{backbone}.b4.const", 3)[0]}
    resolutions = names.numbers(re.escape(backbone) + r"\.b(\d+)\.conv1\.weight")
    for resolution in resolutions:
        channels[resolution] = names.of(f"{backbone}.b{resolution}.conv1.weight", 4)[0]
    channel_base, channel_max = _channel_rule(channels, what)
    head = "torgb" if separate else "totex"
    volumes: dict[str, int] = {}
    if separate:
        of_volumes = {r: names.of(f"{VOLUMES}.b{r}.conv1.weight", 5)[0] for r in VOLUME_RESOLUTIONS}
        volumes["volume_channel_base"], volumes["volume_channel_max"] = _channel_rule(of_volumes, what)
    return {
        **volumes,
        "generator": "separate" if separate else "unified",
        # Only FlexiCubes has weights to predict.
        "isosurface": "flexicubes" if any("mlp_synthesis_weight" in name for name in shapes) else "dmtet",
        "z_dim": z_dim,
        "w_dim": w_dim,
        "mapping_layers": names.count(r"mapping\.fc(\d+)\.weight"),
        "tri_plane_resolution": max(channels),
        "tri_plane_features": names.of(f"{backbone}.b4.{head}.weight", 4)[0] // 3,
        "channel_base": channel_base,
        "channel_max": channel_max,
        "mlp_hidden_layers": names.count(re.escape(texture_mlp) + r"\.layers\.(\d+)\.weight") - 1,
        "mlp_width": names.of(f"{texture_mlp}.layers.0.weight", 2)[0],
        "texture_features": names.of("synthesis.to_rgb.weight", 4)[1],
    }


def discriminator_settings(shapes: Mapping[str, tuple[int, ...]], what: str = "D") -> dict[str, Any]:
    """Fields of `ModelConfig` that the shapes of the discriminators tell. Raises InputError."""
    names = _Shapes(shapes, what)
    encoding = names.of("mapping.embed.weight", 2)[1]
    if encoding != CAMERA_ENCODING_DIM:
        raise InputError(
            f"{what} is conditioned on {encoding} values; only the camera's {CAMERA_ENCODING_DIM} are supported"
        )
    layers = names.count(r"mapping\.fc(\d+)\.weight")
    if layers != DISCRIMINATOR_MAPPING_LAYERS:
        raise InputError(
            f"{what} has {layers} mapping layers; only {DISCRIMINATOR_MAPPING_LAYERS} are supported"
        )
    channels = {4: names.of("b4.fc.weight", 2)[0]}
    for resolution in names.numbers(r"b(\d+)\.conv0\.weight"):
        channels[resolution] = names.of(f"b{resolution}.conv0.weight", 4)[0]
    top = max(channels)
    image_channels = names.of(f"b{top}.fromrgb.weight", 4)[1]
    if image_channels != 3:
        raise InputError(f"{what} sees {image_channels} colour channels; only 3 are supported")
    channel_base, channel_max = _channel_rule(channels, what)
    return {
        "image_resolution": top,
        "discriminator_channel_base": channel_base,
        "discriminator_channel_max": channel_max,
    }


def from_published(
    state: Mapping[str, Tensor], expected: Iterable[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """(our state dictionary, names that were left out because no layer of ours has them).

    expected: the names our module has. The published constants (`resample_filter`) are not reported.
    """
    wanted = set(expected)
    left_out = [name for name in state if name not in wanted and name.rpartition(".")[2] != FILTER]
    return {name: tensor for name, tensor in state.items() if name in wanted}, left_out


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dictionary of ours as the published implementation expects it: with filters, without our grid."""
    published: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(GRID_PREFIX):
            continue
        for pattern in (*FILTER_BLOCKS, *FILTER_OWNERS):
            if match := pattern.fullmatch(name):
                published.setdefault(f"{match[1]}.{FILTER}", low_pass_kernel())
        published[name] = tensor.detach().cpu().contiguous()
    return published


def _channel_rule(channels: Mapping[int, int], what: str) -> tuple[int, int]:
    """(base, max) such that min(base // R, max) gives the channels at every resolution R: the smallest base."""
    resolutions = sorted(channels)
    if resolutions != block_resolutions(resolutions[-1]):
        raise InputError(f"{what} has blocks at the resolutions {resolutions}; not a GET3D checkpoint")
    top = max(channels.values())
    base = max(channels[resolution] * resolution for resolution in resolutions)
    if any(block_channels(resolution, base, top) != count for resolution, count in channels.items()):
        raise InputError(f"{what}: its channels {dict(channels)} do not follow min(base / resolution, max)")
    return base, top
