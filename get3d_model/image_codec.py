"""Pictures of a mesh's texture as bytes of a file.

Shape legend: H W height and width
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from get3d_model.errors import InputError
from get3d_model.png import fast_png

IMAGE_TYPES = {"png": "image/png", "jpeg": "image/jpeg"}
"""MIME types of the formats a texture can be stored in; every reader of glTF knows both."""
DEFAULT_IMAGE = "png"
JPEG_QUALITY = 95


def encode_image(picture_HW3: np.ndarray, image_format: str = DEFAULT_IMAGE) -> bytes:
    """uint8 RGB as "png" or as "jpeg" (quality 95, colours at full resolution).

    The same picture gives the same bytes. Raises InputError for another format.
    """
    if image_format not in IMAGE_TYPES:
        raise InputError(
            f"texture format '{image_format}' cannot be written; use one of {', '.join(IMAGE_TYPES)}"
        )
    return fast_png(picture_HW3) if image_format == "png" else _encode_jpeg(picture_HW3)


def _encode_jpeg(picture_HW3: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture_HW3).save(stream, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()
