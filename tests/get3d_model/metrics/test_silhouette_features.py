"""Features of silhouettes against direct float64 integrals, closed forms and other implementations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.special import ellipe, eval_jacobi

from get3d_model.metrics.silhouette_features import (
    CONTOUR_POINTS,
    FEATURES,
    FOURIER,
    ZERNIKE,
    silhouette_features,
)
from get3d_model.metrics.zernike import ORDERS_Z, POWERS_M, zernike_matrix

Y, X = np.mgrid[:256, :256].astype(float)
CIRCULARITY, ECCENTRICITY = FEATURES - 2, FEATURES - 1


def features(*pictures: np.ndarray) -> np.ndarray:
    packed = np.packbits(np.stack(pictures).astype(np.uint8), axis=-1, bitorder="little").view("<u8")
    return silhouette_features(packed.astype(np.uint64), threads=1)


def ellipse(a: float, b: float, degrees: float = 0.0, x: float = 127.3, y: float = 128.9) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    u, v = c * (X - x) + s * (Y - y), -s * (X - x) + c * (Y - y)
    return (u / a) ** 2 + (v / b) ** 2 <= 1


def blob(seed: int) -> np.ndarray:
    """Odd shapes with holes and several pieces."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(256, 256)), 14)
    return (noise > 0.008) & ((X - 120) ** 2 + (Y - 140) ** 2 < 100**2)


def direct_zernike(picture: np.ndarray) -> np.ndarray:
    """|A_nm| as a float64 sum over all pixels, with the radial polynomials from scipy's Jacobi polynomials."""
    y, x = np.nonzero(picture)
    dx, dy = x - x.mean(), y - y.mean()
    scale = np.hypot(dx, dy).max() + 0.5
    rho, theta = np.hypot(dx, dy) / scale, np.arctan2(dy, dx)
    values = []
    for n, m in ORDERS_Z[1:]:
        k = (n - m) // 2
        radial = (-1) ** k * rho**m * eval_jacobi(k, m, 0, 1 - 2 * rho**2)
        values.append(abs((n + 1) / np.pi * (radial * np.exp(-1j * m * theta)).sum() / scale**2))
    return np.array(values)


def test_there_are_47() -> None:
    assert (ZERNIKE, FOURIER, FEATURES) == (35, 10, 47)
    assert POWERS_M[2] == (0, 2) and POWERS_M[12] == (1, 1) and POWERS_M[21] == (2, 0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_zernike_against_the_direct_integral(seed: int) -> None:
    picture = blob(seed)
    np.testing.assert_allclose(features(picture)[0, :ZERNIKE], direct_zernike(picture), atol=1e-11)


def test_zernike_polynomials_are_orthogonal() -> None:
    """On a polar quadrature that is exact for these degrees, integral V_a V_b^* = pi / (n + 1) delta_ab."""
    node, weight = np.polynomial.legendre.leggauss(16)
    rho, radial_weight = (node + 1) / 2, weight / 2
    theta = 2 * np.pi * np.arange(64) / 64
    x, y = (np.outer(rho, f(theta)).reshape(-1) for f in (np.cos, np.sin))
    area = np.outer(radial_weight * rho, np.full(64, 2 * np.pi / 64)).reshape(-1)
    monomials = np.stack([x**p * y**q for p, q in POWERS_M])
    order = np.array([n for n, _ in ORDERS_Z])
    conjugate = (zernike_matrix() * (np.pi / (order + 1))[:, None]) @ monomials
    gram = (conjugate * area) @ conjugate.conj().T
    np.testing.assert_allclose(gram, np.diag(np.pi / (order + 1)), atol=1e-12)


def test_disc() -> None:
    """A disc that fills the unit disc has no moment but the zeroth; here it falls half a pixel short."""
    disc = features(ellipse(90, 90))[0]
    with_angle = [z for z, (n, m) in enumerate(ORDERS_Z[1:]) if m > 0]
    assert disc[with_angle].max() < 0.012
    short = (90 / 90.5) ** 2
    second = ORDERS_Z[1:].index((2, 0))
    # A_20 of a disc of radius r: 3 (r^4 - r^2).
    assert disc[second] == pytest.approx(abs(3 * (short**2 - short)), abs=0.01)
    assert disc[ZERNIKE : ZERNIKE + FOURIER].max() < 0.004
    assert disc[CIRCULARITY] == pytest.approx(1.0, abs=0.01) and disc[ECCENTRICITY] < 1e-4


@pytest.mark.parametrize(("a", "b"), [(100, 50), (90, 75), (110, 22)])
def test_ellipse(a: float, b: float) -> None:
    measured = features(ellipse(a, b, 20.0))[0]
    assert measured[ECCENTRICITY] == pytest.approx(((a * a - b * b) / (a * a + b * b)) ** 2, abs=0.01)
    perimeter = 4 * a * ellipe(1 - (b / a) ** 2)
    assert measured[CIRCULARITY] == pytest.approx(4 * np.pi * np.pi * a * b / perimeter**2, rel=0.04)
    # A_22 of an ellipse with half axes 1 and t in the unit disc: 3/pi times its integral of (x - iy)^2 = 3/4 t (1 - t^2).
    scale, t = a / (a + 0.5), b / a
    second = ORDERS_Z[1:].index((2, 2))
    assert measured[second] == pytest.approx(0.75 * t * (1 - t * t) * scale**4, rel=0.02)
    # Fourier descriptors of its outline, on a fine polygon of equal steps.
    angle = np.linspace(0, 2 * np.pi, 200_001)
    x, y = a * np.cos(angle), b * np.sin(angle)
    length = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    at = np.linspace(0, length[-1], 4096, endpoint=False)
    spectrum = np.abs(np.fft.fft(np.hypot(np.interp(at, length, x), np.interp(at, length, y))))
    np.testing.assert_allclose(
        measured[ZERNIKE : ZERNIKE + FOURIER], spectrum[1 : FOURIER + 1] / spectrum[0], atol=0.006
    )


def test_moving_scaling_turning_and_mirroring() -> None:
    def car(scale: float = 1.0, degrees: float = 0.0, x: float = 128.0, y: float = 128.0) -> np.ndarray:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        u, v = (c * (X - x) + s * (Y - y)) / scale, (-s * (X - x) + c * (Y - y)) / scale
        body = (np.abs(u) < 80) & (v > -20) & (v < 10)
        cabin = (np.abs(u + 15) < 40) & (np.abs(v - 20) < 12)
        wheels = ((u - 50) ** 2 + (v + 20) ** 2 < 18**2) | ((u + 50) ** 2 + (v + 20) ** 2 < 18**2)
        return body | cabin | wheels

    usual = car()
    mirrored, upside, moved = usual[:, ::-1], usual[::-1, ::-1], np.roll(usual, (17, -30), (0, 1))
    exact = features(usual, mirrored, upside, moved, usual.T)
    np.testing.assert_allclose(exact[:, :ZERNIKE], exact[[0] * 5, :ZERNIKE], atol=1e-11)
    np.testing.assert_allclose(exact[:, ECCENTRICITY], exact[0, ECCENTRICITY], atol=1e-11)
    # The contour begins elsewhere on its pixels then.
    np.testing.assert_allclose(exact[:, ZERNIKE:], exact[[0] * 5, ZERNIKE:], atol=0.006)
    np.testing.assert_allclose(exact[3], exact[0], atol=1e-11)
    for other in (car(1.3), car(degrees=33), car(0.8, 71, 120, 131)):
        np.testing.assert_allclose(features(other)[0], exact[0], atol=0.02)


def test_the_contour_is_that_of_the_largest_piece() -> None:
    """Pieces that touch at a corner are one; of what lies apart or inside, the outline knows nothing."""
    square = (np.abs(X - 120) <= 40) & (np.abs(Y - 110) <= 40)
    alone = features(square)[0, ZERNIKE : CIRCULARITY + 1]
    with_more = square.copy()
    with_more[200:220, 180:230] = True
    with_more[100:110, 100:110] = False
    assert np.array_equal(features(with_more)[0, ZERNIKE : CIRCULARITY + 1], alone)
    joined = square.copy()
    joined[151:191, 161:201] = True
    assert np.abs(features(joined)[0, ZERNIKE : CIRCULARITY + 1] - alone).max() > 0.1
    # pi / 4 for a square.
    assert alone[-1] == pytest.approx(np.pi / 4, abs=0.02)


def test_pieces_against_scipy() -> None:
    """Random dots: many pieces that touch at corners. The largest, alone, has the same outline."""
    for seed in range(4):
        dots = np.random.default_rng(seed).random((256, 256)) < 0.37
        label, count = ndimage.label(dots, np.ones((3, 3)))
        assert count > 100
        largest = label == np.bincount(label.reshape(-1))[1:].argmax() + 1
        whole, single = features(dots, largest)
        assert np.array_equal(whole[ZERNIKE : CIRCULARITY + 1], single[ZERNIKE : CIRCULARITY + 1])


def test_smallest_pictures() -> None:
    nothing, pixel, row, full = (np.zeros((256, 256), bool) for _ in range(4))
    pixel[255, 255] = row[7, 3:200] = full[:] = True
    values = features(nothing, pixel, row, full)
    assert not values[0].any() and np.isfinite(values).all()
    assert not values[1, ZERNIKE:].any()
    assert values[2, CIRCULARITY] == pytest.approx(0.0, abs=1e-12) and values[
        2, ECCENTRICITY
    ] == pytest.approx(1.0, abs=1e-3)
    assert values[3, CIRCULARITY] == pytest.approx(np.pi / 4, abs=0.01)
    assert CONTOUR_POINTS % 4 == 0
