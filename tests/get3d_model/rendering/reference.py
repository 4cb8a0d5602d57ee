"""Slow float64 references and mesh builders for the rendering tests.

Shape legend: V vertices, F faces, H W image size, C channels, P pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pixel_centers(height: int, width: int) -> np.ndarray:
    """NDC of the pixel centres, HW2 (x, y); row 0 at y = -1."""
    x_W = (np.arange(width) + 0.5) / width * 2.0 - 1.0
    y_H = (np.arange(height) + 0.5) / height * 2.0 - 1.0
    return np.stack(np.meshgrid(x_W, y_H), axis=-1)


def clip_to_front(triangle_34: np.ndarray) -> np.ndarray:
    """The polygon (N4) that the near plane z = -w leaves of a clip-space triangle (Sutherland-Hodgman)."""
    polygon = []
    for k in range(3):
        a, b = triangle_34[k], triangle_34[(k + 1) % 3]
        near_a, near_b = a[2] + a[3], b[2] + b[3]
        if near_a >= 0:
            polygon.append(a)
        if (near_a < 0) != (near_b < 0):
            polygon.append(a + near_a / (near_a - near_b) * (b - a))
    return np.array(polygon).reshape(-1, 4)


def rasterize_reference(
    pos_V4: np.ndarray, faces_F3: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every triangle against every pixel: clip, project, divide by areas. No bounding boxes, no edge rules.

    Returns (rast_HW4, doubtful_HW): doubtful where a pixel centre lies within 1e-7 of an edge in NDC, or of
    the near or far plane, or where the two nearest depths differ by less than 1e-6.
    """
    centers_HW2 = pixel_centers(height, width)
    depths_FHW = np.full((len(faces_F3), height, width), np.inf)
    u_FHW = np.zeros_like(depths_FHW)
    v_FHW = np.zeros_like(depths_FHW)
    doubtful_HW = np.zeros((height, width), bool)
    for face, corners in enumerate(faces_F3):
        triangle_34 = pos_V4[corners].astype(np.float64)
        polygon_N4 = clip_to_front(triangle_34)
        if len(polygon_N4) < 3:
            continue
        ndc_N3 = polygon_N4[:, :3] / polygon_N4[:, 3:]
        inside_HW = np.zeros((height, width), bool)
        for k in range(1, len(ndc_N3) - 1):
            a, b, c = (ndc_N3[i, :2] for i in (0, k, k + 1))
            signed = [
                (q[0] - p[0]) * (centers_HW2[..., 1] - p[1]) - (q[1] - p[1]) * (centers_HW2[..., 0] - p[0])
                for p, q in ((a, b), (b, c), (c, a))
            ]
            inside_HW |= np.all([s > 0 for s in signed], axis=0) | np.all([s < 0 for s in signed], axis=0)
            lengths = (np.linalg.norm(b - a), np.linalg.norm(c - b), np.linalg.norm(a - c))
            for s, length in zip(signed, lengths, strict=True):
                doubtful_HW |= np.abs(s) <= 1e-7 * max(length, 1e-12)
        if abs(np.linalg.det(triangle_34[:, [0, 1, 3]])) < 1e-30:
            continue
        # Barycentrics in space: P = sum_i lambda_i v_i in (x, y, w), normalised to sum 1.
        points_P3 = np.concatenate([centers_HW2.reshape(-1, 2), np.ones((height * width, 1))], axis=1)
        lambda_P3 = np.linalg.solve(triangle_34[:, [0, 1, 3]].T, points_P3.T).T
        bary_P3 = lambda_P3 / lambda_P3.sum(1, keepdims=True)
        depth_HW = (lambda_P3 @ triangle_34[:, 2]).reshape(height, width)
        doubtful_HW |= inside_HW & (np.abs(np.abs(depth_HW) - 1.0) < 1e-5)
        kept_HW = inside_HW & (np.abs(depth_HW) <= 1.0)
        depths_FHW[face][kept_HW] = depth_HW[kept_HW]
        u_FHW[face] = bary_P3[:, 0].reshape(height, width)
        v_FHW[face] = bary_P3[:, 1].reshape(height, width)
    nearest_HW = depths_FHW.argmin(0)
    pick = (nearest_HW, *np.indices((height, width)))
    covered_HW = np.isfinite(depths_FHW[pick])
    if len(faces_F3) > 1:
        with np.errstate(invalid="ignore"):
            two = np.partition(depths_FHW, 1, axis=0)[:2]
            doubtful_HW |= covered_HW & (two[1] - two[0] < 1e-6)
    rast_HW4 = np.stack([u_FHW[pick], v_FHW[pick], depths_FHW[pick], nearest_HW + 1.0], axis=-1)
    rast_HW4[~covered_HW] = 0.0
    return rast_HW4, doubtful_HW


def barycentrics_reference(pos_V4: Tensor, faces_F3: Tensor, triangle_id_HW: Tensor) -> Tensor:
    """(u, v) at the covered pixels, P2, differentiable in float64 through a linear solve."""
    height, width = triangle_id_HW.shape
    covered_HW = triangle_id_HW > 0
    points_P2 = torch.from_numpy(pixel_centers(height, width))[covered_HW]
    points_P3 = torch.cat([points_P2, torch.ones(len(points_P2), 1, dtype=torch.float64)], dim=1)
    corners_P34 = pos_V4[faces_F3.long()[triangle_id_HW[covered_HW].long() - 1]]
    lambda_P3 = torch.linalg.solve(corners_P34[:, :, [0, 1, 3]].transpose(1, 2), points_P3)
    return (lambda_P3 / lambda_P3.sum(1, keepdim=True))[:, :2]


def random_triangles(
    rng: np.random.Generator, count: int, size: float = 0.6
) -> tuple[np.ndarray, np.ndarray]:
    """Separate perspective triangles of both orientations, some partly off screen: (pos_V4, faces_F3)."""
    center_F13 = rng.uniform(-1.1, 1.1, (count, 1, 3))
    ndc_F33 = center_F13 + rng.uniform(-size, size, (count, 3, 3))
    ndc_F33[..., 2] *= 0.4
    w_F31 = rng.uniform(0.3, 3.0, (count, 3, 1))
    pos_V4 = np.concatenate([ndc_F33 * w_F31, w_F31], axis=2).reshape(-1, 4).astype(np.float32)
    return pos_V4, np.arange(3 * count, dtype=np.int32).reshape(-1, 3)


def disc(
    segments: int, radius: float, center: tuple[float, float] = (0.0, 0.0)
) -> tuple[np.ndarray, np.ndarray]:
    """A fan in the plane z = 0, w = 1: (pos_V4, faces_F3)."""
    angle = np.arange(segments) * (2 * np.pi / segments) + 0.1
    rim_N2 = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius + center
    xy_V2 = np.concatenate([[center], rim_N2])
    pos_V4 = np.concatenate([xy_V2, np.zeros((segments + 1, 1)), np.ones((segments + 1, 1))], axis=1)
    around = np.arange(segments)
    faces_F3 = np.stack([np.zeros(segments, int), around + 1, (around + 1) % segments + 1], axis=1)
    return pos_V4.astype(np.float32), faces_F3.astype(np.int32)


def one_range(faces_F3: np.ndarray) -> Tensor:
    return torch.tensor([[0, len(faces_F3)]], dtype=torch.int32)
