"""Choosing a rasteriser; the nvdiffrast adapter against a stand-in, and on a GPU against our own."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import trimesh

from get3d_model.errors import InputError
from get3d_model.rendering import nvdiffrast_backend
from get3d_model.rendering.cpu import CpuRasterizer
from get3d_model.rendering.nvdiffrast_backend import NvdiffrastRasterizer
from get3d_model.rendering.select import make_rasterizer, rasterizer_backends

HAS_NVDIFFRAST = torch.cuda.is_available() and importlib.util.find_spec("nvdiffrast") is not None


def test_cpu_gets_our_own_and_other_devices_are_named() -> None:
    assert isinstance(make_rasterizer(torch.device("cpu")), CpuRasterizer)
    with pytest.raises(InputError, match="device mps: there is no rasteriser"):
        make_rasterizer(torch.device("mps"))


def test_missing_cuda_and_missing_package_name_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"nvdiffrast cannot be used: .*CUDA"):
        make_rasterizer(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed; pip install .*nvdiffrast"):
        make_rasterizer(torch.device("cuda"))
    backends = {backend.name: backend for backend in rasterizer_backends()}
    assert backends["cpu"].available
    assert not backends["nvdiffrast"].available and "pip install" in backends["nvdiffrast"].reason


class StandIn(ModuleType):
    """nvdiffrast.torch as documented, computed by our own rasteriser; notes what it was called with."""

    def __init__(self) -> None:
        super().__init__("nvdiffrast.torch")
        self.seen: list[Any] = []
        self.own = CpuRasterizer()

    def RasterizeCudaContext(self, device: torch.device) -> str:
        return f"context on {device}"

    def rasterize(self, glctx, pos, tri, resolution, ranges=None, grad_db=True):
        self.seen.append(glctx)
        assert ranges.device.type == "cpu" and ranges.dtype == torch.int32 and tri.dtype == torch.int32
        return self.own.rasterize(pos, tri, ranges, tuple(resolution)), None

    def interpolate(self, attr, rast, tri, rast_db=None, diff_attrs=None):
        return self.own.interpolate(attr, rast, tri), None

    def antialias(self, color, rast, pos, tri, topology_hash=None, pos_gradient_boost=1.0):
        return self.own.antialias(color, rast, pos, tri)


def sphere() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=0.7)
    points = torch.tensor(mesh.vertices, dtype=torch.float32)
    w = torch.linspace(0.8, 1.3, len(points))[:, None]
    pos = torch.cat([points, torch.ones(len(points), 1)], dim=1) * w
    faces = torch.tensor(mesh.faces, dtype=torch.int32)
    return pos, faces, torch.tensor([[0, len(faces)], [0, 500]], dtype=torch.int32)


def draw(rasterizer, device: torch.device) -> torch.Tensor:
    pos, faces, ranges = sphere()
    pos, faces = pos.to(device), faces.to(device)
    rast = rasterizer.rasterize(pos, faces, ranges, (48, 40))
    return rasterizer.antialias(rasterizer.interpolate(pos[:, :3], rast, faces), rast, pos, faces).cpu()


def test_adapter_passes_everything_on(monkeypatch: pytest.MonkeyPatch) -> None:
    library = StandIn()
    monkeypatch.setattr(nvdiffrast_backend, "missing_requirement", lambda: None)
    monkeypatch.setitem(sys.modules, "nvdiffrast", ModuleType("nvdiffrast"))
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", library)
    rasterizer = make_rasterizer(torch.device("cuda", 1))
    assert isinstance(rasterizer, NvdiffrastRasterizer)
    cpu = torch.device("cpu")
    assert torch.equal(draw(rasterizer, cpu), draw(CpuRasterizer(), cpu))
    assert library.seen == ["context on cuda:1"]


def test_a_broken_install_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    library = StandIn()

    def fail(device: torch.device) -> None:
        raise RuntimeError("undefined symbol: _ZN3c10\nmore lines")

    library.RasterizeCudaContext = fail
    monkeypatch.setattr(nvdiffrast_backend, "missing_requirement", lambda: None)
    monkeypatch.setitem(sys.modules, "nvdiffrast", ModuleType("nvdiffrast"))
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", library)
    with pytest.raises(InputError, match=r"does not load \(undefined symbol: _ZN3c10\); reinstall"):
        make_rasterizer(torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_NVDIFFRAST, reason="needs an NVIDIA GPU with nvdiffrast")
def test_both_backends_draw_the_same_picture() -> None:
    device = torch.device("cuda")
    ours = draw(CpuRasterizer(silhouette_steps=0), torch.device("cpu"))
    theirs = draw(NvdiffrastRasterizer(device), device)
    differing = ((ours - theirs).abs().amax(-1) > 1e-3).float().mean()
    # Coverage may differ where an edge passes within rounding of a pixel centre.
    assert differing < 0.01
