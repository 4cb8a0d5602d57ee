"""PNG files written by us, read by another library."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from get3d_model.png import PNG_ENCODING, fast_png, small_png

SHAPES = [(1, 1), (3, 5), (64, 64), (65, 7), (200, 130)]
Encode = Callable[[np.ndarray], bytes]
both = pytest.mark.parametrize("encode", [fast_png, small_png])


def read(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        # Checks every checksum.
        image.verify()
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def filters(content: bytes) -> set[int]:
    """The filters' numbers in a picture of one IDAT chunk."""
    with Image.open(io.BytesIO(content)) as image:
        width, height, channels = *image.size, len(image.getbands())
    start = content.index(b"IDAT")
    size = int.from_bytes(content[start - 4 : start], "big")
    rows = np.frombuffer(zlib.decompress(content[start + 4 : start + 4 + size]), np.uint8)
    return set(rows.reshape(height, 1 + width * channels)[:, 0].tolist())


@both
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_png_is_exact(shape: tuple[int, int], channels: int, encode: Encode) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (*shape, channels)).astype(np.uint8)
    smooth = np.broadcast_to(np.arange(shape[1])[:, None], noise.shape).astype(np.uint8)
    for picture in (noise, smooth, noise[::-1], np.asfortranarray(noise), noise[:, ::2]):
        content = encode(picture)
        assert np.array_equal(read(content), picture)
        assert content == encode(picture.copy())
    assert len(encode(smooth)) < smooth.size + 500


def test_every_row_takes_the_filter_with_the_least_sum() -> None:
    random = np.random.default_rng(0)
    flat = np.zeros((1, 64, 4), np.uint8)
    ramp = np.broadcast_to(np.arange(0, 128, 2, dtype=np.uint8)[:, None], (1, 64, 4))
    noise = random.integers(0, 256, (1, 64, 4)).astype(np.uint8)
    rows = np.concatenate([flat, ramp, noise, noise + 1])
    assert np.array_equal(read(small_png(rows)), rows)
    assert filters(small_png(rows)) == {0, 1, 2}
    assert filters(fast_png(rows)) == {2}


@both
def test_the_same_bytes_whatever_other_threads_do(encode: Encode) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 5 + k, (256, 200, 3)).astype(np.uint8) for k in range(6)]
    expected = [encode(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encode, pictures * 20)) == expected * 20


def test_the_bytes_of_a_data_set() -> None:
    """They are found again by keys with the encoding's name: where these bytes change, `PNG_ENCODING` has to."""
    y, x = np.mgrid[:96, :80]
    smooth = np.stack([x + y, 2 * x, 255 - y, 255 * (x > y)], axis=-1).astype(np.uint8)
    bands = np.stack([x * y % 251, x * 7 % 13, y // 8, 0 * x], axis=-1).astype(np.uint8)
    content = small_png(np.concatenate([smooth, bands]))
    assert PNG_ENCODING == "rows by none, sub or up; libdeflate 6"
    assert (
        hashlib.sha256(content).hexdigest()
        == "8cf62e1df3e308fdf469846ae78ad428814a875a5c0d14c4e339f5d568692623"
    )


def test_png_of_a_smooth_picture_is_small() -> None:
    x = np.linspace(0, 6, 512)
    waves = (127 + 120 * np.sin(x[:, None, None] + x[None, :, None] * [1, 2, 3])).astype(np.uint8)
    assert len(fast_png(waves)) < 0.5 * waves.size
    assert len(small_png(waves)) < 0.9 * len(fast_png(waves))


@both
@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3))]
)
def test_other_arrays_are_refused(picture: np.ndarray, encode: Encode) -> None:
    with pytest.raises(ValueError, match=r"expected a uint8 \(H, W, 3 or 4\) picture, got"):
        encode(picture)
