"""Zernike moments as a linear map of the plain moments of a picture on the unit disc.

Source: Khotanzad and Hong 1990, "Invariant Image Recognition by Zernike Moments", equations 1 to 5.

Shape legend: Z moments (36 up to order 10, with the zeroth), M monomials x^p y^q with p + q <= 10 (66)
"""

from __future__ import annotations

from functools import cache
from math import comb, factorial

import numpy as np

ORDER = 10
# (n, m): order and repetition, n - m even and m >= 0 (a negative repetition gives the complex conjugate).
ORDERS_Z = tuple((n, m) for n in range(ORDER + 1) for m in range(n % 2, n + 1, 2))
# (p, q) of the monomials x^p y^q, in the order of `monomial_moments` elsewhere: p first.
POWERS_M = tuple((p, q) for p in range(ORDER + 1) for q in range(ORDER + 1 - p))


@cache
def zernike_matrix() -> np.ndarray:
    """A_nm = sum over monomials of entry times moment, moments taken on the unit disc; ZM complex128.

    A_nm = (n + 1) / pi * integral of f(x, y) V_nm(x, y)^*, V_nm = R_nm(rho) exp(i m theta).
    """
    column = {powers: index for index, powers in enumerate(POWERS_M)}
    matrix_ZM = np.zeros((len(ORDERS_Z), len(POWERS_M)), np.complex128)
    for row, (n, m) in enumerate(ORDERS_Z):
        for s in range((n - m) // 2 + 1):
            radial = (
                (-1) ** s
                * factorial(n - s)
                / (factorial(s) * factorial((n + m) // 2 - s) * factorial((n - m) // 2 - s))
            )
            # rho^(n-2s) exp(-i m theta) = (x^2 + y^2)^k (x - i y)^m with 2 k = n - 2 s - m.
            k = (n - 2 * s - m) // 2
            for a in range(k + 1):
                for b in range(m + 1):
                    value = radial * comb(k, a) * comb(m, b) * (-1j) ** b
                    matrix_ZM[row, column[2 * (k - a) + m - b, 2 * a + b]] += value
        matrix_ZM[row] *= (n + 1) / np.pi
    return matrix_ZM
