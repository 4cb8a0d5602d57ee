"""Coverage, depth, barycentrics and their gradient, against float64 brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import Delaunay

from get3d_model.rendering.cpu import CpuRasterizer
from tests.get3d_model.rendering.reference import (
    barycentrics_reference,
    one_range,
    random_triangles,
    rasterize_reference,
)

RASTERIZER = CpuRasterizer(threads=2)


def rasterize(pos_V4: np.ndarray, faces_F3: np.ndarray, height: int, width: int) -> np.ndarray:
    pos, faces = torch.from_numpy(pos_V4), torch.from_numpy(faces_F3)
    return RASTERIZER.rasterize(pos, faces, one_range(faces_F3), (height, width))[0].numpy()


def assert_matches_reference(pos_V4: np.ndarray, faces_F3: np.ndarray, height: int, width: int) -> np.ndarray:
    rast_HW4 = rasterize(pos_V4, faces_F3, height, width)
    expected_HW4, doubtful_HW = rasterize_reference(pos_V4, faces_F3, height, width)
    sure_HW = ~doubtful_HW
    assert sure_HW.mean() > 0.95
    np.testing.assert_array_equal(rast_HW4[sure_HW][:, 3], expected_HW4[sure_HW][:, 3])
    np.testing.assert_allclose(rast_HW4[sure_HW], expected_HW4[sure_HW], atol=2e-6)
    return expected_HW4


@pytest.mark.parametrize("seed", range(6))
def test_random_triangles_match_brute_force(seed: int) -> None:
    pos_V4, faces_F3 = random_triangles(np.random.default_rng(seed), 12)
    expected_HW4 = assert_matches_reference(pos_V4, faces_F3, 37, 52)
    assert (expected_HW4[..., 3] > 0).any()


@pytest.mark.parametrize("seed", range(12))
def test_triangles_through_the_camera_match_clipping(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Camera space around the camera itself, then a projection: w is negative behind it.
    near, far = 0.1, 10.0
    points_V3 = rng.uniform(-1.0, 1.0, (18, 3)) * (1.5, 1.5, 3.0)
    z_V = -(far + near) / (far - near) * points_V3[:, 2] - 2 * far * near / (far - near)
    pos_V4 = np.stack([points_V3[:, 0], -points_V3[:, 1], z_V, -points_V3[:, 2]], axis=1).astype(np.float32)
    faces_F3 = np.arange(18, dtype=np.int32).reshape(-1, 3)
    w_F3 = pos_V4[faces_F3, 3]
    assert ((w_F3.min(1) < 0) & (w_F3.max(1) > 0)).any()
    assert_matches_reference(pos_V4, faces_F3, 32, 32)


def test_a_ground_plane_reaching_behind_the_camera_ends_at_the_horizon() -> None:
    # Height -1 below the camera, from 50 behind to 50 in front; the far plane at 100 is out of reach.
    corners = np.array([[-50, -1, 50], [50, -1, 50], [50, -1, -50], [-50, -1, -50]], float)
    near, far = 0.1, 100.0
    z = -(far + near) / (far - near) * corners[:, 2] - 2 * far * near / (far - near)
    pos_V4 = np.stack([corners[:, 0], -corners[:, 1], z, -corners[:, 2]], axis=1).astype(np.float32)
    rast_HW4 = rasterize(pos_V4, np.array([[0, 1, 2], [0, 2, 3]], np.int32), 64, 64)
    y_H = (np.arange(64) + 0.5) / 32 - 1.0
    below_horizon_H = y_H > 1.0 / 50.0
    np.testing.assert_array_equal(rast_HW4[..., 3] > 0, np.repeat(below_horizon_H[:, None], 64, axis=1))


def test_a_triangle_behind_the_camera_is_not_drawn() -> None:
    pos_V4 = np.array([[-1, -1, 0, -1], [1, -1, 0, -1], [0, 1, 0, -1]], np.float32)
    assert not rasterize(pos_V4, np.array([[0, 1, 2]], np.int32), 16, 16).any()


def count_coverage(points_V2: np.ndarray, faces_F3: np.ndarray, height: int, width: int) -> np.ndarray:
    """How many triangles cover each pixel when each is drawn alone."""
    pos_V4 = np.concatenate([points_V2, np.zeros((len(points_V2), 1)), np.ones((len(points_V2), 1))], axis=1)
    pos = torch.from_numpy(pos_V4.astype(np.float32))
    faces = torch.from_numpy(faces_F3.astype(np.int32))
    alone_F2 = torch.stack([torch.arange(len(faces)), torch.ones(len(faces))], dim=1).int()
    return (RASTERIZER.rasterize(pos, faces, alone_F2, (height, width))[..., 3] > 0).sum(0).numpy()


@pytest.mark.parametrize("flip", [False, True])
def test_vertices_on_pixel_centres_and_edges_through_them_cover_once(flip: bool) -> None:
    # A grid of quads whose vertices lie on pixel centres of a 16 x 16 image, diagonals through centres too.
    ticks = (np.arange(0, 17, 2) + 0.5) / 8 - 1.0
    ticks[0], ticks[-1] = -1.25, 1.25
    points_V2 = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    n = len(ticks)
    quad = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).reshape(-1)
    faces_F3 = np.concatenate(
        [np.stack([quad, quad + 1, quad + n + 1], 1), np.stack([quad, quad + n + 1, quad + n], 1)]
    )
    if flip:
        faces_F3[::3] = faces_F3[::3, [0, 2, 1]]  # orientation must not matter
    np.testing.assert_array_equal(count_coverage(points_V2, faces_F3, 16, 16), 1)


@pytest.mark.parametrize("seed", range(3))
def test_random_triangulations_have_no_cracks_and_no_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    border = [[-1.5, -1.5], [1.5, -1.5], [1.5, 1.5], [-1.5, 1.5]]
    # Half of the points lie exactly on pixel centres.
    on_centres = (rng.integers(0, 40, (60, 2)) + 0.5) / 20 - 1.0
    points_V2 = np.unique(np.concatenate([border, rng.uniform(-1, 1, (60, 2)), on_centres]), axis=0)
    points_V2 = points_V2.astype(np.float32).astype(np.float64)
    faces_F3 = Delaunay(points_V2).simplices
    order = rng.permuted(faces_F3, axis=1)
    np.testing.assert_array_equal(count_coverage(points_V2, order, 40, 40), 1)


def test_top_left_rule() -> None:
    # A square whose four sides run through pixel centres keeps its top and left side only.
    low, high = (2 + 0.5) / 4 - 1.0, (5 + 0.5) / 4 - 1.0
    points_V2 = np.array([[low, low], [high, low], [high, high], [low, high]])
    expected = np.zeros((8, 8), int)
    expected[2:5, 2:5] = 1
    np.testing.assert_array_equal(count_coverage(points_V2, np.array([[0, 1, 2], [0, 2, 3]]), 8, 8), expected)


def test_nearer_triangle_wins_in_either_order_and_the_first_at_equal_depth() -> None:
    def quad(z: float) -> list[list[float]]:
        return [[-1.0, -1.0, z, 1.0], [3.0, -1.0, z, 1.0], [-1.0, 3.0, z, 1.0]]

    faces_F3 = np.arange(9, dtype=np.int32).reshape(3, 3)
    for depths, winner in (((0.5, -0.2, 0.1), 2), ((-0.2, 0.5, 0.1), 1), ((0.5, 0.3, 0.3), 2)):
        pos_V4 = np.array([corner for z in depths for corner in quad(z)], np.float32)
        rast_HW4 = rasterize(pos_V4, faces_F3, 8, 8)
        np.testing.assert_array_equal(rast_HW4[..., 3], winner)
        np.testing.assert_allclose(rast_HW4[..., 2], min(depths), atol=1e-6)


def test_not_a_number_and_infinite_vertices_draw_nothing() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        for column in range(4):
            pos_V4 = np.array([[-1, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]], np.float32)
            pos_V4[1, column] = bad
            assert np.isfinite(rasterize(pos_V4, np.array([[0, 1, 2]], np.int32), 8, 8)).all()


def test_gradient_of_barycentrics_matches_float64_autograd() -> None:
    rng = np.random.default_rng(3)
    pos_V4, faces_F3 = random_triangles(rng, 8)
    pos = torch.from_numpy(pos_V4).requires_grad_()
    faces = torch.from_numpy(faces_F3)
    rast_HW4 = RASTERIZER.rasterize(pos, faces, one_range(faces_F3), (40, 40))[0]
    covered_HW = rast_HW4[..., 3] > 0
    weight_P2 = torch.from_numpy(rng.normal(size=(int(covered_HW.sum()), 2)))
    (rast_HW4[covered_HW][:, :2] * weight_P2).sum().backward()

    pos64 = torch.from_numpy(pos_V4.astype(np.float64)).requires_grad_()
    (barycentrics_reference(pos64, faces, rast_HW4[..., 3].detach()) * weight_P2).sum().backward()
    assert pos64.grad.abs().max() > 1.0
    torch.testing.assert_close(pos.grad.double(), pos64.grad, rtol=1e-4, atol=1e-3)
    assert (pos.grad[:, 2] == 0).all()


def test_ranges_equal_separate_calls_also_when_they_overlap() -> None:
    pos_V4, faces_F3 = random_triangles(np.random.default_rng(5), 20)
    pos, faces = torch.from_numpy(pos_V4), torch.from_numpy(faces_F3)
    ranges_B2 = torch.tensor([[0, 8], [8, 12], [4, 9], [20, 0], [0, 20]], dtype=torch.int32)
    together = RASTERIZER.rasterize(pos, faces, ranges_B2, (24, 31))
    for image, single_2 in enumerate(ranges_B2):
        alone = RASTERIZER.rasterize(pos, faces, single_2[None], (24, 31))
        torch.testing.assert_close(together[image], alone[0], rtol=0, atol=0)
    assert not together[3].any() and together[4].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faces": torch.tensor([[0, 1, 3]], dtype=torch.int32)}, "refers to vertices 0 to 3"),
        ({"faces": torch.tensor([[0, 1, 2]])}, "faces_F3 must be a torch.int32"),
        ({"pos": torch.zeros(3, 4, dtype=torch.float64)}, "pos_V4 must be a torch.float32"),
        ({"ranges": torch.tensor([[0, 2]], dtype=torch.int32)}, "outside of the 1 faces"),
        ({"resolution": (0, 4)}, "resolution must be positive"),
    ],
)
def test_wrong_input_is_refused_before_it_reaches_memory(change: dict, message: str) -> None:
    call = {
        "pos": torch.zeros(3, 4),
        "faces": torch.tensor([[0, 1, 2]], dtype=torch.int32),
        "ranges": torch.tensor([[0, 1]], dtype=torch.int32),
        "resolution": (4, 4),
    } | change
    with pytest.raises(ValueError, match=message):
        RASTERIZER.rasterize(call["pos"], call["faces"], call["ranges"], call["resolution"])
