"""Environments to light a mesh by: built-in skies, and equirect pictures (Radiance .hdr, PNG, JPEG).

Shape legend: H W equirect picture
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from get3d_model.errors import InputError
from get3d_model.rendering.lighting import (
    AreaLight,
    EnvironmentLight,
    Lighting,
    LightSource,
    equirect_directions,
)

# Irradiance is far smoother than any picture: averaged down to this before it is integrated.
SKY_HEIGHT, SKY_WIDTH = 64, 128
MAX_PIXELS = 2**28
_SUFFIXES = (".hdr", ".png", ".jpg", ".jpeg")


def light_source(text: str) -> LightSource:
    """The lighting named `studio`, `area`, `flat`, a built-in environment, or that of an equirect picture file.

    Raises InputError for an unknown name, a missing or damaged file, and a picture that is black.
    """
    fixed: dict[str, Callable[[], LightSource]] = {
        "studio": Lighting,
        "area": AreaLight,
        "flat": Lighting.unlit,
    }
    if text in fixed:
        return fixed[text]()
    if text in ENVIRONMENTS:
        directions_HW3 = equirect_directions(SKY_HEIGHT, SKY_WIDTH)
        return EnvironmentLight(text, "", ENVIRONMENTS[text](directions_HW3).astype(np.float32))
    path = Path(text)
    known = ", ".join([*fixed, *ENVIRONMENTS])
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"--light {text!r} is neither one of {known} nor a {', '.join(_SUFFIXES)} file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"--light {text}: cannot be read ({error.strerror}); check the path") from error
    radiance_HW3 = _read_hdr(path, content) if path.suffix.lower() == ".hdr" else _read_picture(path)
    if not np.isfinite(radiance_HW3).all() or not radiance_HW3.max() > 0:
        raise InputError(f"--light {text}: the picture is black or has values that are no numbers")
    return EnvironmentLight(path.name, hashlib.sha256(content).hexdigest(), _shrunk(radiance_HW3))


def _overcast(directions_HW3: np.ndarray) -> np.ndarray:
    """CIE overcast sky, (1 + 2 sin(elevation)) / 3, over a floor that reflects 30 % of it."""
    up_HW = directions_HW3[..., 1]
    # The floor's radiance: albedo * horizontal irradiance / pi; the sky's is 7 pi / 9.
    light_HW = np.where(up_HW > 0, (1.0 + 2.0 * up_HW) / 3.0, 0.3 * 7.0 / 9.0)
    return np.repeat(light_HW[..., None], 3, axis=2)


def _sky(
    directions_HW3: np.ndarray, sun_3: tuple[float, ...], sun: tuple[float, ...], zenith: tuple[float, ...],
    horizon: tuple[float, ...], ground: tuple[float, ...],
) -> np.ndarray:  # fmt: skip
    """A gradient from horizon to zenith, a soft sun (8 degrees) and a plain ground; linear RGB radiances."""
    up_HW1 = directions_HW3[..., 1:2]
    sky_HW3 = np.array(horizon) + (np.array(zenith) - np.array(horizon)) * np.sqrt(up_HW1.clip(0.0, 1.0))
    cosine_HW1 = directions_HW3 @ (np.array(sun_3) / np.linalg.norm(sun_3))[:, None]
    glow_HW1 = np.exp((cosine_HW1 - 1.0) / (1.0 - np.cos(np.radians(8.0))))
    return np.where(up_HW1 > 0, sky_HW3 + np.array(sun) * glow_HW1, np.array(ground))


ENVIRONMENTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "overcast": _overcast,
    "sunny": lambda d: _sky(
        d, (0.5, 0.8, 0.6), (40, 37, 31), (0.35, 0.55, 1.0), (0.8, 0.9, 1.0), (0.35, 0.33, 0.3)
    ),
    "sunset": lambda d: _sky(
        d, (0.9, 0.22, 0.5), (50, 24, 8), (0.25, 0.3, 0.55), (1.0, 0.6, 0.4), (0.25, 0.2, 0.18)
    ),
}
"""Built-in environments by name: radiance of unit directions HW3."""


def _shrunk(radiance_HW3: np.ndarray) -> np.ndarray:
    """At most `SKY_HEIGHT` rows and twice as many columns, by area."""
    for axis, size in ((0, SKY_HEIGHT), (1, SKY_WIDTH)):
        length = radiance_HW3.shape[axis]
        if length > size:
            # Cuts at fractions of pixels would gain nothing that irradiance shows.
            starts = np.arange(size) * length // size
            counts = np.diff(np.append(starts, length))
            sums = np.add.reduceat(radiance_HW3.astype(np.float64), starts, axis=axis)
            radiance_HW3 = sums / (counts[:, None, None] if axis == 0 else counts[None, :, None])
    return radiance_HW3.astype(np.float32)


def _read_picture(path: Path) -> np.ndarray:
    """Linear light of an 8-bit sRGB picture."""
    try:
        with Image.open(path) as picture:
            picture.thumbnail((1024, 512))
            encoded_HW3 = np.asarray(picture.convert("RGB"), np.float64) / 255.0
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"--light {path}: the picture cannot be decoded ({error})") from error
    return np.where(encoded_HW3 <= 0.04045, encoded_HW3 / 12.92, ((encoded_HW3 + 0.055) / 1.055) ** 2.4)


def _read_hdr(path: Path, content: bytes) -> np.ndarray:
    """A Radiance picture, HW3 float32; old and new run lengths. Source: Ward, "Real Pixels", Graphics Gems II (1991)."""

    def damaged(why: str) -> InputError:
        return InputError(f"--light {path}: is no sound Radiance picture ({why}); save it again")

    header, blank, body = content.partition(b"\n\n")
    if not header.startswith((b"#?RADIANCE", b"#?RGBE")) or not blank:
        raise damaged("its header is missing")
    if b"FORMAT=32-bit_rle_xyze" in header:
        raise damaged("it is in XYZ")
    line, _, body = body.partition(b"\n")
    match = re.fullmatch(rb"-Y (\d+) \+X (\d+)", line.strip())
    if not match:
        raise damaged(f"its rows are ordered {line[:40]!r}, not -Y +X")
    height, width = int(match[1]), int(match[2])
    if not 0 < height * width <= MAX_PIXELS:
        raise damaged(f"it claims to be {width}x{height}")
    data, position = np.frombuffer(body, np.uint8), 0
    rgbe_HW4 = np.zeros((height, width, 4), np.uint8)
    try:
        for row in range(height):
            if 8 <= width < 32768 and data[position] == 2 and data[position + 1] == 2:
                position += 4
                for channel in range(4):
                    position = _read_run_lengths(data, position, rgbe_HW4[row, :, channel])
            else:
                flat = data[position : position + 4 * width]
                rgbe_HW4[row] = flat.reshape(width, 4)
                if (rgbe_HW4[row, :, :3] == 1).all(axis=1).any():
                    raise damaged("it has run lengths of the oldest kind")
                position += 4 * width
    except (IndexError, ValueError) as error:
        raise damaged("it ends early") from error
    exponent_HW1 = rgbe_HW4[..., 3:].astype(np.int32)
    scale_HW1 = np.where(exponent_HW1 > 0, np.ldexp(1.0, exponent_HW1 - 136), 0.0)
    return (rgbe_HW4[..., :3] * scale_HW1).astype(np.float32)


def _read_run_lengths(data: np.ndarray, position: int, out_W: np.ndarray) -> int:
    """Fills one channel of one row; returns where the next one begins. Raises ValueError, IndexError."""
    column = 0
    while column < len(out_W):
        count = int(data[position])
        if count > 128:
            count -= 128
            values = np.broadcast_to(data[position + 1], count)
            position += 2
        else:
            values = data[position + 1 : position + 1 + count]
            position += 1 + count
        if count == 0 or column + count > len(out_W):
            raise ValueError("a run crosses the end of its row")
        out_W[column : column + count] = values
        column += count
    return position
