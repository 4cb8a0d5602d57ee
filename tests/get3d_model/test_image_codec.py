"""Textures as bytes of a file, read by another library."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from get3d_model.errors import InputError
from get3d_model.image_codec import encode_image


def test_png_is_exact_and_jpeg_is_close() -> None:
    x = np.linspace(0, 6, 128)
    waves = (127 + 120 * np.sin(x[:, None, None] + x[None, :, None] * [1, 2, 3])).astype(np.uint8)
    for image_format, largest in (("png", 0), ("jpeg", 12)):
        with Image.open(io.BytesIO(encode_image(waves, image_format))) as image:
            assert image.format == image_format.upper() and image.mode == "RGB"
            error = np.abs(np.asarray(image).astype(int) - waves).max()
        assert error <= largest and (error == 0) == (image_format == "png")


def test_other_formats_are_refused() -> None:
    with pytest.raises(InputError, match="'webp' cannot be written; use one of png, jpeg"):
        encode_image(np.zeros((2, 2, 3), np.uint8), "webp")
