"""What the light field descriptor says of one silhouette: 35 Zernike moments, 10 Fourier descriptors, circularity
and eccentricity, all unchanged by moving, scaling, turning and mirroring the picture.

Region: the pixels are moved to their centroid and scaled so that the farthest one lies in the unit disc; magnitudes
of the Zernike moments up to order 10 without the zeroth. Contour: the outer contour of the largest 8-connected piece,
its distance from its centroid at 128 equal steps of arc length; magnitudes of the Fourier coefficients 1 to 10 over
the zeroth. Circularity is 4 pi area / perimeter^2 of that polygon of 128 corners (a chain of pixels would be up to
8 % longer in slanted directions). Eccentricity is ((m20 - m02)^2 + 4 m11^2) / (m20 + m02)^2 of the central moments.

Sources: Chen et al. 2003, section 3.3; Zhang and Lu 2002, "A Comparative Study of Fourier Descriptors for Shape
Representation and Retrieval" (centroid distance); Jain 1989, "Fundamentals of Digital Image Processing", section 9.

Roofline: a silhouette has about 250 rows of one to three runs of pixels. 66 monomials are summed row by row, 20 000
multiply-adds; contour and runs are about 2 000 steps of a few nanoseconds: some 30 us on one core, not 4 Mflop of a
product with the 65 536 pixels of 66 basis pictures.

Shape legend: K views, H rows, W words of a row, M monomials, Z moments
"""

from __future__ import annotations

from functools import cache

import numpy as np

from get3d_model.jit import kernel
from get3d_model.metrics.zernike import ORDERS_Z, zernike_matrix
from get3d_model.parallel_for import parallel_for

ZERNIKE = len(ORDERS_Z) - 1
FOURIER = 10
FEATURES = ZERNIKE + FOURIER + 2
CONTOUR_POINTS = 128

_ORDERS = 11


@kernel
def _find_runs(mask_HW, runs, rows):
    """Writes (row, first column, last column) of every run of set pixels; rows[y] = first run of row y."""
    height, words = mask_HW.shape
    count = 0
    for y in range(height):
        rows[y] = count
        begin = -1
        for w in range(words):
            word = mask_HW[y, w]
            if begin < 0 and word == np.uint64(0):
                continue
            if begin >= 0 and word == np.uint64(0xFFFFFFFFFFFFFFFF):
                continue
            for byte in range(8):
                bits = np.int64((word >> np.uint64(8 * byte)) & np.uint64(255))
                column = 64 * w + 8 * byte
                if begin < 0 and bits == 0:
                    continue
                if begin >= 0 and bits == 255:
                    continue
                for bit in range(8):
                    if (bits >> bit) & 1:
                        if begin < 0:
                            begin = column + bit
                    elif begin >= 0:
                        runs[count, 0], runs[count, 1], runs[count, 2] = y, begin, column + bit - 1
                        count += 1
                        begin = -1
        if begin >= 0:
            runs[count, 0], runs[count, 1], runs[count, 2] = y, begin, 64 * words - 1
            count += 1
    rows[height] = count
    return count


@kernel
def _root(parent, run):
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


@kernel
def _largest_piece(runs, rows, count, parent, area):
    """The first run of the largest 8-connected piece; of equal ones, of the first. -1 without runs."""
    for run in range(count):
        parent[run] = run
        area[run] = runs[run, 2] - runs[run, 1] + 1
    for y in range(1, len(rows) - 1):
        above, here = rows[y - 1], rows[y]
        while above < rows[y] and here < rows[y + 1]:
            if runs[above, 1] <= runs[here, 2] + 1 and runs[here, 1] <= runs[above, 2] + 1:
                a, b = _root(parent, above), _root(parent, here)
                if a != b:
                    # The smaller number stays the root: it is the piece's first run.
                    a, b = min(a, b), max(a, b)
                    parent[b] = a
                    area[a] += area[b]
            if runs[above, 2] < runs[here, 2]:
                above += 1
            else:
                here += 1
    best = -1
    for run in range(count):
        if parent[run] == run and (best < 0 or area[run] > area[best]):
            best = run
    return best


@kernel
def _moments(runs, count, prefix, moments_M):
    """Central moments on the unit disc, into moments_M."""
    pixels, sum_x, sum_y = 0.0, 0.0, 0.0
    left, right = runs[0, 1], runs[0, 2]
    for run in range(count):
        length = runs[run, 2] - runs[run, 1] + 1.0
        pixels += length
        sum_x += length * (runs[run, 1] + runs[run, 2]) * 0.5
        sum_y += length * runs[run, 0]
        left, right = min(left, runs[run, 1]), max(right, runs[run, 2])
    centre_x, centre_y = sum_x / pixels, sum_y / pixels
    farthest = 0.0
    for run in range(count):
        dx = max(centre_x - runs[run, 1], runs[run, 2] - centre_x)
        dy = runs[run, 0] - centre_y
        farthest = max(farthest, dx * dx + dy * dy)
    # Half a pixel, so that the farthest pixel lies inside as a whole.
    scale = 1.0 / (np.sqrt(farthest) + 0.5)
    # Sums of powers from the leftmost column on; no power exceeds 1 there.
    for p in range(_ORDERS):
        prefix[left, p] = 0.0
    for column in range(left, right + 1):
        power, x = 1.0, (column - centre_x) * scale
        for p in range(_ORDERS):
            prefix[column + 1, p] = prefix[column, p] + power
            power *= x
    moments_M[:] = 0.0
    row_p = np.empty(_ORDERS)
    run = 0
    while run < count:
        y = runs[run, 0]
        row_p[:] = 0.0
        while run < count and runs[run, 0] == y:
            for p in range(_ORDERS):
                row_p[p] += prefix[runs[run, 2] + 1, p] - prefix[runs[run, 1], p]
            run += 1
        index, height = 0, (y - centre_y) * scale
        for p in range(_ORDERS):
            value = row_p[p] * scale * scale
            for _ in range(_ORDERS - p):
                moments_M[index] += value
                value *= height
                index += 1


@kernel
def _set(mask_HW, y, x):
    size = mask_HW.shape[0]
    if y < 0 or x < 0 or y >= size or x >= size:
        return False
    return (mask_HW[y, x >> 6] >> np.uint64(x & 63)) & np.uint64(1) != np.uint64(0)


@kernel
def _trace(mask_HW, y, x, contour_C2):
    """Moore's tracing of the piece whose first pixel in reading order is (y, x); the number of contour pixels."""
    # Right, then on against the clock where row 0 is on top.
    steps_y = (0, -1, -1, -1, 0, 1, 1, 1)
    steps_x = (1, 1, 0, -1, -1, -1, 0, 1)
    start_y, start_x = y, x
    direction, first, count = 7, -1, 0
    while count < len(contour_C2):
        # The search begins behind the pixel we came from, turning one way.
        search = (direction + 6) % 8 if direction % 2 else (direction + 7) % 8
        found = -1
        for turn in range(8):
            candidate = (search + turn) % 8
            if _set(mask_HW, y + steps_y[candidate], x + steps_x[candidate]):
                found = candidate
                break
        # Closed when the first step would be taken again (the first pixel may be passed before).
        if y == start_y and x == start_x:
            if first >= 0 and found == first:
                return count
            if first < 0:
                first = found
        contour_C2[count, 0], contour_C2[count, 1] = y, x
        count += 1
        if found < 0:
            return count
        y += steps_y[found]
        x += steps_x[found]
        direction = found
    return count


@kernel
def _contour_features(contour_C2, count, points_N2, cosines, out):
    """Fourier descriptors into out[:FOURIER], circularity into out[FOURIER]."""
    length = 0.0
    for c in range(count):
        d = (c + 1) % count
        diagonal = contour_C2[c, 0] != contour_C2[d, 0] and contour_C2[c, 1] != contour_C2[d, 1]
        length += np.sqrt(2.0) if diagonal else 1.0
    points = len(points_N2)
    c, passed, step = 0, 0.0, length / points
    mean_y, mean_x = 0.0, 0.0
    for n in range(points):
        while True:
            d = (c + 1) % count
            diagonal = contour_C2[c, 0] != contour_C2[d, 0] and contour_C2[c, 1] != contour_C2[d, 1]
            side = np.sqrt(2.0) if diagonal else 1.0
            if passed + side >= n * step or c == count - 1:
                break
            passed += side
            c += 1
        share = min(1.0, (n * step - passed) / side)
        points_N2[n, 0] = contour_C2[c, 0] + share * (contour_C2[d, 0] - contour_C2[c, 0])
        points_N2[n, 1] = contour_C2[c, 1] + share * (contour_C2[d, 1] - contour_C2[c, 1])
        mean_y += points_N2[n, 0] / points
        mean_x += points_N2[n, 1] / points
    area, perimeter, zeroth = 0.0, 0.0, 0.0
    distance_N = np.empty(points)
    for n in range(points):
        m = (n + 1) % points
        dy, dx = points_N2[m, 0] - points_N2[n, 0], points_N2[m, 1] - points_N2[n, 1]
        perimeter += np.sqrt(dy * dy + dx * dx)
        area += (points_N2[n, 1] - mean_x) * dy - (points_N2[n, 0] - mean_y) * dx
        distance_N[n] = np.sqrt((points_N2[n, 0] - mean_y) ** 2 + (points_N2[n, 1] - mean_x) ** 2)
        zeroth += distance_N[n]
    if zeroth == 0.0 or perimeter == 0.0:
        return
    for k in range(FOURIER):
        real, imaginary = 0.0, 0.0
        for n in range(points):
            angle = ((k + 1) * n) % points
            real += distance_N[n] * cosines[angle]
            imaginary += distance_N[n] * cosines[(angle + points // 4) % points]
        out[k] = np.sqrt(real * real + imaginary * imaginary) / zeroth
    out[FOURIER] = 2.0 * np.pi * abs(area) / (perimeter * perimeter)


@kernel
def features_kernel(first_view, end_view, mask_KHW, real_ZM, imaginary_ZM, cosines, features_KF):
    """Fills features_KF (zeros on entry; left so for an empty silhouette)."""
    height, words = mask_KHW.shape[1], mask_KHW.shape[2]
    runs = np.empty((height * words * 32 + 1, 3), np.int32)
    rows = np.empty(height + 1, np.int64)
    parent, area = np.empty(len(runs), np.int32), np.empty(len(runs), np.int32)
    prefix = np.empty((64 * words + 1, _ORDERS))
    moments_M = np.empty(real_ZM.shape[1])
    contour_C2 = np.empty((4 * height * 64 * words, 2), np.int32)
    points_N2 = np.empty((len(cosines), 2))
    for view in range(first_view, end_view):
        mask_HW = mask_KHW[view]
        count = _find_runs(mask_HW, runs, rows)
        if count == 0:
            continue
        _moments(runs, count, prefix, moments_M)
        out = features_KF[view]
        for z in range(ZERNIKE):
            real, imaginary = 0.0, 0.0
            for m in range(len(moments_M)):
                real += real_ZM[z + 1, m] * moments_M[m]
                imaginary += imaginary_ZM[z + 1, m] * moments_M[m]
            out[z] = np.sqrt(real * real + imaginary * imaginary)
        first = _largest_piece(runs, rows, count, parent, area)
        pixels = _trace(mask_HW, runs[first, 0], runs[first, 1], contour_C2)
        _contour_features(contour_C2, pixels, points_N2, cosines, out[ZERNIKE:])
        # Indices of y^2, xy and x^2 in POWERS_M.
        m02, m11, m20 = moments_M[2], moments_M[_ORDERS + 1], moments_M[2 * _ORDERS - 1]
        if m20 + m02 > 0.0:
            out[ZERNIKE + FOURIER + 1] = ((m20 - m02) ** 2 + 4.0 * m11 * m11) / (m20 + m02) ** 2


@cache
def _constants() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    matrix_ZM = zernike_matrix()
    cosines = np.cos(2 * np.pi * np.arange(CONTOUR_POINTS) / CONTOUR_POINTS)
    return np.ascontiguousarray(matrix_ZM.real), np.ascontiguousarray(matrix_ZM.imag), cosines


def silhouette_features(mask_KHW: np.ndarray, threads: int) -> np.ndarray:
    """Features of silhouettes as `rendering.cpu.mask` packs them; KF float64: Zernike, Fourier, circularity,
    eccentricity. An empty silhouette has zeros."""
    features_KF = np.zeros((len(mask_KHW), FEATURES))
    parallel_for(features_kernel, len(mask_KHW), threads, mask_KHW, *_constants(), features_KF)
    return features_KF
