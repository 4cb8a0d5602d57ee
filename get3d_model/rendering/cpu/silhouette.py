"""Kernels: analytic antialiasing of silhouettes, and the gradient.

Source: Laine et al. 2020, "Modular Primitives for High-Performance Differentiable Rendering", section on
antialiasing. For two neighbouring pixels p (left or upper) and q with different triangles, the silhouette
edge of the nearer one crosses the segment between their centres at p + s (q - p). With alpha = s - 1/2 the
edge lies alpha beyond the border of the two pixels, so

    alpha > 0:  q takes alpha of p's colour         alpha < 0:  p takes -alpha of q's colour

which for an edge along the pixel border is exact box-filter coverage. Edges steeper than 45 degrees are
handled by horizontal pairs, the others by vertical pairs; using both would count a moving edge twice.

Three rules are nvdiffrast's, as tests/get3d_model/rendering/test_nvdiffrast_agreement.py measures them. Its
rast buffer is drawn with vertices rounded to 1/16 pixel, so an edge may lie a little beyond either centre: alpha
is then clamped to 1/2, and does not move with the edge. A triangle with a vertex behind the camera has no
silhouette. The gradient is damped where an edge is not much longer than GRADIENT_PX.

The paper looks at the edges of the nearer triangle only, and so misses silhouettes when triangles are smaller
than pixels, which is the rule at 64 x 64. Here the search goes on from triangle to triangle across edges that
are no silhouettes, up to `steps` of them; steps = 0 is the paper's.

Shape legend: B images, V packed vertices, F packed faces, E = 3 F half-edges, H W image size, C channels,
    2 the pair with the right (0) and the lower (1) neighbour, U S see scatter.py.
"""

from __future__ import annotations

import numpy as np

from get3d_model.jit import kernel

# How far, in pixels, the visible triangle's edge may lie beyond the other pixel's centre. Rounding to 1/16 pixel
# moves a vertex by up to 1/32 in x and in y, hence an edge within 45 degrees by up to 1/16 along the pair.
SNAPPING_PX = 1.0 / 16.0
# The gradient takes an edge for longer by this, in pixels along the axis across the pair, which bounds it for short
# edges. Fitted to nvdiffrast's gradients.
GRADIENT_PX = 1e-3


@kernel
def _behind_camera(pos_V4, faces_F3, face):
    return (
        pos_V4[faces_F3[face, 0], 3] <= 0.0
        or pos_V4[faces_F3[face, 1], 3] <= 0.0
        or pos_V4[faces_F3[face, 2], 3] <= 0.0
    )


@kernel
def _edge_line(pos_V4, i, j):
    """(a, b, c) with det(P, v_i, v_j) = a x + b y + c w for P = (x, y, w)."""
    xi, yi, wi = np.float64(pos_V4[i, 0]), np.float64(pos_V4[i, 1]), np.float64(pos_V4[i, 3])
    xj, yj, wj = np.float64(pos_V4[j, 0]), np.float64(pos_V4[j, 1]), np.float64(pos_V4[j, 3])
    return yi * wj - yj * wi, wi * xj - wj * xi, xi * yj - xj * yi


@kernel
def _side(line, pos_V4, i):
    """On which side of a line the triangle with third vertex i lies where it touches the line (signed).

    Homogeneous, so that it also holds for a vertex behind the camera.
    """
    return line[0] * pos_V4[i, 0] + line[1] * pos_V4[i, 1] + line[2] * pos_V4[i, 3]


@kernel
def _across(pos_V4, faces_F3, ring_E, edge, line, side):
    """The half-edge by which the surface goes on beyond `edge`, or -1 at a silhouette.

    `line` is the edge's and `side` the side of its own triangle. A triangle that is exactly edge-on (the rim
    of a symmetric mesh, a collapsed triangle) decides nothing: the triangles behind it do.
    """
    other = ring_E[edge]
    while other != edge:
        face = other // 3
        other_side = _side(line, pos_V4, faces_F3[face, (other % 3 + 2) % 3])
        if other_side * side < 0.0:
            return other
        if other_side == 0.0:
            for corner in range(3):
                first = 3 * face + corner
                beyond = ring_E[first]
                while beyond != first and first != other:
                    if _side(line, pos_V4, faces_F3[beyond // 3, (beyond % 3 + 2) % 3]) * side < 0.0:
                        return beyond
                    beyond = ring_E[beyond]
        other = ring_E[other]
    return -1


@kernel
def _find_silhouette(pos_V4, faces_F3, ring_E, face, x, y, x_end, y_end, steps):
    """Half-edge of the first silhouette met on the way from (x, y) inside `face` to (x_end, y_end), or -1.

    Returns (half_edge, t), the edge crossing the way at t in [0, 1], clamped where it is SNAPPING_PX beyond.
    """
    entry = -1
    t_end = 1.0 + SNAPPING_PX
    for _ in range(steps + 1):
        if _behind_camera(pos_V4, faces_F3, face):
            return -1, 0.0
        exit_edge = -1
        exit_t = 2.0
        exit_line = (0.0, 0.0, 0.0)
        exit_side = 0.0
        for corner in range(3):
            half_edge = 3 * face + corner
            if half_edge == entry:
                continue
            line = _edge_line(pos_V4, faces_F3[face, corner], faces_F3[face, (corner + 1) % 3])
            side = _side(line, pos_V4, faces_F3[face, (corner + 2) % 3])
            start = line[0] * x + line[1] * y + line[2]
            end = line[0] * x_end + line[1] * y_end + line[2]
            if side < 0.0:
                start = -start
                end = -end
            if side != 0.0 and start > end and start < t_end * (start - end):
                t = start / (start - end)
                if t < exit_t:
                    exit_t = t
                    exit_edge = half_edge
                    exit_line = line
                    exit_side = side
        if exit_edge < 0:  # the end lies in this triangle
            return -1, 0.0
        entry = _across(pos_V4, faces_F3, ring_E, exit_edge, exit_line, exit_side)
        if entry < 0:
            return exit_edge, min(max(exit_t, 0.0), 1.0)
        face = entry // 3
        t_end = 1.0  # rounding explains only why the triangle drawn at one pixel is missing at the other
    return -1, 0.0


@kernel
def find_pairs_kernel(
    first_row,
    end_row,
    pos_V4,
    faces_F3,
    ring_E,
    rast_BHW4,
    centers_x_W,
    centers_y_H,
    steps,
    edge_BHW2,
    alpha_BHW2,
):
    """Fills rows [first_row, end_row) of B * H: the silhouette half-edge (or -1) and alpha of both pairs."""
    _, height, width, _ = rast_BHW4.shape
    for image_row in range(first_row, end_row):
        image = image_row // height
        row = image_row % height
        for column in range(width):
            face_p = int(rast_BHW4[image, row, column, 3]) - 1
            for direction in range(2):
                edge_BHW2[image, row, column, direction] = -1
                alpha_BHW2[image, row, column, direction] = 0.0
                row_q = row + direction
                column_q = column + 1 - direction
                if row_q >= height or column_q >= width:
                    continue
                face_q = int(rast_BHW4[image, row_q, column_q, 3]) - 1
                if face_p == face_q:
                    continue
                if face_p < 0:
                    from_p = False
                elif face_q < 0:
                    from_p = True
                else:
                    from_p = rast_BHW4[image, row, column, 2] <= rast_BHW4[image, row_q, column_q, 2]
                xp, yp = centers_x_W[column], centers_y_H[row]
                xq, yq = centers_x_W[column_q], centers_y_H[row_q]
                if from_p:
                    half_edge, s = _find_silhouette(pos_V4, faces_F3, ring_E, face_p, xp, yp, xq, yq, steps)
                else:
                    half_edge, t = _find_silhouette(pos_V4, faces_F3, ring_E, face_q, xq, yq, xp, yp, steps)
                    s = 1.0 - t
                if half_edge < 0:
                    continue
                face = half_edge // 3
                corner = half_edge % 3
                line = _edge_line(pos_V4, faces_F3[face, corner], faces_F3[face, (corner + 1) % 3])
                # The edge's normal in pixels; steep edges belong to the horizontal pairs.
                steep = abs(line[0]) * height >= abs(line[1]) * width
                if steep == (direction == 0):
                    edge_BHW2[image, row, column, direction] = half_edge
                    alpha_BHW2[image, row, column, direction] = s - 0.5


@kernel
def _pair_weights(alpha_HW2, row, column, direction, height, width):
    """The four neighbours of a pixel in order right, left, lower, upper: (row, column, alpha seen from here).

    alpha > 0: this pixel gives alpha of its colour to the neighbour; alpha < 0: it takes -alpha from it.
    """
    if direction == 0:
        return row, column + 1, (alpha_HW2[row, column, 0] if column + 1 < width else np.float32(0.0))
    if direction == 1:
        return row, column - 1, (-alpha_HW2[row, column - 1, 0] if column > 0 else np.float32(0.0))
    if direction == 2:
        return row + 1, column, (alpha_HW2[row, column, 1] if row + 1 < height else np.float32(0.0))
    return row - 1, column, (-alpha_HW2[row - 1, column, 1] if row > 0 else np.float32(0.0))


@kernel
def blend_kernel(first_row, end_row, color_BHWC, alpha_BHW2, out_BHWC):
    """Rows [first_row, end_row) of B * H of the blended image."""
    _, height, width, channels = color_BHWC.shape
    for image_row in range(first_row, end_row):
        image = image_row // height
        row = image_row % height
        alpha_HW2 = alpha_BHW2[image]
        for column in range(width):
            for channel in range(channels):
                out_BHWC[image, row, column, channel] = color_BHWC[image, row, column, channel]
            for direction in range(4):
                r, c, alpha = _pair_weights(alpha_HW2, row, column, direction, height, width)
                if alpha < 0.0:
                    for channel in range(channels):
                        out_BHWC[image, row, column, channel] -= alpha * (
                            color_BHWC[image, r, c, channel] - color_BHWC[image, row, column, channel]
                        )


@kernel
def blend_backward_kernel(first_row, end_row, grad_out_BHWC, alpha_BHW2, grad_color_BHWC):
    """Rows [first_row, end_row) of B * H of d loss / d color."""
    _, height, width, channels = grad_out_BHWC.shape
    for image_row in range(first_row, end_row):
        image = image_row // height
        row = image_row % height
        alpha_HW2 = alpha_BHW2[image]
        for column in range(width):
            for channel in range(channels):
                grad_color_BHWC[image, row, column, channel] = grad_out_BHWC[image, row, column, channel]
            for direction in range(4):
                r, c, alpha = _pair_weights(alpha_HW2, row, column, direction, height, width)
                if alpha < 0.0:
                    for channel in range(channels):
                        grad_color_BHWC[image, row, column, channel] += (
                            alpha * grad_out_BHWC[image, row, column, channel]
                        )
                elif alpha > 0.0:
                    for channel in range(channels):
                        grad_color_BHWC[image, row, column, channel] += (
                            alpha * grad_out_BHWC[image, r, c, channel]
                        )


@kernel
def edge_span_kernel(first_unit, end_unit, edge_BHW2, faces_F3, bands, spans_U2):
    """The range of vertices of the silhouette edges in each unit."""
    _, height, width, _ = edge_BHW2.shape
    for unit in range(first_unit, end_unit):
        image = unit // bands
        band = unit % bands
        low = np.int64(2**62)
        high = np.int64(-1)
        for row in range(height * band // bands, height * (band + 1) // bands):
            for column in range(width):
                for direction in range(2):
                    half_edge = edge_BHW2[image, row, column, direction]
                    if half_edge < 0:
                        continue
                    for corner in range(half_edge % 3, half_edge % 3 + 2):
                        vertex = np.int64(faces_F3[half_edge // 3, corner % 3])
                        low = min(low, vertex)
                        high = max(high, vertex)
        if high >= 0:
            spans_U2[unit, 0] = low
            spans_U2[unit, 1] = high + 1


@kernel
def edge_backward_kernel(
    first_unit,
    end_unit,
    pos_V4,
    faces_F3,
    color_BHWC,
    edge_BHW2,
    alpha_BHW2,
    grad_out_BHWC,
    centers_x_W,
    centers_y_H,
    bands,
    spans_U2,
    offsets_U,
    sums_S3,
):
    """Adds d loss / d (x, y, w) of the silhouette edges' vertices into each unit's slice (see scatter.py).

    The crossing X = P + s (Q - P) satisfies det(X, A, B) = 0, hence
    ds = -(dA . (B x X) + dB . (X x A)) / (det(Q, A, B) - det(P, A, B)).

    For an edge of length l across the pair, that is the quotient rule with the denominator l. nvdiffrast puts
    l + GRADIENT_PX there: with r = l / (l + GRADIENT_PX), ds is r times the above, at the place X whose distance
    from the visible triangle's pixel is r times the true one.
    """
    _, height, width, channels = color_BHWC.shape
    for unit in range(first_unit, end_unit):
        image = unit // bands
        band = unit % bands
        shift = offsets_U[unit] - spans_U2[unit, 0]
        for row in range(height * band // bands, height * (band + 1) // bands):
            for column in range(width):
                for direction in range(2):
                    half_edge = edge_BHW2[image, row, column, direction]
                    if half_edge < 0:
                        continue
                    alpha = np.float64(alpha_BHW2[image, row, column, direction])
                    if abs(alpha) >= 0.5:  # clamped
                        continue
                    row_q = row + direction
                    column_q = column + 1 - direction
                    # Both branches of the blend have d loss / d s = grad(target) . (color_p - color_q).
                    row_target = row_q if alpha > 0.0 else row
                    column_target = column_q if alpha > 0.0 else column
                    grad_s = 0.0
                    for channel in range(channels):
                        grad_s += grad_out_BHWC[image, row_target, column_target, channel] * np.float64(
                            color_BHWC[image, row, column, channel]
                            - color_BHWC[image, row_q, column_q, channel]
                        )
                    if grad_s == 0.0:
                        continue
                    i = faces_F3[half_edge // 3, half_edge % 3]
                    j = faces_F3[half_edge // 3, (half_edge % 3 + 1) % 3]
                    line = _edge_line(pos_V4, i, j)
                    step_x = centers_x_W[column_q] - centers_x_W[column]
                    step_y = centers_y_H[row_q] - centers_y_H[row]
                    xi, yi, wi = np.float64(pos_V4[i, 0]), np.float64(pos_V4[i, 1]), np.float64(pos_V4[i, 3])
                    xj, yj, wj = np.float64(pos_V4[j, 0]), np.float64(pos_V4[j, 1]), np.float64(pos_V4[j, 3])
                    length = abs(line[direction]) * (width if direction else height) / (2.0 * wi * wj)
                    damping = length / (length + GRADIENT_PX)
                    scale = -grad_s * damping / (line[0] * step_x + line[1] * step_y)
                    third = faces_F3[half_edge // 3, (half_edge % 3 + 2) % 3]
                    at_p = line[0] * centers_x_W[column] + line[1] * centers_y_H[row] + line[2]
                    from_p = at_p * _side(line, pos_V4, third) > 0.0
                    s = (0.5 + alpha) * damping if from_p else 1.0 - (0.5 - alpha) * damping
                    x = centers_x_W[column] + s * step_x
                    y = centers_y_H[row] + s * step_y
                    sums_S3[shift + i, 0] += scale * (yj - wj * y)
                    sums_S3[shift + i, 1] += scale * (wj * x - xj)
                    sums_S3[shift + i, 2] += scale * (xj * y - yj * x)
                    sums_S3[shift + j, 0] += scale * (y * wi - yi)
                    sums_S3[shift + j, 1] += scale * (xi - x * wi)
                    sums_S3[shift + j, 2] += scale * (x * yi - y * xi)
