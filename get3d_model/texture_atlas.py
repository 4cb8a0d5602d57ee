"""Merges surfaces with different materials into one mesh with one base-colour texture.

Every distinct picture or flat colour becomes a rectangular cell of the atlas. Cells start on multiples of
`ALIGN` texels and pictures keep a border of repeated edge texels, so that neither bilinear lookups nor the
first mip levels mix neighbours.

Shape legend: V vertices, F faces, H W texture height and width, C cells
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from get3d_model.errors import InputError
from get3d_model.types import TexturedMesh

ALIGN = 8  # texels; a flat colour is one such cell, exact down to the third mip level
BORDER = 4  # texels of repeated edge around a picture
ATLAS_LIMIT = 4096  # texels; pictures are reduced together until the atlas fits
REPEAT_LIMIT = 2048  # texels; side of a cell into which repeats of a tiling picture are baked
MAX_REPEATS = 512
PALETTE_LIMIT = 4096  # distinct vertex colours of a part that still become flat cells
FIT_TOLERANCE = 1e-4  # how far, in uv, an island may stand over the picture's edge by rounding


@dataclass(frozen=True)
class SurfacePart:
    """One piece of a scene: a mesh with one material.

    vertices_V3: float32. faces_F3: int. uvs_V2: (0, 0) bottom-left, None where there are none.
    image_HW3: uint8 sRGB, row 0 the top, or None. factor_3: linear multiplier of the picture, or the flat
    colour itself. colours_V3: sRGB in [0, 1], one more multiplier, or None.
    """

    vertices_V3: np.ndarray
    faces_F3: np.ndarray
    uvs_V2: np.ndarray | None
    image_HW3: np.ndarray | None
    factor_3: tuple[float, float, float]
    colours_V3: np.ndarray | None


@dataclass(frozen=True)
class _Placed:
    """A part whose vertices know their atlas cell: `uvs_V2` are in [0, 1] of cell `cells_V`."""

    vertices_V3: np.ndarray
    faces_F3: np.ndarray
    uvs_V2: np.ndarray
    cells_V: np.ndarray


def srgb_to_linear(value: np.ndarray) -> np.ndarray:
    """Any shape, [0, 1]. Source: IEC 61966-2-1."""
    value = np.asarray(value, dtype=np.float64)
    return np.where(value <= 0.04045, value / 12.92, ((np.maximum(value, 0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(value: np.ndarray) -> np.ndarray:
    """Any shape, [0, 1]. Source: IEC 61966-2-1."""
    value = np.asarray(value, dtype=np.float64)
    return np.where(
        value <= 0.0031308, value * 12.92, 1.055 * np.maximum(value, 0.0031308) ** (1 / 2.4) - 0.055
    )


def _to_uint8(value: np.ndarray) -> np.ndarray:
    return np.round(np.clip(value, 0.0, 1.0) * 255.0).astype(np.uint8)


def _multiply(image_HW3: np.ndarray, factor_3: tuple[float, float, float]) -> np.ndarray:
    """The picture times a linear colour, back in sRGB; exactly the picture for a white factor."""
    if np.allclose(factor_3, 1.0, atol=1e-6):
        return image_HW3
    levels_256 = srgb_to_linear(np.arange(256) / 255.0)
    channels = [_to_uint8(linear_to_srgb(np.clip(levels_256 * factor_3[c], 0.0, 1.0))) for c in range(3)]
    return np.stack([channels[c][image_HW3[..., c]] for c in range(3)], axis=-1)


def _resize(image_HW3: np.ndarray, width: int, height: int) -> np.ndarray:
    if image_HW3.shape[:2] == (height, width):
        return image_HW3
    return np.asarray(Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BOX))


class _Cells:
    """The distinct contents of the atlas, numbered in order of first use."""

    def __init__(self) -> None:
        self.images: list[np.ndarray] = []
        self.is_flat: list[bool] = []
        self._index: dict[bytes, int] = {}

    def _add(self, image_HW3: np.ndarray, flat: bool) -> int:
        key = repr((flat, image_HW3.shape)).encode() + hashlib.sha256(image_HW3.tobytes()).digest()
        if key not in self._index:
            self._index[key] = len(self.images)
            self.images.append(image_HW3)
            self.is_flat.append(flat)
        return self._index[key]

    def flat(self, colour_3: np.ndarray) -> int:
        """The cell of one sRGB colour, uint8."""
        return self._add(np.broadcast_to(colour_3, (ALIGN, ALIGN, 3)), flat=True)

    def image(self, image_HW3: np.ndarray) -> int:
        return self._add(image_HW3, flat=False)


def _shift_islands(uvs_V2: np.ndarray, faces_F3: np.ndarray) -> np.ndarray:
    """Moves every connected piece by whole repeats so that it starts in [0, 1)."""
    if uvs_V2.min() >= -FIT_TOLERANCE and uvs_V2.max() <= 1.0 + FIT_TOLERANCE:
        return uvs_V2
    count = len(uvs_V2)
    rows, columns = faces_F3[:, [0, 1]].ravel(), faces_F3[:, [1, 2]].ravel()
    graph = coo_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(count, count))
    islands, island_V = connected_components(graph, directed=False)
    lowest = np.full((islands, 2), np.inf)
    np.minimum.at(lowest, island_V, uvs_V2)
    return uvs_V2 - np.floor(lowest + FIT_TOLERANCE)[island_V]


def _unrepeat(part: SurfacePart, image_HW3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture and uvs in [0, 1] that look like `image_HW3` repeated over the part's uvs."""
    uvs_V2 = _shift_islands(part.uvs_V2.astype(np.float64), part.faces_F3)
    repeats_x, repeats_y = np.maximum(np.ceil(uvs_V2.max(axis=0) - FIT_TOLERANCE), 1).astype(int)
    if max(repeats_x, repeats_y) > MAX_REPEATS:
        raise InputError(
            f"a texture repeats {max(repeats_x, repeats_y)} times over one surface; at most {MAX_REPEATS} "
            "repeats can be baked: scale its UVs down"
        )
    if repeats_x * repeats_y > 1:
        height, width = image_HW3.shape[:2]
        width = min(width, max(REPEAT_LIMIT // repeats_x, 1))
        height = min(height, max(REPEAT_LIMIT // repeats_y, 1))
        image_HW3 = np.tile(_resize(image_HW3, width, height), (repeats_y, repeats_x, 1))
    return image_HW3, np.clip(uvs_V2 / [repeats_x, repeats_y], 0.0, 1.0)


def sample_bilinear(image_HW3: np.ndarray, uvs_N2: np.ndarray) -> np.ndarray:
    """Repeating bilinear lookup; returns N3 float64 on the scale of the picture. (0, 0) is bottom-left."""
    height, width = image_HW3.shape[:2]
    x_N = uvs_N2[:, 0].astype(np.float64) * width - 0.5
    y_N = (1.0 - uvs_N2[:, 1].astype(np.float64)) * height - 0.5
    left_N, top_N = np.floor(x_N).astype(np.int64), np.floor(y_N).astype(np.int64)
    fx_N1, fy_N1 = (x_N - left_N)[:, None], (y_N - top_N)[:, None]

    def texel(dx: int, dy: int) -> np.ndarray:
        return image_HW3[(top_N + dy) % height, (left_N + dx) % width].astype(np.float64)

    upper_N3 = texel(0, 0) * (1 - fx_N1) + texel(1, 0) * fx_N1
    lower_N3 = texel(0, 1) * (1 - fx_N1) + texel(1, 1) * fx_N1
    return upper_N3 * (1 - fy_N1) + lower_N3 * fy_N1


def _bake_face_blocks(part: SurfacePart, image_HW3: np.ndarray | None, cells: _Cells) -> _Placed:
    """Gives every face its own block of texels holding its vertex colours (times its picture).

    The corners of a face lie on texel centres, where interpolated colours are exact; vertex colours are
    interpolated in sRGB.
    """
    corner_F33 = part.colours_V3[part.faces_F3].astype(np.float64)
    faces = len(part.faces_F3)
    columns = math.ceil(math.sqrt(faces))
    block = 4
    if image_HW3 is not None:
        texels_V2 = part.uvs_V2 * [image_HW3.shape[1], image_HW3.shape[0]]
        extent_F = np.ptp(texels_V2[part.faces_F3], axis=1).max(axis=1)
        wanted = 2 ** math.ceil(math.log2(max(float(np.median(extent_F)), 4.0)))
        block = int(np.clip(wanted, 4, max(4, min(64, ATLAS_LIMIT // 2 // columns))))
    core = block - 1  # the last row and column repeat their neighbours as a border
    step_K = np.minimum(np.arange(block), core - 1) / (core - 1)
    b1_KK, b2_KK = np.meshgrid(step_K, step_K)  # along x towards corner 1, along rows towards corner 2
    weights_KK3 = np.stack([1.0 - b1_KK - b2_KK, b1_KK, b2_KK], axis=-1)
    colour_FKK3 = np.clip(np.einsum("yxc,fcd->fyxd", weights_KK3, corner_F33), 0.0, 1.0)
    if image_HW3 is not None:
        uv_FKK2 = np.einsum("yxc,fcd->fyxd", weights_KK3, part.uvs_V2[part.faces_F3].astype(np.float64))
        picture = sample_bilinear(image_HW3, uv_FKK2.reshape(-1, 2)).reshape(colour_FKK3.shape) / 255.0
        colour_FKK3 = linear_to_srgb(srgb_to_linear(picture) * srgb_to_linear(colour_FKK3))
    rows = math.ceil(faces / columns)
    blocks = np.zeros((rows * columns, block, block, 3), dtype=np.uint8)
    blocks[:faces] = _to_uint8(colour_FKK3)
    atlas_HW3 = blocks.reshape(rows, columns, block, block, 3).swapaxes(1, 2).reshape(rows * block, -1, 3)

    origin_F12 = np.stack([np.arange(faces) % columns, np.arange(faces) // columns], axis=-1)[:, None] * block
    corner_32 = np.array([[0.5, 0.5], [core - 0.5, 0.5], [0.5, core - 0.5]])
    xy_F32 = (origin_F12 + corner_32) / [columns * block, rows * block]
    uvs_V2 = np.stack([xy_F32[..., 0], 1.0 - xy_F32[..., 1]], axis=-1).reshape(-1, 2)
    cell = cells.image(atlas_HW3)
    return _Placed(
        part.vertices_V3[part.faces_F3].reshape(-1, 3),
        np.arange(3 * faces).reshape(-1, 3),
        uvs_V2,
        np.full(3 * faces, cell),
    )


def _place(part: SurfacePart, cells: _Cells) -> _Placed:
    """Finds or makes the atlas cells of a part."""
    image_HW3 = None
    if part.image_HW3 is not None:
        if part.uvs_V2 is None:
            raise InputError("a surface has a textured material but no UVs: unwrap it or remove the texture")
        image_HW3 = _multiply(part.image_HW3, part.factor_3)
    colours_V3 = part.colours_V3
    if colours_V3 is not None and image_HW3 is None:
        if not np.allclose(part.factor_3, 1.0, atol=1e-6):
            colours_V3 = linear_to_srgb(srgb_to_linear(colours_V3) * np.clip(part.factor_3, 0.0, 1.0))
        palette_U3, index_V = np.unique(_to_uint8(colours_V3), axis=0, return_inverse=True)
        index_V = index_V.reshape(-1)
        corners_F3 = index_V[part.faces_F3]
        if len(palette_U3) <= PALETTE_LIMIT and (corners_F3 == corners_F3[:, :1]).all():
            cell_U = np.array([cells.flat(colour_3) for colour_3 in palette_U3])
            uvs_V2 = np.full((len(index_V), 2), 0.5)
            return _Placed(part.vertices_V3, part.faces_F3, uvs_V2, cell_U[index_V])
    if colours_V3 is not None and not (image_HW3 is not None and np.all(colours_V3 >= 1.0 - 1e-6)):
        tinted = SurfacePart(
            part.vertices_V3, part.faces_F3, part.uvs_V2, image_HW3, (1.0, 1.0, 1.0), colours_V3
        )
        return _bake_face_blocks(tinted, image_HW3, cells)
    if image_HW3 is None:
        cell = cells.flat(_to_uint8(linear_to_srgb(np.clip(part.factor_3, 0.0, 1.0))))
        uvs_V2 = np.full((len(part.vertices_V3), 2), 0.5)
    else:
        image_HW3, uvs_V2 = _unrepeat(part, image_HW3)
        cell = cells.image(image_HW3)
    return _Placed(part.vertices_V3, part.faces_F3, uvs_V2, np.full(len(part.vertices_V3), cell))


def _round_up(value: int) -> int:
    return -(-value // ALIGN) * ALIGN


def _shelves(sizes_C2: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], int, int]:
    """Packs (width, height) cells on shelves, tallest first. Returns their (left, top) and the atlas size."""
    area = sum(width * height for width, height in sizes_C2)
    widest = max(width for width, _ in sizes_C2)
    total_width = _round_up(max(widest, math.ceil(math.sqrt(area))))
    places = [(0, 0)] * len(sizes_C2)
    left = top = shelf = 0
    for index in sorted(range(len(sizes_C2)), key=lambda i: (-sizes_C2[i][1], -sizes_C2[i][0], i)):
        width, height = sizes_C2[index]
        if left + width > total_width:
            left, top, shelf = 0, top + shelf, 0
        places[index] = (left, top)
        left, shelf = left + width, max(shelf, height)
    return places, total_width, top + shelf


def _pack(cells: _Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws the atlas. Returns it, HW3, and the cells' (left, top) and (width, height), C2 texels."""
    scale = 1.0
    while True:
        images = []
        for image, flat in zip(cells.images, cells.is_flat, strict=True):
            height, width = image.shape[:2]
            if not flat and scale < 1.0:
                image = _resize(image, max(1, int(width * scale)), max(1, int(height * scale)))
            images.append(image)
        borders = [0 if flat else BORDER for flat in cells.is_flat]
        sizes = [
            (_round_up(image.shape[1] + 2 * border), _round_up(image.shape[0] + 2 * border))
            for image, border in zip(images, borders, strict=True)
        ]
        places, width, height = _shelves(sizes)
        if max(width, height) <= ATLAS_LIMIT or scale < 1e-3:
            break
        scale *= 0.8
    atlas_HW3 = np.zeros((height, width, 3), dtype=np.uint8)
    inner_C2, size_C2 = [], []
    for image, border, (left, top), (cell_width, cell_height) in zip(
        images, borders, places, sizes, strict=True
    ):
        tall, wide = image.shape[:2]
        pads = ((border, cell_height - tall - border), (border, cell_width - wide - border), (0, 0))
        atlas_HW3[top : top + cell_height, left : left + cell_width] = np.pad(image, pads, mode="edge")
        inner_C2.append((left + border, top + border))
        size_C2.append((wide, tall))
    return atlas_HW3, np.array(inner_C2, dtype=np.float64), np.array(size_C2, dtype=np.float64)


def merge_parts(parts: list[SurfacePart]) -> TexturedMesh:
    """One mesh with one texture from many. A single textured material keeps its picture and uvs unchanged.

    Raises InputError for a textured part without UVs and for a texture that repeats too often.
    """
    if len(parts) == 1 and parts[0].colours_V3 is None and parts[0].image_HW3 is not None:
        part = parts[0]
        if part.uvs_V2 is not None:
            texture_HW3 = _multiply(part.image_HW3, part.factor_3)
            return _textured(part.vertices_V3, part.faces_F3, part.uvs_V2, texture_HW3)
    cells = _Cells()
    placed = [_place(part, cells) for part in parts]
    atlas_HW3, inner_C2, size_C2 = _pack(cells)
    height, width = atlas_HW3.shape[:2]
    uvs, faces, first = [], [], 0
    for piece in placed:
        origin_V2, extent_V2 = inner_C2[piece.cells_V], size_C2[piece.cells_V]
        x_V = origin_V2[:, 0] + piece.uvs_V2[:, 0] * extent_V2[:, 0]
        y_V = origin_V2[:, 1] + (1.0 - piece.uvs_V2[:, 1]) * extent_V2[:, 1]
        uvs.append(np.stack([x_V / width, 1.0 - y_V / height], axis=-1))
        faces.append(piece.faces_F3 + first)
        first += len(piece.vertices_V3)
    vertices_V3 = np.concatenate([piece.vertices_V3 for piece in placed])
    return _textured(vertices_V3, np.concatenate(faces), np.concatenate(uvs), atlas_HW3)


def _textured(
    vertices_V3: np.ndarray, faces_F3: np.ndarray, uvs_V2: np.ndarray, texture_HW3: np.ndarray
) -> TexturedMesh:
    return TexturedMesh(
        np.ascontiguousarray(vertices_V3, dtype=np.float32),
        np.ascontiguousarray(faces_F3, dtype=np.int32),
        np.ascontiguousarray(uvs_V2, dtype=np.float32),
        np.ascontiguousarray(texture_HW3, dtype=np.uint8),
    )
