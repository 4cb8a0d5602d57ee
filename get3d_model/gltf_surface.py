"""What a glTF material does to a surface beside colouring it: texture transforms, wrapping, alpha modes.

Sources: Khronos glTF 2.0 specification, sections 3.8 and 3.9; KHR_texture_transform.

Shape legend: V vertices, T triangles, A attributes, H W picture
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from get3d_model.alpha_cut import cut_below, spread_opaque
from get3d_model.gltf import CLAMP_TO_EDGE, MIRRORED_REPEAT, BaseColour
from get3d_model.texture_atlas import SurfacePart


def transformed(base: BaseColour, uvs_V2: np.ndarray) -> np.ndarray:
    """Applies KHR_texture_transform to uvs whose origin is bottom-left.

    Scaled, turned, then shifted, around the picture's top-left corner; the turn is counter-clockwise as one
    sees the uvs, whose v points down in glTF.
    """
    if base.scale_2 == (1.0, 1.0) and base.offset_2 == (0.0, 0.0) and base.rotation_rad == 0.0:
        return uvs_V2
    u_V, v_V = ((uvs_V2 * (1, -1) + (0, 1)) * base.scale_2).T
    if base.rotation_rad != 0.0:
        cosine, sine = np.cos(base.rotation_rad), np.sin(base.rotation_rad)
        u_V, v_V = cosine * u_V + sine * v_V, cosine * v_V - sine * u_V
    return (np.stack([u_V, v_V], axis=-1) + base.offset_2) * (1, -1) + (0, 1)


def wrapped(
    base: BaseColour, uvs_V2: np.ndarray, layers: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """uvs and pictures (all of one size) that look the same when the pictures simply repeat."""
    for axis, wrap in enumerate(base.wrap_2):
        if uvs_V2[:, axis].min() >= 0.0 and uvs_V2[:, axis].max() <= 1.0:
            continue
        uvs_V2 = uvs_V2.astype(np.float64)
        if wrap == CLAMP_TO_EDGE:
            uvs_V2[:, axis] = uvs_V2[:, axis].clip(0.0, 1.0)
        elif wrap == MIRRORED_REPEAT:
            # A picture and its mirror image side by side repeat with twice the period. v goes up, rows down.
            uvs_V2[:, axis] /= 2.0
            layers = [
                np.concatenate([layer, layer[:, ::-1]], axis=1)
                if axis == 0
                else np.concatenate([layer[::-1], layer], axis=0)
                for layer in layers
            ]
    return uvs_V2, layers


def cut_out(base: BaseColour, part: SurfacePart, alpha_HW: np.ndarray | None) -> SurfacePart | None:
    """The part without what its material makes invisible; None when nothing is left.

    alpha_HW: of the part's picture, uint8, None when it has none. Opacities at vertices are disregarded.
    """
    if base.alpha_mode == "MASK":
        threshold = base.cutoff / base.alpha if base.alpha > 0.0 else np.inf
    elif base.alpha_mode == "BLEND":
        highest = 1.0 if alpha_HW is None else alpha_HW.max() / 255.0
        threshold = 0.5 * highest if base.alpha * highest > 0.0 else np.inf
    else:
        return part
    if threshold > 1.0:
        return None
    if alpha_HW is not None and not (alpha_HW >= 255.0 * threshold).any():
        return None
    if alpha_HW is None or part.uvs_V2 is None or alpha_HW.min() / 255.0 >= threshold:
        return part
    columns = [part.vertices_V3, part.uvs_V2, *([] if part.colours_V3 is None else [part.colours_V3])]
    table_VA = np.concatenate([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    kept_T3A = cut_below(table_VA[part.faces_F3], alpha_HW, threshold)
    if not len(kept_T3A):
        return None
    # Corners shared again, so that shading across small triangles sees one surface.
    rows_VA, index_T3 = np.unique(kept_T3A.reshape(-1, kept_T3A.shape[-1]), axis=0, return_inverse=True)
    return replace(
        part,
        vertices_V3=rows_VA[:, :3],
        faces_F3=index_T3.reshape(-1, 3),
        uvs_V2=rows_VA[:, 3:5],
        colours_V3=None if part.colours_V3 is None else rows_VA[:, 5:],
        image_HW3=spread_opaque(part.image_HW3, alpha_HW >= 255.0 * threshold),
    )
