"""The BCC grid: it fills the cube, is conforming, and consistently oriented."""

import pytest
import torch

from get3d_model.errors import InputError
from get3d_model.isosurface.grid import TET_EDGES, bcc_grid, triangle_table


def volumes(grid):
    corners = grid.vertices_N3.double()[grid.tets_T4]
    return torch.linalg.det(corners[:, 1:] - corners[:, :1]) / 6


@pytest.mark.parametrize("resolution", [2, 4, 10])
def test_grid_fills_its_cube_with_positive_tetrahedra(resolution):
    grid = bcc_grid(resolution, 0.8)
    cells = resolution // 2
    assert len(grid.vertices_N3) == (cells + 1) ** 3 + cells**3
    assert len(grid.tets_T4) == 12 * cells**3
    assert volumes(grid).min() > 0
    assert float(volumes(grid).sum()) == pytest.approx(0.8**3, rel=1e-6)
    assert float(grid.vertices_N3.abs().max()) == pytest.approx(0.4)


def test_every_inner_face_is_shared_by_two_and_boundary_faces_are_on_the_cube():
    grid = bcc_grid(6, 1.0)
    faces = torch.cat([grid.tets_T4[:, list(f)] for f in ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3))])
    unique, counts = torch.unique(faces.sort(dim=1).values, dim=0, return_counts=True)
    assert set(counts.tolist()) == {1, 2}
    outer = grid.vertices_N3[unique[counts == 1]]
    assert ((outer.abs() - 0.5).abs() < 1e-6).all(dim=1).any(dim=1).all()
    assert len(outer) == 6 * 9 * 2


def test_tables_point_back_at_the_vertices():
    grid = bcc_grid(4, 1.0)
    for column, (i, j) in enumerate(TET_EDGES):
        edge = grid.edges_E2[grid.tet_edges_T6[:, column]]
        assert torch.equal(edge, grid.tets_T4[:, [i, j]].sort(dim=1).values)
    assert float(grid.vertices_N3[grid.center_index].norm()) == 0
    assert torch.equal(grid.boundary_N, (grid.vertices_N3.abs() == 0.5).any(dim=1))


def test_lattices_list_the_vertices_in_order():
    grid = bcc_grid(4, 1.0)
    rebuilt = torch.cat([torch.cartesian_prod(*xyz) for xyz in grid.lattices])
    assert torch.allclose(rebuilt.float(), grid.vertices_N3)


def test_triangle_table_covers_all_cases():
    count, table = triangle_table()
    crossings = [sum((code >> i & 1) != (code >> j & 1) for i, j in TET_EDGES) for code in range(16)]
    assert count.tolist() == [max(0, c - 2) for c in crossings]
    for code in range(16):
        used = set(table[code, : count[code]].ravel().tolist())
        assert used == {e for e, (i, j) in enumerate(TET_EDGES) if (code >> i & 1) != (code >> j & 1)}


def test_odd_resolution_is_refused():
    with pytest.raises(InputError, match=r"even number.*5"):
        bcc_grid(5, 1.0)
