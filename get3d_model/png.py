"""Pictures as PNG files: fast ones for who waits for a texture, small ones for data sets.

The same picture gives the same bytes, whatever the threads and whatever was encoded before, on machines of one kind.
(ISA-L, twice as fast as what is used here, was once seen to give other bytes for the same picture.)

Shape legend: C channels (RGB or RGBA), H W height and width, N bytes of a row
"""

from __future__ import annotations

import os
import struct
import zlib

import deflate
import numpy as np
from zlib_ng import zlib_ng

from get3d_model.jit import kernel
from get3d_model.worker_threads import WorkerThreads

PNG_ENCODING = "rows by none, sub or up; libdeflate 6"
"""How `small_png` works: another encoding gives other bytes for the same picture."""
# Compressed one by one, so that several threads can work on a picture. Fixed: bytes must not depend on their number.
ROWS_PER_BAND = 64
_FAST_LEVEL, _SMALL_LEVEL = 2, 6
_NONE, _SUB, _UP = 0, 1, 2
_COLOR_TYPES = {3: 2, 4: 6}
_WINDOW, _MEMORY = 15, 9
_ADLER_PRIME = 65521

_threads = WorkerThreads("png", min(16, os.cpu_count() or 1))


def fast_png(picture_HWC: np.ndarray) -> bytes:
    """A PNG of a uint8 picture, RGB or RGBA, made by several threads.

    Every row is stored as the difference to the row above ("Up"); bands of rows are deflated by zlib-ng on their own
    and joined at byte boundaries (`Z_SYNC_FLUSH`). Source: PNG specification, sections 9.2 and 11.2.
    Raises ValueError for another dtype or shape.
    """
    rows_HN, _ = _rows(picture_HWC)
    height = len(rows_HN)

    def deflated(first: int) -> tuple[bytes, int, int]:
        """(compressed rows of a band, their checksum, their bytes)."""
        band_HN = rows_HN[first : first + ROWS_PER_BAND]
        filtered_HN = np.empty((len(band_HN), 1 + rows_HN.shape[1]), np.uint8)
        filtered_HN[:, 0] = _UP
        np.subtract(band_HN[0], rows_HN[first - 1] if first else 0, out=filtered_HN[0, 1:])
        np.subtract(band_HN[1:], band_HN[:-1], out=filtered_HN[1:, 1:])
        compressor = zlib_ng.compressobj(_FAST_LEVEL, zlib.DEFLATED, -_WINDOW, _MEMORY)
        content = compressor.compress(filtered_HN)
        content += compressor.flush(zlib.Z_FINISH if first + ROWS_PER_BAND >= height else zlib.Z_SYNC_FLUSH)
        return content, zlib_ng.adler32(filtered_HN), filtered_HN.size

    firsts = range(0, height, ROWS_PER_BAND)
    bands = list(map(deflated, firsts) if len(firsts) == 1 else _threads.pool().map(deflated, firsts))
    checksum = 1
    for _, of_band, size in bands:
        checksum = _joined_adler32(checksum, of_band, size)
    # The zlib header for a window of 32 KiB at the fastest level, the bands, the checksum of what they hold.
    stream = b"".join([b"\x78\x01", *(content for content, _, _ in bands), struct.pack(">I", checksum)])
    return _png(picture_HWC.shape, stream)


def small_png(picture_HWC: np.ndarray) -> bytes:
    """A PNG of a uint8 picture, RGB or RGBA, as small as Pillow's in a quarter to a half of the time, on one thread.

    Of a row itself and its differences to the left and to the row above, the one with the least sum of magnitudes is
    stored. Source: PNG specification, sections 9.2, 11.2 and 12.8. Raises ValueError for another dtype or shape.
    """
    rows_HN, channels = _rows(picture_HWC)
    filtered_HN = np.empty((len(rows_HN), 1 + rows_HN.shape[1]), np.uint8)
    _filter_by_least_sum(rows_HN, channels, filtered_HN)
    return _png(picture_HWC.shape, deflate.zlib_compress(filtered_HN, _SMALL_LEVEL))


def _rows(picture_HWC: np.ndarray) -> tuple[np.ndarray, int]:
    """The picture's rows of bytes (H, N), and the bytes of a pixel."""
    if picture_HWC.dtype != np.uint8 or picture_HWC.ndim != 3 or picture_HWC.shape[2] not in _COLOR_TYPES:
        raise ValueError(
            f"expected a uint8 (H, W, 3 or 4) picture, got {picture_HWC.dtype} {picture_HWC.shape}"
        )
    height, width, channels = picture_HWC.shape
    return np.ascontiguousarray(picture_HWC).reshape(height, width * channels), channels


@kernel
def _filter_by_least_sum(rows_HN, channels, filtered_HN):
    """Every row of filtered_HN (H, 1 + N): the filter's number and the filtered bytes."""
    height, size = rows_HN.shape
    above_N = np.zeros(size, np.uint8)
    sub_N = np.empty(size, np.uint8)
    up_N = np.empty(size, np.uint8)
    for row in range(height):
        row_N = rows_HN[row]
        sub_N[:channels] = row_N[:channels]
        for n in range(channels, size):
            sub_N[n] = row_N[n] - row_N[n - channels]
        none_sum, sub_sum, up_sum = np.uint32(0), np.uint32(0), np.uint32(0)
        for n in range(size):
            up_N[n] = row_N[n] - above_N[n]
            # A byte of 200 is a difference of -56.
            none_sum += np.uint32(min(row_N[n], np.uint8(-row_N[n])))
            sub_sum += np.uint32(min(sub_N[n], np.uint8(-sub_N[n])))
            up_sum += np.uint32(min(up_N[n], np.uint8(-up_N[n])))
        if none_sum <= sub_sum and none_sum <= up_sum:
            filtered_HN[row, 0] = _NONE
            filtered_HN[row, 1:] = row_N
        elif sub_sum <= up_sum:
            filtered_HN[row, 0] = _SUB
            filtered_HN[row, 1:] = sub_N
        else:
            filtered_HN[row, 0] = _UP
            filtered_HN[row, 1:] = up_N
        above_N = row_N


def _joined_adler32(first: int, second: int, second_size: int) -> int:
    """The checksum of two pieces from those of each. Source: RFC 1950, section 8.2: sums of bytes and of sums."""
    low = (first & 0xFFFF) + (second & 0xFFFF) - 1
    high = (first >> 16) + (second >> 16) + second_size * ((first & 0xFFFF) - 1)
    return (high % _ADLER_PRIME) << 16 | low % _ADLER_PRIME


def _png(shape_HWC: tuple[int, ...], stream: bytes) -> bytes:
    height, width, channels = shape_HWC
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", *_chunk(b"IHDR", header), *_chunk(b"IDAT", stream), *_chunk(b"IEND", b"")]
    )


def _chunk(kind: bytes, content: bytes) -> tuple[bytes, ...]:
    checksum = zlib_ng.crc32(content, zlib_ng.crc32(kind))
    return struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)
