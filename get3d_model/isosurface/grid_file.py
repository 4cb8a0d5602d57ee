"""Tetrahedral grids in `.npz` files: reading what users have, writing ours.

Shape legend: N vertices, T tetrahedra
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from get3d_model.errors import InputError
from get3d_model.files import atomic_path
from get3d_model.isosurface.grid import TetrahedralGrid, orient_tetrahedra

VERTEX_NAMES = ("vertices", "verts", "tet_verts", "grid_verts", "vertices_N3")
TET_NAMES = ("tets", "indices", "tetrahedra", "tet_indices", "grid_tets", "tets_T4")
# Relative to the longest side: less is rounding of a file that was written in float32.
ROUNDING = 1e-5
# The tri-planes are those of a cube.
MOST_UNEVEN_SIDES = 0.02


@dataclass(frozen=True)
class GridFile:
    """A grid read from a file. changes: what was done to make it fit, one line each."""

    grid: TetrahedralGrid
    changes: tuple[str, ...]


def read_grid(path: Path, resolution: int, side: float) -> GridFile:
    """A grid as a cube of side `side` centred at the origin, its tetrahedra of positive volume.

    The file holds two arrays, (N, 3) numbers and (T, 4) indices, under any name where there are no others like
    them. resolution: what bounds the deformation (see `TetrahedralGrid`). Raises InputError.
    """
    arrays = _read_arrays(Path(path))
    vertices = _choose(
        path,
        arrays,
        "vertices",
        VERTEX_NAMES,
        lambda a: a.ndim == 2 and a.shape[1] == 3 and a.dtype.kind == "f",
    ).astype(np.float64)
    tets = _choose(
        path, arrays, "tets", TET_NAMES, lambda a: a.ndim == 2 and a.shape[1] == 4 and a.dtype.kind in "iu"
    )
    if not len(vertices) or not len(tets):
        raise InputError(f"{path}: holds an empty grid")
    if not np.isfinite(vertices).all():
        raise InputError(f"{path}: {int((~np.isfinite(vertices)).any(axis=1).sum())} vertices are not finite")
    lowest, highest = int(tets.min()), int(tets.max())
    if lowest < 0 or highest >= len(vertices):
        raise InputError(
            f"{path}: its tetrahedra name the vertices {lowest} to {highest}; it has 0 to {len(vertices) - 1}"
        )
    tets = tets.astype(np.int64)
    changes: list[str] = []
    vertices = _fit_cube(Path(path), vertices, side, changes)
    oriented = orient_tetrahedra(vertices, tets)
    volume_T = _volumes(vertices, oriented)
    flat = int((volume_T < 1e-6 * volume_T.mean()).sum())
    if flat:
        raise InputError(f"{path}: {flat} of its tetrahedra have no volume; remove them")
    turned = int((oriented != tets).any(axis=1).sum())
    if turned:
        changes.append(f"{turned} of {len(tets)} tetrahedra turned to positive volume")
    grid = TetrahedralGrid(
        torch.from_numpy(vertices).float(), torch.from_numpy(oriented), resolution, stored=True
    )
    return GridFile(grid, tuple(changes))


def write_grid(grid: TetrahedralGrid, path: Path) -> None:
    """Writes `vertices` (float32, world units) and `tets` (int32) so that `read_grid` gives the same grid."""
    with atomic_path(path) as temporary:
        np.savez_compressed(
            temporary,
            vertices=grid.vertices_N3.cpu().numpy(),
            tets=grid.tets_T4.cpu().numpy().astype(np.int32),
        )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"{path}: no such grid file")
    try:
        # Without pickles: an array of Python objects would execute what it likes.
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise InputError(f"{path}: is one array; give a .npz with vertices and tets")
        with content as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable .npz file of plain arrays ({reason})") from None


def _choose(
    path: Path,
    arrays: dict[str, np.ndarray],
    what: str,
    names: tuple[str, ...],
    fits: Callable[[np.ndarray], bool],
) -> np.ndarray:
    """The array that fits; of several, the one with the first of the usual names."""
    found = {name: array for name, array in arrays.items() if fits(array)}
    named = [name for name in names if name in found]
    if len(found) == 1:
        return next(iter(found.values()))
    if named:
        return found[named[0]]
    listing = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items()) or "nothing"
    problem = (
        f"none of its arrays can be the {what}" if not found else f"several of its arrays could be the {what}"
    )
    raise InputError(
        f"{path}: {problem} ({listing}); give `vertices` (N, 3) floating point and `tets` (T, 4) integers"
    )


def _fit_cube(path: Path, vertices_N3: np.ndarray, side: float, changes: list[str]) -> np.ndarray:
    low, high = vertices_N3.min(axis=0), vertices_N3.max(axis=0)
    sides = high - low
    if sides.min() <= (1 - MOST_UNEVEN_SIDES) * sides.max():
        raise InputError(f"{path}: its sides are {sides.round(4).tolist()}; a grid must fill a cube")
    scale = side / sides.max()
    center = (low + high) / 2
    if abs(scale - 1) <= ROUNDING and np.abs(center).max() <= ROUNDING * sides.max():
        return vertices_N3
    changes.append(
        f"moved and scaled from {low.round(4).tolist()} .. {high.round(4).tolist()} to a cube of side {side:g} at 0"
    )
    return (vertices_N3 - center) * scale


def _volumes(vertices_N3: np.ndarray, tets_T4: np.ndarray) -> np.ndarray:
    origin = vertices_N3[tets_T4[:, 0]]
    a, b, c = (vertices_N3[tets_T4[:, i]] - origin for i in (1, 2, 3))
    return np.einsum("ti,ti->t", a, np.cross(b, c)) / 6.0
