"""Reading and writing tetrahedral grids: what fits is kept bit for bit, what does not is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from get3d_model.errors import InputError
from get3d_model.isosurface.grid import bcc_grid
from get3d_model.isosurface.grid_file import read_grid, write_grid
from get3d_model.isosurface.marching_tets import MarchingTetrahedra
from tests.components.published import kuhn_grid


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def volumes(grid) -> torch.Tensor:
    corners = grid.vertices_N3.double()[grid.tets_T4]
    return torch.linalg.det(corners[:, 1:] - corners[:, :1]) / 6


@pytest.mark.parametrize("names", [("vertices", "tets"), ("indices", "verts"), ("a", "b")])
def test_any_names_fill_the_cube_with_outward_tetrahedra(tmp_path: Path, names: tuple[str, str]) -> None:
    vertices, tets = kuhn_grid(4)
    path = write(tmp_path / "grid.npz", **{names[0]: vertices, names[1]: tets})
    found = read_grid(path, 4, 1.0)
    assert torch.equal(found.grid.vertices_N3, torch.from_numpy(vertices))
    assert (volumes(found.grid) > 0).all()
    assert volumes(found.grid).sum().item() == pytest.approx(1.0, abs=1e-9)
    # Three of the six orders of the axes are odd permutations.
    assert found.changes == (f"{len(tets) // 2} of {len(tets)} tetrahedra turned to positive volume",)


def test_a_sphere_on_a_grid_of_either_orientation_faces_outward(tmp_path: Path) -> None:
    vertices, tets = kuhn_grid(24)
    grid = read_grid(write(tmp_path / "grid.npz", vertices=vertices, tets=tets), 24, 1.0).grid
    radius = 0.37
    sdf_BN = radius - grid.vertices_N3.norm(dim=1)[None]
    mesh = MarchingTetrahedra(grid)(sdf_BN, torch.zeros(1, *grid.vertices_N3.shape)).mesh(0)
    corners_F33 = mesh.vertices_V3.astype(np.float64)[mesh.faces_F3]
    # Divergence theorem: the sum is the volume only where every face winds outward.
    volume = np.linalg.det(corners_F33).sum() / 6
    assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)
    normal_F3 = np.cross(corners_F33[:, 1] - corners_F33[:, 0], corners_F33[:, 2] - corners_F33[:, 0])
    assert ((normal_F3 * corners_F33.mean(axis=1)).sum(axis=1) >= 0).all()


def test_usual_names_decide_between_arrays_that_fit(tmp_path: Path) -> None:
    vertices, tets = kuhn_grid(2)
    path = write(tmp_path / "grid.npz", normals=vertices * 2, vertices=vertices, cells=tets[:3], tets=tets)
    assert len(read_grid(path, 2, 1.0).grid.tets_T4) == len(tets)
    path = write(tmp_path / "two.npz", one=vertices, two=vertices, tets=tets)
    with pytest.raises(
        InputError, match=r"several of its arrays could be the vertices \(one \(27, 3\) float32"
    ):
        read_grid(path, 2, 1.0)


def test_a_grid_in_other_units_is_moved_and_scaled(tmp_path: Path) -> None:
    vertices, tets = kuhn_grid(4)
    path = write(tmp_path / "grid.npz", vertices=vertices * 10 + [5, 6, 7], tets=tets.astype(np.int16))
    found = read_grid(path, 4, 0.8)
    assert torch.allclose(found.grid.vertices_N3, torch.from_numpy(vertices) * 0.8, atol=1e-6)
    assert found.changes[0].endswith("to a cube of side 0.8 at 0") and "[0.0, 1.0, 2.0]" in found.changes[0]


def test_our_grid_survives_bit_for_bit(tmp_path: Path) -> None:
    grid = bcc_grid(6, 0.8)
    write_grid(grid, tmp_path / "grid.npz")
    found = read_grid(tmp_path / "grid.npz", 6, 0.8)
    assert found.changes == ()
    assert torch.equal(found.grid.vertices_N3, grid.vertices_N3) and torch.equal(
        found.grid.tets_T4, grid.tets_T4
    )
    assert sorted(found.grid.state_dict()) == ["tets_T4", "vertices_N3"] and not grid.state_dict()
    sdf_BN = 0.3 - grid.vertices_N3.norm(dim=1)[None]
    first, second = (
        MarchingTetrahedra(g)(sdf_BN, torch.zeros(1, *g.vertices_N3.shape)) for g in (grid, found.grid)
    )
    assert torch.equal(first.vertices_V3, second.vertices_V3) and torch.equal(first.faces_F3, second.faces_F3)


def test_what_is_wrong_with_a_file_is_named(tmp_path: Path) -> None:
    vertices, tets = kuhn_grid(2)
    nan = vertices.copy()
    nan[5, 1] = np.nan
    flat = np.concatenate([tets, [[0, 1, 2, 0]]])
    for name, arrays, expected in (
        ("high", {"vertices": vertices, "tets": tets + 1}, "name the vertices 1 to 27; it has 0 to 26"),
        ("low", {"vertices": vertices, "tets": tets - 1}, "name the vertices -1 to 25"),
        ("nan", {"vertices": nan, "tets": tets}, "1 vertices are not finite"),
        ("flat", {"vertices": vertices, "tets": flat}, "1 of its tetrahedra have no volume"),
        ("slab", {"vertices": vertices * [1, 1, 0.5], "tets": tets}, r"its sides are \[1.0, 1.0, 0.5\]"),
        (
            "none",
            {"vertices": vertices},
            r"none of its arrays can be the tets \(vertices \(27, 3\) float32\)",
        ),
        ("empty", {"vertices": vertices, "tets": tets[:0]}, "holds an empty grid"),
        (
            "cubes",
            {"vertices": vertices, "cubes": np.zeros((8, 8), int)},
            "none of its arrays can be the tets",
        ),
        ("nothing", {}, r"none of its arrays can be the vertices \(nothing\)"),
    ):
        with pytest.raises(InputError, match=expected) as caught:
            read_grid(write(tmp_path / f"{name}.npz", **arrays), 2, 1.0)
        assert f"{name}.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_grids(tmp_path: Path) -> None:
    vertices, tets = kuhn_grid(2)
    whole = write(tmp_path / "whole.npz", vertices=vertices, tets=tets).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    write_grid(bcc_grid(4, 1.0), tmp_path / "packed.npz")
    packed = bytearray((tmp_path / "packed.npz").read_bytes())
    packed[len(packed) // 2] ^= 255
    (tmp_path / "packed.npz").write_bytes(packed)
    (tmp_path / "text.npz").write_text("v 0 0 0")
    (tmp_path / "void.npz").write_bytes(b"")
    np.save(tmp_path / "one.npy", vertices)
    write(tmp_path / "objects.npz", vertices=np.array([{}], dtype=object), tets=tets)
    for name in ("cut.npz", "packed.npz", "text.npz", "void.npz", "one.npy", "objects.npz", "missing.npz"):
        with pytest.raises(InputError) as caught:
            read_grid(tmp_path / name, 2, 1.0)
        assert name in str(caught.value) and "\n" not in str(caught.value)
