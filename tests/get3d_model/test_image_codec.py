"""Pictures written by us, read by another library."""

from __future__ import annotations

import io
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from get3d_model.errors import InputError
from get3d_model.image_codec import encode_image, encode_png


def read(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        # Checks every checksum.
        image.verify()
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 64), (65, 7), (200, 130), (512, 512)])
def test_png_is_exact(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (*shape, 3)).astype(np.uint8)
    smooth = np.broadcast_to(np.arange(shape[1])[:, None], (*shape, 3)).astype(np.uint8)
    for picture in (noise, smooth, noise[::-1], np.asfortranarray(noise)):
        content = encode_png(picture)
        assert content == encode_png(picture)
        assert np.array_equal(read(content), picture)
    assert len(encode_png(smooth)) < smooth.size + 500


def test_png_without_isa_l_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(0).integers(0, 9, (200, 130, 3)).astype(np.uint8)
    expected = encode_png(picture)
    monkeypatch.setattr("get3d_model.image_codec.deflate", zlib)
    assert encode_png(picture) != expected, "both were made by zlib; install isal"
    assert np.array_equal(read(encode_png(picture)), picture)


def test_the_same_bytes_whatever_other_threads_do() -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 5 + k, (256, 200, 3)).astype(np.uint8) for k in range(6)]
    expected = [encode_png(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encode_png, pictures * 20)) == expected * 20


def test_png_of_a_smooth_picture_is_small() -> None:
    x = np.linspace(0, 6, 512)
    waves = 127 + 120 * np.sin(x[:, None, None] + x[None, :, None] * [1, 2, 3])
    assert len(encode_png(waves.astype(np.uint8))) < 0.5 * 3 * 512 * 512


def test_jpeg_is_close() -> None:
    x = np.linspace(0, 6, 128)
    waves = (127 + 120 * np.sin(x[:, None, None] + x[None, :, None] * [1, 2, 3])).astype(np.uint8)
    decoded = read(encode_image(waves, "jpeg")).astype(int)
    assert np.abs(decoded - waves).max() < 12 and not np.array_equal(decoded, waves)


def test_other_formats_are_refused() -> None:
    with pytest.raises(InputError, match="'webp' cannot be written; use one of png, jpeg"):
        encode_image(np.zeros((2, 2, 3), np.uint8), "webp")
