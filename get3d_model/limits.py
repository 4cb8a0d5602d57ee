"""What a request for a shape may ask for, wherever it comes from: the library, the command line or a client.

No torch here: clients import it.
"""

from __future__ import annotations

import math

from get3d_model.errors import InputError

MAX_SEED = 2**63 - 1
MAX_TRUNCATION_PSI = 2.0
MIN_TEXTURE_RESOLUTION = 64
MAX_TEXTURE_RESOLUTION = 4096


def check_seed(seed: int) -> None:
    """Raises InputError outside 0 .. MAX_SEED."""
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed {seed} is out of range; use 0 to {MAX_SEED}")


def check_psi(truncation_psi: float) -> None:
    """Raises InputError for a psi that is not a number in 0 .. MAX_TRUNCATION_PSI."""
    if not (math.isfinite(truncation_psi) and 0.0 <= truncation_psi <= MAX_TRUNCATION_PSI):
        raise InputError(
            f"truncation_psi {truncation_psi} is out of range; "
            f"use 0 (the average) to 1 (no truncation), at most {MAX_TRUNCATION_PSI:g}"
        )


def check_texture_resolution(texels: int) -> None:
    """Raises InputError unless a power of two within the limits."""
    if not MIN_TEXTURE_RESOLUTION <= texels <= MAX_TEXTURE_RESOLUTION or texels & (texels - 1):
        raise InputError(
            f"texture_resolution {texels} is not possible; "
            f"use a power of two from {MIN_TEXTURE_RESOLUTION} to {MAX_TEXTURE_RESOLUTION}"
        )
