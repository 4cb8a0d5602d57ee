"""Untrained generators of a preset whose shapes are as smooth as those of a trained one.

Without training a generator's surfaces are ragged, with twice the triangles that a trained one has and ten times the
edges of charts: what texturing and encoding cost then says little. Here the geometry is fitted to one vehicle for all
codes, by least squares; colours stay untrained.
"""

from __future__ import annotations

from pathlib import Path

import torch

from get3d_model.config import config_from_dict
from get3d_model.generator import Generator, build_generator
from get3d_model.weights import load_module, load_tensors, save_tensors
from tests.get3d_model.rendering.atlas_shapes import vehicle_sdf

STEPS = 600
LEARNING_RATE = 1e-2
# Signed distances become +-1 within this many world units of the surface.
WIDTH = 0.1


def fit_vehicle(generator: Generator, device: torch.device, steps: int = STEPS) -> float:
    """Fits the generator in place, on the device; returns the share of grid vertices with the wrong sign."""
    generator.to(device).train().requires_grad_(True)
    synthesis = generator.synthesis
    target_N = vehicle_sdf(synthesis.extractor.grid.vertices_N3.cpu()).to(device)
    target_N = (target_N / WIDTH).clamp(-1.0, 1.0)
    # Little of the grid is inside.
    weight_N = 1.0 + 9.0 * (target_N > -0.9)
    optimizer = torch.optim.Adam(synthesis.parameters(), LEARNING_RATE)
    random = torch.Generator().manual_seed(0)
    wrong = 1.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, 2.0 * (1.0 - step / steps))
        z_B2Z = torch.randn(2, 2, generator.z_dim, generator=random).to(device)
        with torch.no_grad():
            w_geo, w_tex = generator.mapping_geo(z_B2Z[:, 0]), generator.mapping(z_B2Z[:, 1])
        ws_geo, ws_tex = generator.broadcast(w_geo, w_tex)
        ws_tex = synthesis.texture_styles(ws_geo, ws_tex)
        planes_geo, _ = synthesis.planes(ws_geo, ws_tex)
        geometry = synthesis.raw_geometry(planes_geo, ws_geo)
        error_BN = (geometry.sdf_BN - target_N).square() * weight_N
        loss = error_BN.mean() + geometry.deform_BN3.square().sum(-1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        wrong = float(((geometry.sdf_BN > 0) != (target_N > 0)).float().mean())
    generator.eval().requires_grad_(False)
    return wrong


def fit_checkpoint(path: Path, device: str) -> float:
    """As `fit_vehicle`, of a generator's file."""
    tensors, description = load_tensors(path)
    generator = build_generator(config_from_dict(description["config"], str(path)).model)
    load_module(generator, tensors, path)
    wrong = fit_vehicle(generator, torch.device(device))
    save_tensors({name: tensor.cpu() for name, tensor in generator.state_dict().items()}, path, description)
    return wrong
