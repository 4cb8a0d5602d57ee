"""Pictures as PNG or JPEG bytes: the texture of a file is encoded while somebody waits for it.

Shape legend: H W height and width
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from get3d_model.errors import InputError

try:
    # A fifth of zlib's time for the same size.
    from isal import isal_zlib as deflate
except ImportError:  # a machine that has torch and little else; the same pictures in other bytes
    deflate = zlib

IMAGE_TYPES = {"png": "image/png", "jpeg": "image/jpeg"}
"""MIME types of the formats a texture can be stored in; every reader of glTF knows both."""
DEFAULT_IMAGE = "png"
# Compressed one by one, so that several threads can work on a picture. Fixed: bytes must not depend on the machine.
ROWS_PER_BAND = 64
JPEG_QUALITY = 95
UP_FILTER = 2
MAX_WINDOW, MAX_MEMORY = 15, 9
ADLER_PRIME = 65521

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """A forked child inherits the pool object but none of its threads."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)


def encode_image(picture_HW3: np.ndarray, image_format: str = DEFAULT_IMAGE) -> bytes:
    """uint8 RGB as "png" or as "jpeg" (quality 95, colours at full resolution).

    The same picture gives the same bytes. Raises InputError for another format.
    """
    if image_format not in IMAGE_TYPES:
        raise InputError(
            f"texture format '{image_format}' cannot be written; use one of {', '.join(IMAGE_TYPES)}"
        )
    return encode_png(picture_HW3) if image_format == "png" else _encode_jpeg(picture_HW3)


def encode_png(picture_HW3: np.ndarray) -> bytes:
    """A PNG of uint8 RGB, several times as fast as Pillow's and somewhat larger.

    Every row is stored as the difference to the row above ("Up") and deflated at level 1 (by ISA-L); bands of rows are
    deflated on several threads and joined at byte boundaries (the `Z_SYNC_FLUSH` of zlib). Source: PNG
    specification, sections 9.2 and 11.2.
    """
    height, width, _ = picture_HW3.shape
    rows_HW = np.ascontiguousarray(picture_HW3, np.uint8).reshape(height, -1)

    def deflated(first: int) -> tuple[bytes, int, int]:
        """(compressed rows of a band, their checksum, their bytes)."""
        band_HW = rows_HW[first : first + ROWS_PER_BAND]
        filtered_HW = np.empty((len(band_HW), 1 + rows_HW.shape[1]), np.uint8)
        filtered_HW[:, 0] = UP_FILTER
        np.subtract(band_HW[0], rows_HW[first - 1] if first else 0, out=filtered_HW[0, 1:])
        np.subtract(band_HW[1:], band_HW[:-1], out=filtered_HW[1:, 1:])
        compressor = deflate.compressobj(1, zlib.DEFLATED, -MAX_WINDOW, MAX_MEMORY)
        content = compressor.compress(filtered_HW)
        last = first + ROWS_PER_BAND >= height
        content += compressor.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
        return content, deflate.adler32(filtered_HW), filtered_HW.size

    firsts = range(0, height, ROWS_PER_BAND)
    bands = list(map(deflated, firsts) if len(firsts) == 1 else _get_pool().map(deflated, firsts))
    checksum = 1
    for _, of_band, size in bands:
        checksum = _joined_adler32(checksum, of_band, size)
    # The zlib header for a window of 32 KiB at the fastest level, the bands, the checksum of what they hold.
    stream = b"".join([b"\x78\x01", *(content for content, _, _ in bands), struct.pack(">I", checksum)])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", *_chunk(b"IHDR", header), *_chunk(b"IDAT", stream), *_chunk(b"IEND", b"")]
    )


def _joined_adler32(first: int, second: int, second_size: int) -> int:
    """The checksum of two pieces from those of each. Source: RFC 1950, section 8.2: sums of bytes and of sums."""
    low = (first & 0xFFFF) + (second & 0xFFFF) - 1
    high = (first >> 16) + (second >> 16) + second_size * ((first & 0xFFFF) - 1)
    return (high % ADLER_PRIME) << 16 | low % ADLER_PRIME


def encode_rgba_png(picture_HW4: np.ndarray) -> bytes:
    """A PNG of uint8 RGBA; the same picture gives the same bytes."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture_HW4), "RGBA").save(stream, format="PNG", compress_level=3)
    return stream.getvalue()


def _encode_jpeg(picture_HW3: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture_HW3).save(stream, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def _chunk(kind: bytes, content: bytes) -> tuple[bytes, ...]:
    checksum = deflate.crc32(content, deflate.crc32(kind))
    return struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)


def _get_pool() -> ThreadPoolExecutor:
    global _pool
    pool = _pool
    if pool is None:
        pool = _pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="png")
    return pool
