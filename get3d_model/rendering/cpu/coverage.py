"""Kernels: which triangle covers each pixel centre, its barycentrics, and their gradient.

Homogeneous rasterisation (Olano and Greer 1997, "Triangle Scan Conversion using 2D Homogeneous
Coordinates"): with vertices v_i = (x, y, w) in clip space and the pixel centre P = (x, y, 1), the edge
functions e_0 = det(P, v_1, v_2) and its cyclic mates give P = sum_i (e_i / det) v_i. Then

    covered            all e_i / det >= 0   (true only in front of the camera, so nothing is ever clipped)
    barycentrics       e_i / (e_0 + e_1 + e_2)          perspective correct
    depth z/w          sum_i (e_i / det) z_i

All in float64 from float32 input. The coefficients of a shared edge are exact negatives of each other in its
two triangles (products commute, subtraction is antisymmetric, nothing is fused), so together with the
top-left rule for e_i = 0 every pixel on a shared edge is covered exactly once.

Roofline, 20 000 triangles in 512 x 512: vertices and faces 20 000 * (3 * 16 + 12) bytes = 1.2 MB read, rast
4.2 MB written: about 0.5 ms of memory traffic at 10 GB/s. The arithmetic is larger: about 50 ns to set a
triangle up (1 ms) and 3 ns to test a pixel of a bounding box (about 2 * 2 * 150 000 tests: 2 ms).
Figures of a machine: tests/benchmarks/rasterizer.py.

Shape legend: B images, V packed vertices, F packed faces, H W image size, U units (row bands) of work.
"""

from __future__ import annotations

import numpy as np

from get3d_model.jit import kernel

# In pixels, against float64 rounding of the projected bounds (about 1e-12 at 8192 pixels).
BOUNDS_MARGIN = 1e-7
# Fragments are kept for -1 <= z/w <= 1, with room for float32 rounding of vertices placed on a plane.
DEPTH_LIMIT = 1.0 + 1e-6
MIN_W = 1e-12
# The backward pass adds this to |e_0 + e_1 + e_2|, which bounds the gradient of triangles seen edge-on. nvdiffrast
# does so too; the size was fitted to its gradients (tests/get3d_model/rendering/test_nvdiffrast_agreement.py).
GRADIENT_AREA = 1e-6


@kernel
def _project_bounds(x, y, w, bounds):
    """Widens bounds = (x_min, x_max, y_min, y_max) in NDC by a point in front of the camera."""
    px = x / w
    py = y / w
    return (min(bounds[0], px), max(bounds[1], px), min(bounds[2], py), max(bounds[3], py))


@kernel
def _clipped_bounds(pos_V4, i0, i1, i2):
    """NDC bounds of the part of a triangle in front of the near plane z = -w; empty when x_min > x_max."""
    bounds = (np.inf, -np.inf, np.inf, -np.inf)
    index = (i0, i1, i2)
    for k in range(3):
        i = index[k]
        j = index[(k + 1) % 3]
        xi, yi, zi, wi = pos_V4[i]
        xj, yj, zj, wj = pos_V4[j]
        near_i = np.float64(zi) + wi
        near_j = np.float64(zj) + wj
        if near_i >= 0.0:
            if wi <= MIN_W:
                return (-1.0, 1.0, -1.0, 1.0)
            bounds = _project_bounds(np.float64(xi), np.float64(yi), np.float64(wi), bounds)
        if (near_i < 0.0) != (near_j < 0.0):
            t = near_i / (near_i - near_j)
            w = wi + t * (wj - wi)
            # Only with a projection that is not a perspective: no bound, the whole image is tested.
            if w <= MIN_W:
                return (-1.0, 1.0, -1.0, 1.0)
            bounds = _project_bounds(xi + t * (xj - xi), yi + t * (yj - yi), w, bounds)
    return bounds


@kernel
def _first_center(low, size):
    """Index of the first pixel centre at or after NDC `low`, not below 0."""
    position = (low * 0.5 + 0.5) * size - 0.5 - BOUNDS_MARGIN
    return int(np.ceil(min(max(position, 0.0), size)))


@kernel
def _last_center(high, size):
    """Index of the last pixel centre at or before NDC `high`, not above size - 1."""
    position = (high * 0.5 + 0.5) * size - 0.5 + BOUNDS_MARGIN
    return int(np.floor(max(min(position, size - 1.0), -1.0)))


@kernel
def _owns_edge(a, b):
    """Top-left rule for the inward normal (a, b), rows downwards: left edges and horizontal top edges."""
    return a > 0.0 or (a == 0.0 and b > 0.0)


@kernel
def rasterize_kernel(
    first_unit, end_unit, pos_V4, faces_F3, ranges_B2, centers_x_W, centers_y_H, bands, rast_BHW4
):
    """Fills bands [first_unit, end_unit) of rast_BHW4 (zeros on entry); unit = image * bands + band."""
    height = rast_BHW4.shape[1]
    width = rast_BHW4.shape[2]
    for unit in range(first_unit, end_unit):
        image = unit // bands
        band = unit % bands
        row_first = height * band // bands
        row_last = height * (band + 1) // bands - 1
        rast_HW4 = rast_BHW4[image]
        first_face = ranges_B2[image, 0]
        for face in range(first_face, first_face + ranges_B2[image, 1]):
            i0 = faces_F3[face, 0]
            i1 = faces_F3[face, 1]
            i2 = faces_F3[face, 2]
            x0, y0, w0 = np.float64(pos_V4[i0, 0]), np.float64(pos_V4[i0, 1]), np.float64(pos_V4[i0, 3])
            x1, y1, w1 = np.float64(pos_V4[i1, 0]), np.float64(pos_V4[i1, 1]), np.float64(pos_V4[i1, 3])
            x2, y2, w2 = np.float64(pos_V4[i2, 0]), np.float64(pos_V4[i2, 1]), np.float64(pos_V4[i2, 3])
            if w0 > MIN_W and w1 > MIN_W and w2 > MIN_W:
                py0, py1, py2 = y0 / w0, y1 / w1, y2 / w2
                row0 = max(_first_center(min(py0, py1, py2), height), row_first)
                row1 = min(_last_center(max(py0, py1, py2), height), row_last)
                if row0 > row1:
                    continue
                px0, px1, px2 = x0 / w0, x1 / w1, x2 / w2
                column0 = _first_center(min(px0, px1, px2), width)
                column1 = _last_center(max(px0, px1, px2), width)
            else:
                bounds = _clipped_bounds(pos_V4, i0, i1, i2)
                if not bounds[0] <= bounds[1]:
                    continue
                column0 = _first_center(bounds[0], width)
                column1 = _last_center(bounds[1], width)
                row0 = max(_first_center(bounds[2], height), row_first)
                row1 = min(_last_center(bounds[3], height), row_last)
            if column0 > column1 or row0 > row1:
                continue

            a0, b0, c0 = y1 * w2 - y2 * w1, w1 * x2 - w2 * x1, x1 * y2 - x2 * y1
            det = x0 * a0 + y0 * b0 + w0 * c0
            if not abs(det) > 0.0:  # degenerate, or NaN in the vertices
                continue
            a1, b1, c1 = y2 * w0 - y0 * w2, w2 * x0 - w0 * x2, x2 * y0 - x0 * y2
            a2, b2, c2 = y0 * w1 - y1 * w0, w0 * x1 - w1 * x0, x0 * y1 - x1 * y0
            if det < 0.0:
                det = -det
                a0, b0, c0 = -a0, -b0, -c0
                a1, b1, c1 = -a1, -b1, -c1
                a2, b2, c2 = -a2, -b2, -c2
            inverse_det = 1.0 / det
            z0, z1, z2 = np.float64(pos_V4[i0, 2]), np.float64(pos_V4[i1, 2]), np.float64(pos_V4[i2, 2])
            triangle_id = np.float32(face + 1)
            for row in range(row0, row1 + 1):
                center_y = centers_y_H[row]
                r0 = b0 * center_y + c0
                r1 = b1 * center_y + c1
                r2 = b2 * center_y + c2
                for column in range(column0, column1 + 1):
                    center_x = centers_x_W[column]
                    e0 = a0 * center_x + r0
                    e1 = a1 * center_x + r1
                    e2 = a2 * center_x + r2
                    if not (e0 >= 0.0 and e1 >= 0.0 and e2 >= 0.0):
                        continue
                    if (
                        (e0 == 0.0 and not _owns_edge(a0, b0))
                        or (e1 == 0.0 and not _owns_edge(a1, b1))
                        or (e2 == 0.0 and not _owns_edge(a2, b2))
                    ):
                        continue
                    depth = (e0 * z0 + e1 * z1 + e2 * z2) * inverse_det
                    if not abs(depth) <= DEPTH_LIMIT:
                        continue
                    # The first of two triangles at equal depth stays, as with GL_LESS.
                    if rast_HW4[row, column, 3] > 0.0 and not np.float32(depth) < rast_HW4[row, column, 2]:
                        continue
                    inverse_sum = 1.0 / (e0 + e1 + e2)
                    rast_HW4[row, column, 0] = e0 * inverse_sum
                    rast_HW4[row, column, 1] = e1 * inverse_sum
                    rast_HW4[row, column, 2] = depth
                    rast_HW4[row, column, 3] = triangle_id


@kernel
def rasterize_backward_kernel(
    first_unit,
    end_unit,
    pos_V4,
    faces_F3,
    rast_BHW4,
    grad_rast_BHW4,
    centers_x_W,
    centers_y_H,
    bands,
    spans_U2,
    offsets_U,
    sums_S3,
):
    """Adds d loss / d (x, y, w) of each unit's vertices into its slice of sums_S3 (see scatter.py)."""
    height = rast_BHW4.shape[1]
    width = rast_BHW4.shape[2]
    for unit in range(first_unit, end_unit):
        image = unit // bands
        band = unit % bands
        shift = offsets_U[unit] - spans_U2[unit, 0]
        for row in range(height * band // bands, height * (band + 1) // bands):
            y = centers_y_H[row]
            for column in range(width):
                face = int(rast_BHW4[image, row, column, 3]) - 1
                grad_u = np.float64(grad_rast_BHW4[image, row, column, 0])
                grad_v = np.float64(grad_rast_BHW4[image, row, column, 1])
                if face < 0 or (grad_u == 0.0 and grad_v == 0.0):
                    continue
                x = centers_x_W[column]
                i0 = faces_F3[face, 0]
                i1 = faces_F3[face, 1]
                i2 = faces_F3[face, 2]
                x0, y0, w0 = np.float64(pos_V4[i0, 0]), np.float64(pos_V4[i0, 1]), np.float64(pos_V4[i0, 3])
                x1, y1, w1 = np.float64(pos_V4[i1, 0]), np.float64(pos_V4[i1, 1]), np.float64(pos_V4[i1, 3])
                x2, y2, w2 = np.float64(pos_V4[i2, 0]), np.float64(pos_V4[i2, 1]), np.float64(pos_V4[i2, 3])
                e0 = x * (y1 * w2 - y2 * w1) + y * (w1 * x2 - w2 * x1) + (x1 * y2 - x2 * y1)
                e1 = x * (y2 * w0 - y0 * w2) + y * (w2 * x0 - w0 * x2) + (x2 * y0 - x0 * y2)
                e2 = x * (y0 * w1 - y1 * w0) + y * (w0 * x1 - w1 * x0) + (x0 * y1 - x1 * y0)
                sum_e = e0 + e1 + e2
                inverse_sum = 1.0 / (sum_e + (GRADIENT_AREA if sum_e > 0.0 else -GRADIENT_AREA))
                # u = e_0 / sum, v = e_1 / sum
                common = (grad_u * e0 + grad_v * e1) * inverse_sum
                g0 = (grad_u - common) * inverse_sum
                g1 = (grad_v - common) * inverse_sum
                g2 = -common * inverse_sum
                # d det(P, A, B) = dA . (B x P) + dB . (P x A), collected for each vertex as m x P
                for k in range(3):
                    if k == 0:
                        index, mx, my, mw = i0, g2 * x1 - g1 * x2, g2 * y1 - g1 * y2, g2 * w1 - g1 * w2
                    elif k == 1:
                        index, mx, my, mw = i1, g0 * x2 - g2 * x0, g0 * y2 - g2 * y0, g0 * w2 - g2 * w0
                    else:
                        index, mx, my, mw = i2, g1 * x0 - g0 * x1, g1 * y0 - g0 * y1, g1 * w0 - g0 * w1
                    sums_S3[shift + index, 0] += my - mw * y
                    sums_S3[shift + index, 1] += mw * x - mx
                    sums_S3[shift + index, 2] += mx * y - my * x
