"""One function per kind of case: (configuration, expected arrays) -> our arrays by the same names."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from get3d_model.cameras import FIELD_OF_VIEW_RAD, orbit_camera, orbit_positions, perspective_projection
from get3d_model.config import ModelConfig
from get3d_model.generator import build_generator
from get3d_model.isosurface.cube_grid import CubeGrid
from get3d_model.isosurface.grid import TetrahedralGrid
from get3d_model.losses.adversarial import image_gradient
from get3d_model.losses.sdf import sdf_sign_cross_entropy
from get3d_model.networks.discriminator import MINIBATCH_STD_GROUP, Discriminator, encode_camera
from get3d_model.networks.fields import run_layers
from get3d_model.ops.triplane import sample_triplanes
from get3d_model.types import ExtractedSurface
from tests.parity.matching import match_vertices
from tests.parity.weights import load_reference_weights, seeded_normal, seeded_uniform

Arrays = dict[str, np.ndarray]


class NotImplementedCase(Exception):
    """This kind of model is not built yet; the reason is the message."""


def camera_case(case: dict[str, Any], expected: Arrays) -> Arrays:
    result: Arrays = {"projection": perspective_projection(FIELD_OF_VIEW_RAD).numpy()}
    for name in expected:
        if name.startswith("rotation_elevation_radius"):
            index = name.removeprefix("rotation_elevation_radius")
            rotation, elevation, radius = (float(v) for v in expected[name])
            rotation_B, elevation_B = torch.tensor([rotation]), torch.tensor([elevation])
            result[name] = expected[name]
            result[f"world2cam{index}"] = (
                orbit_camera(rotation_B, elevation_B, radius).world2cam_B44[0].numpy()
            )
            result[f"origin{index}"] = orbit_positions(rotation_B, elevation_B, radius)[0].numpy()
    return result


def model_config(published: dict[str, Any]) -> ModelConfig:
    """Our configuration of a published one. Raises NotImplementedCase for what is not built."""
    if published.get("c_dim"):
        raise NotImplementedCase("class conditioning")
    return ModelConfig(
        generator="unified" if published["one_3d_generator"] else "separate",
        isosurface=published["iso_surface"],
        z_dim=published["z_dim"],
        w_dim=published["w_dim"],
        mapping_layers=published["mapping_kwargs"].get("num_layers", 8),
        tri_plane_resolution=published["tri_plane_resolution"],
        channel_base=published["channel_base"],
        channel_max=published["channel_max"],
        mlp_hidden_layers=published["n_implicit_layer"],
        mlp_width=published["mlp_latent_channel"],
        texture_features=published["feat_channel"],
        tet_res=published["tet_res"],
        grid_scale=published["dmtet_scale"],
        deformation_multiplier=published["deformation_multiplier"],
        image_resolution=published["img_resolution"],
        num_half_precision_blocks=published["num_fp16_res"],
    )


def scaled_copies(w_BD: torch.Tensor, count: int) -> torch.Tensor:
    """Copy i of w times 1 + 0.05 i, so that a wrong ws index shows."""
    return torch.stack([w_BD * (1 + 0.05 * i) for i in range(count)], dim=1)


def edge_deviation(surface: ExtractedSurface, index: int, expected_verts_V3: np.ndarray) -> np.ndarray:
    """L_dev of every edge-vertex pair of one shape, its vertices in the reference's order.

    In evaluation mode every vertex is a dual vertex.
    """
    verts_V3 = surface.meshes.mesh(index).vertices_V3
    first, count = surface.meshes.vertex_ranges_B2[index].tolist()
    order = np.arange(count)
    if verts_V3.shape == expected_verts_V3.shape and count:
        order = np.argsort(match_vertices(verts_V3, expected_verts_V3))
    rows = torch.from_numpy(first + order)
    deviation = surface.edge_deviation
    return deviation.deviation_D7[rows][deviation.used_D7[rows]].numpy()


@torch.no_grad()
def generator_case(case: dict[str, Any], expected: Arrays, name: str) -> Arrays:
    config = model_config(case["config"])
    batch, salt = case["batch"], case["salt"]
    make_grid, cells = (
        (CubeGrid, "grid_cubes") if "grid_cubes" in expected else (TetrahedralGrid, "grid_tets")
    )
    grid = make_grid(
        torch.from_numpy(expected["grid_verts"]), torch.from_numpy(expected[cells]), config.tet_res
    )
    model = build_generator(config, grid).eval()
    load_reference_weights(model, case["shapes"], salt)
    synthesis = model.synthesis

    latent = (batch, config.z_dim)
    z_geo = torch.from_numpy(seeded_normal(salt, f"input:{name}zg", latent))
    z_tex = torch.from_numpy(seeded_normal(salt, f"input:{name}zt", latent))
    w_geo, w_tex = model.mapping_geo(z_geo), model.mapping(z_tex)
    result: Arrays = {
        "ws_tex": w_tex.numpy(),
        "ws_geo": w_geo.numpy(),
        "ws_tex_psi07": model.mapping(z_tex, truncation_psi=0.7).numpy(),
        "num_ws_tex": np.asarray(model.num_ws_tex),
        "num_ws_geo": np.asarray(model.num_ws_geo),
        "grid_verts": grid.vertices_N3.numpy(),
        cells: expected[cells],
    }
    ws_geo, ws_tex = scaled_copies(w_geo, model.num_ws_geo), scaled_copies(w_tex, model.num_ws_tex)
    ws_tex = synthesis.texture_styles(ws_geo, ws_tex)
    planes_geo, planes_tex = synthesis.planes(ws_geo, ws_tex)
    for key, planes in (("planes_geo", planes_geo), ("planes_tex", planes_tex)):
        if key in expected:
            step = max(1, planes.shape[-1] // 32)
            result[key] = planes[:, ::4, ::step, ::step].numpy()

    geometry = synthesis.geometry(planes_geo, ws_geo)
    result["sdf"] = geometry.sdf_BN[..., None].numpy()
    result["deformation"] = geometry.deform_BN3.numpy()
    result["reg"] = geometry.empty_regulariser_B.numpy()
    centred = geometry.sdf_BN - geometry.sdf_BN.median(dim=1, keepdim=True).values
    result["sdf_centred"] = centred[..., None].numpy()
    result["sdf_reg_entropy"] = sdf_sign_cross_entropy(centred, grid.edges_E2).numpy()
    if geometry.weights_BQ21 is not None:
        result["flexicubes_weight"] = geometry.weights_BQ21.numpy()
    surface = synthesis.extractor.surface(dataclasses.replace(geometry, sdf_BN=centred))
    for index in range(batch):
        mesh = surface.meshes.mesh(index)
        result[f"verts{index}"], result[f"faces{index}"] = mesh.vertices_V3, mesh.faces_F3.astype(np.int64)
        if surface.edge_deviation is not None:
            result[f"l_dev{index}"] = edge_deviation(surface, index, expected[f"verts{index}"])
            # FlexiCubes was published for SDFs that are negative inside. Given these, which are positive, the
            # reference's faces look inwards; ours look outwards.
            result[f"faces{index}"] = mesh.faces_F3[:, ::-1].astype(np.int64)

    points = torch.from_numpy(
        seeded_uniform(salt, f"input:{name}pts", -0.5, 0.5, (*expected["tex_feat"].shape[:2], 3))
    )
    field = synthesis.texture_field(planes_tex, ws_tex)
    features = sample_triplanes(planes_tex, points / synthesis.extractor.grid.extent)
    result["tex_feat"] = run_layers(field.layers, features).transpose(1, 2).numpy()
    rgb = synthesis.field_colors(field, points)
    result["rgb"] = rgb.transpose(1, 2).reshape(expected["rgb"].shape).numpy()
    return result


def discriminator_case(case: dict[str, Any], expected: Arrays, name: str) -> Arrays:
    published, salt = case["config"], case["salt"]
    if published.get("c_dim"):
        raise NotImplementedCase("class conditioning")
    if not published["add_camera_cond"]:
        raise NotImplementedCase("a discriminator without camera conditioning")
    if published["architecture"] != "skip":
        raise NotImplementedCase(f"discriminator architecture {published['architecture']}")
    resolution = published["img_resolution"]
    model = Discriminator(
        resolution,
        published["channel_base"],
        published["channel_max"],
        mapping_layers=published["mapping_kwargs"].get("num_layers", 8),
        minibatch_std_group=published["epilogue_kwargs"].get("mbstd_group_size", MINIBATCH_STD_GROUP),
    )
    load_reference_weights(model, case["shapes"], salt)
    batch = expected["logits"].shape[0]
    image = torch.from_numpy(seeded_normal(salt, f"input:{name}img", (batch, 4, resolution, resolution)))
    angles = torch.from_numpy(seeded_uniform(salt, f"input:{name}cam", 0, 3, (batch, 2)))
    image.requires_grad_(True)
    logits, logits_mask = model(image, angles)
    gradient = image_gradient((logits, logits_mask), image).detach()
    return {
        "logits": logits.detach().numpy(),
        "logits_mask": logits_mask.detach().numpy(),
        "cam_enc": encode_camera(angles).numpy(),
        "r1": gradient.square().sum(dim=(1, 2, 3)).numpy(),
        "grad_slice": gradient[:, :, ::8, ::8].numpy(),
    }
