"""Records what nvdiffrast computes for the scenes of agreement_scenes.py, for machines without a GPU.

    python -m tests.get3d_model.rendering.record_nvdiffrast tests/get3d_model/rendering/data/nvdiffrast.npz

The file holds, for each scene, the input and the arrays of `Recording`, and a header with the versions and the
device. `--backend cpu` records our own rasteriser instead: that checks the machinery, not the agreement.

Every operation is recorded by itself, with nvdiffrast's own rast buffer as input, and then the whole chain.

Shape legend: B images, V packed vertices, F packed faces, H W image size, C attribute channels
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from get3d_model.files import write_bytes_atomic
from get3d_model.rendering.base import Rasterizer
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.rendering.nvdiffrast_backend import NvdiffrastRasterizer
from tests.get3d_model.rendering.agreement_scenes import Scene, pattern, scenes
from tests.get3d_model.rendering.coverage_bounds import Allowed, allowed_ids

ATTRIBUTES = 2
# How far nvdiffrast may move an edge: its CUDA rasteriser snaps vertices to a grid in the pixel (Laine and
# Karras 2011, "High-Performance Software Rasterization on GPUs"). The grid is 1/16 pixel, as the recording shows
# (test_nvdiffrast_agreement.py), which moves an edge by up to sqrt(2)/32; this leaves room for rounding.
EDGE_PX = 1 / 16


@dataclass(frozen=True)
class Recording:
    """What a rasteriser gives for one scene; float32.

    rast_BHW4: as `Rasterizer.rasterize`. out_BHWC: interpolated attributes.
    grad_rast_pos_V4: of sum(seed * (u, v)) over the pixels that are sure (see coverage_bounds.py).
    grad_out_attributes_VC, grad_out_uv_BHW2: of sum(seed * out).
    aa_delta_BHW3: antialiased minus given colours, those being a pattern without order.
    grad_aa_color_delta_BHW3: gradient by the colours minus the seed; both deltas are 0 off the silhouettes.
    grad_aa_pos_V4: of sum(seed * antialiased).
    grad_loss_attributes_VC, grad_loss_pos_V4: of sum(seed * antialias(interpolate(attributes))) where the
        pixel and its four neighbours are sure.
    """

    rast_BHW4: np.ndarray
    out_BHWC: np.ndarray
    grad_rast_pos_V4: np.ndarray
    grad_out_attributes_VC: np.ndarray
    grad_out_uv_BHW2: np.ndarray
    aa_delta_BHW3: np.ndarray
    grad_aa_color_delta_BHW3: np.ndarray
    grad_aa_pos_V4: np.ndarray
    grad_loss_attributes_VC: np.ndarray
    grad_loss_pos_V4: np.ndarray


def allowed_by_image(scene: Scene, edge_px: float = EDGE_PX) -> list[Allowed]:
    """For each image, over the faces of its range."""
    return [
        allowed_ids(scene.pos_V4, scene.faces_F3[first : first + count], scene.resolution, edge_px)
        for first, count in scene.ranges_B2
    ]


def with_neighbours(sure_BHW: np.ndarray) -> np.ndarray:
    """Where a pixel and its four neighbours are sure; what antialiasing a pixel depends on."""
    padded = np.pad(sure_BHW, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    up, down = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]
    left, right = padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
    return sure_BHW & up & down & left & right


def record(
    scene: Scene, rasterizer: Rasterizer, device: torch.device, rast: np.ndarray | None = None
) -> Recording:
    """`rast`: a rast buffer to interpolate and antialias with instead of the rasteriser's own."""

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    def leaf(array: np.ndarray) -> Tensor:
        return tensor(array).requires_grad_()

    def host(value: Tensor) -> np.ndarray:
        return value.detach().cpu().numpy()

    faces, ranges = tensor(scene.faces_F3), torch.from_numpy(scene.ranges_B2)
    size = (len(ranges), *scene.resolution)
    sure_BHW = np.stack([allowed.sure_HW for allowed in allowed_by_image(scene)])
    seed_uv, seed_out, seed_aa = (
        tensor(2 * pattern((*size, channels), salt) - 1)
        for salt, channels in ((1, 2), (2, ATTRIBUTES), (3, 3))
    )
    attributes = pattern((len(scene.pos_V4), ATTRIBUTES), 4)
    color = pattern((*size, 3), 5)

    pos = leaf(scene.pos_V4)
    own_rast = rasterizer.rasterize(pos, faces, ranges, scene.resolution)
    (seed_uv * tensor(sure_BHW)[..., None] * own_rast[..., :2]).sum().backward()
    grad_rast_pos = host(pos.grad)

    given = tensor(rast) if rast is not None else own_rast.detach()
    attributes_leaf, given_leaf = leaf(attributes), given.clone().requires_grad_()
    out = rasterizer.interpolate(attributes_leaf, given_leaf, faces)
    (seed_out * out).sum().backward()

    color_leaf, pos_aa = leaf(color), leaf(scene.pos_V4)
    smooth = rasterizer.antialias(color_leaf, given, pos_aa, faces)
    (seed_aa * smooth).sum().backward()

    attributes_all, pos_all = leaf(attributes), leaf(scene.pos_V4)
    rast_all = rasterizer.rasterize(pos_all, faces, ranges, scene.resolution)
    image = rasterizer.antialias(
        rasterizer.interpolate(attributes_all, rast_all, faces), rast_all, pos_all, faces
    )
    (seed_out * tensor(with_neighbours(sure_BHW))[..., None] * image).sum().backward()

    return Recording(
        rast_BHW4=host(own_rast),
        out_BHWC=host(out),
        grad_rast_pos_V4=grad_rast_pos,
        grad_out_attributes_VC=host(attributes_leaf.grad),
        grad_out_uv_BHW2=host(given_leaf.grad)[..., :2],
        aa_delta_BHW3=host(smooth) - color,
        grad_aa_color_delta_BHW3=host(color_leaf.grad) - host(seed_aa),
        grad_aa_pos_V4=host(pos_aa.grad),
        grad_loss_attributes_VC=host(attributes_all.grad),
        grad_loss_pos_V4=host(pos_all.grad),
    )


def to_arrays(scene: Scene, recording: Recording) -> dict[str, np.ndarray]:
    """The file's entries for one scene: `scene/field`."""
    values = {name: value for name, value in asdict(scene).items() if name != "name"} | asdict(recording)
    return {f"{scene.name}/{name}": np.asarray(value) for name, value in values.items()}


def from_arrays(arrays: Mapping[str, np.ndarray], name: str) -> tuple[Scene, Recording]:
    height, width = arrays[f"{name}/resolution"].tolist()
    scene = Scene(
        name, *(arrays[f"{name}/{field}"] for field in ("pos_V4", "faces_F3", "ranges_B2")), (height, width)
    )
    return scene, Recording(**{f.name: arrays[f"{name}/{f.name}"] for f in fields(Recording)})


def header(backend: str, device: torch.device) -> dict[str, str | None]:
    cuda = device.type == "cuda"
    return {
        "backend": backend,
        "nvdiffrast": importlib.metadata.version("nvdiffrast") if backend == "nvdiffrast" else None,
        "device": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--backend", choices=("nvdiffrast", "cpu"), default="nvdiffrast")
    args = parser.parse_args(argv)
    if args.backend == "nvdiffrast":
        device = torch.device("cuda", 0)
        rasterizer: Rasterizer = NvdiffrastRasterizer(device)
    else:
        device, rasterizer = torch.device("cpu"), CpuRasterizer(silhouette_steps=0)
    about = header(args.backend, device)
    arrays = {"header": np.array(json.dumps(about)), "scenes": np.array([s.name for s in scenes()])}
    for scene in scenes():
        arrays |= to_arrays(scene, record(scene, rasterizer, device))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(args.out, buffer.getvalue())
    print(json.dumps(about | {"file": str(args.out), "bytes": buffer.tell()}))


if __name__ == "__main__":
    main()
