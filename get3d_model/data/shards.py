"""The shard format (WebDataset layout): tars of `<shape>_<view>.png` and `.json`, and their index.

Layout of a data set:
    manifest.json            see `manifest.py`; written last
    index.npy                where every image lies and its camera: a data set opens without reading the tars
    shards/000000.tar ...    all views of a shape lie in one tar, shapes in sorted order

A *piece* is the tar content of one shape, without the end-of-archive blocks; a shard is its pieces, one
after the other, and the end. So shapes are rendered in any order and the shards still have the same bytes.

Shape legend: N samples
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from get3d_model.data.base import View
from get3d_model.data.manifest import ShardEntry, StoredFile
from get3d_model.errors import InputError
from get3d_model.files import atomic_path, sha256_file
from get3d_model.png import small_png

INDEX_NAME = "index.npy"
# What may stand beside a camera: the shape's class and a text about it.
TEXTS = ("label", "caption")
# A tar should take about this many bytes, and never hold more images than this.
SHARD_BYTES = 2**29
SHARD_IMAGES = 10_000
# Of a picture in a tar. Our procedural vehicles take 0.6 (64 px), 0.3 (256 px) and 0.16 (1024 px) bytes per pixel; a
# texture that is a photograph takes more, and small pictures are limited by their number before.
_BYTES_PER_PIXEL = 0.5
_BYTES_PER_VIEW = 4 * tarfile.BLOCKSIZE  # two headers, the camera, padding
# One row per image, in the order of the tars. `shape` counts in the sorted ids of the manifest's shapes.
INDEX_DTYPE = np.dtype(
    [
        ("shard", "<u4"),
        ("offset", "<u8"),
        ("length", "<u4"),
        ("shape", "<u4"),
        ("view", "<u4"),
        ("rotation_deg", "<f8"),
        ("elevation_deg", "<f8"),
    ]
)


@dataclass(frozen=True)
class Member:
    """One image inside a tar: where its PNG bytes lie, and its camera."""

    shape_id: str
    view: int
    offset: int
    length: int
    rotation_deg: float
    elevation_deg: float


def shard_name(number: int) -> str:
    return f"shards/{number:06d}.tar"


def shapes_per_shard(views: int, resolution: int) -> int:
    """How many shapes of `views` images of `resolution` pixels make a tar of a good size.

    Few large files are what DVC, object stores and disks handle well. The number of shapes in the data set has
    no say, so that one that grows keeps its full tars. By calculation, for 600 000 views of 1024 pixels, 24 of each
    of 25 000 shapes: 12.6 MB a shape, 42 shapes a tar, 596 tars of at most 530 MB. The same at 256 pixels: 416
    shapes a tar (the limit of 10 000 images), 61 tars.
    """
    shape_bytes = views * (_BYTES_PER_PIXEL * resolution**2 + _BYTES_PER_VIEW)
    return max(1, min(int(SHARD_BYTES / shape_bytes), SHARD_IMAGES // views))


def member_stem(shape_id: str, view: int) -> str:
    return f"{shape_id}_{view:03d}"


def check_shape_id(shape_id: str) -> None:
    """A shape id must survive as a file name, and WebDataset ends a sample's key at the first dot."""
    if not shape_id or "." in shape_id or "/" in shape_id or any(ord(letter) < 32 for letter in shape_id):
        raise ValueError(f"shape id {shape_id!r} must be a file name without dots and slashes")


def encode_piece(shape_id: str, views: Iterable[View], radius: float, fov_deg: float) -> bytes:
    """The tar content of one shape's views: PNG and JSON of each; the same views give the same bytes."""
    encoded = ((small_png(view.rgba_HW4), view.rotation_deg, view.elevation_deg) for view in views)
    return encode_piece_files(shape_id, encoded, radius, fov_deg)


def encode_piece_files(
    shape_id: str, views: Iterable[tuple[bytes, float, float]], radius: float, fov_deg: float
) -> bytes:
    """As `encode_piece`, for (PNG bytes, rotation_deg, elevation_deg) of every view."""
    check_shape_id(shape_id)
    blocks: list[bytes] = []
    for number, (png, rotation_deg, elevation_deg) in enumerate(views):
        camera = {
            "shape": shape_id,
            "view": number,
            "rotation_deg": rotation_deg,
            "elevation_deg": elevation_deg,
            "radius": radius,
            "fov_deg": fov_deg,
        }
        stem = member_stem(shape_id, number)
        blocks += _tar_member(f"{stem}.png", png)
        blocks += _tar_member(f"{stem}.json", _json_line(camera))
    return b"".join(blocks)


def _tar_member(name: str, content: bytes) -> list[bytes]:
    # TarInfo's own defaults are the pinned header: mode 0644, owner 0, modification time 0.
    # PAX writes plain USTAR headers unless a name is too long for them or not ASCII.
    info = tarfile.TarInfo(name)
    info.size = len(content)
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return [header, content, bytes(-len(content) % tarfile.BLOCKSIZE)]


def write_shard(path: Path, pieces: Iterable[bytes]) -> None:
    """Writes the pieces and the end of the archive under a temporary name, then renames it to `path`."""
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        for piece in pieces:
            handle.write(piece)
        handle.write(bytes(2 * tarfile.BLOCKSIZE))
        handle.write(bytes(-handle.tell() % tarfile.RECORDSIZE))


def read_pieces(path: Path) -> Iterator[tuple[str, bytes]]:
    """(shape id, piece) of every shape in a shard, in stored order; one shape in memory at a time."""
    shape_id, blocks = None, []
    with tarfile.open(path, "r:") as archive:
        for info in archive:
            owner = _split_name(info.name)[0]
            if owner != shape_id and shape_id is not None:
                yield shape_id, b"".join(blocks)
                blocks = []
            shape_id = owner
            blocks += _tar_member(info.name, archive.extractfile(info).read())
    if shape_id is not None:
        yield shape_id, b"".join(blocks)


def decode_piece(piece: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    """The (PNG bytes, camera) of every view in a piece, in view order."""
    pngs, cameras = [], []
    with tarfile.open(fileobj=io.BytesIO(piece), mode="r:") as archive:
        for info in archive:
            content = archive.extractfile(info).read()
            if info.name.endswith(".png"):
                pngs.append(content)
            else:
                cameras.append(json.loads(content))
    return list(zip(pngs, cameras, strict=True))


def annotate_piece(piece: bytes, texts: Mapping[str, str]) -> bytes:
    """The piece with these texts, and no others, beside the camera of every view."""
    blocks: list[bytes] = []
    with tarfile.open(fileobj=io.BytesIO(piece), mode="r:") as archive:
        for info in archive:
            content = archive.extractfile(info).read()
            if info.name.endswith(".json"):
                camera = {key: value for key, value in json.loads(content).items() if key not in TEXTS}
                content = _json_line(camera | dict(texts))
            blocks += _tar_member(info.name, content)
    return b"".join(blocks)


def _json_line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, sort_keys=True) + "\n").encode()


def _split_name(name: str) -> tuple[str, str]:
    """(shape id, view) of a member's name."""
    shape_id, _, view = name.rpartition(".")[0].rpartition("_")
    return shape_id, view


def scan_tar(path: Path) -> list[Member]:
    """The images of a tar, as stored. Raises InputError for a damaged tar or an image without its camera."""
    images: dict[str, tuple[int, int]] = {}
    cameras: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                stem, _, suffix = info.name.rpartition(".")
                if suffix == "png":
                    images[stem] = (info.offset_data, info.size)
                elif suffix == "json":
                    cameras[stem] = json.loads(archive.extractfile(info).read())
    except (OSError, tarfile.TarError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); render the data set again") from error
    for stem in images.keys() ^ cameras.keys():
        lacks = "camera (.json)" if stem in images else "image (.png)"
        raise InputError(f"{path}: sample {stem} has no {lacks}; render the data set again")
    try:
        return [
            Member(
                str(cameras[stem]["shape"]),
                int(cameras[stem]["view"]),
                *images[stem],
                float(cameras[stem]["rotation_deg"]),
                float(cameras[stem]["elevation_deg"]),
            )
            for stem in images
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: a camera file is damaged ({error!r}); render the data set again"
        ) from error


def assemble_shards(
    root: Path,
    shape_ids: Sequence[str],
    read_piece: Callable[[str], bytes],
    shapes_per_shard: int,
    on_shard: Callable[[list[str]], None] = lambda shape_ids: None,
) -> tuple[list[ShardEntry], StoredFile]:
    """Writes all shards and the index of a data set below `root`; returns their manifest entries.

    read_piece: gives the piece of a shape id. on_shard: called with the ids of a shard once it is on disk.
    A shard that is there already is kept: it has its final name, so it is complete, and an interrupted
    call with the same arguments continues behind it.
    """
    ordered, entries = sorted(shape_ids), []
    for number, first in enumerate(range(0, len(ordered), shapes_per_shard)):
        ids = ordered[first : first + shapes_per_shard]
        path = Path(root) / shard_name(number)
        if not path.is_file():
            write_shard(path, (read_piece(shape_id) for shape_id in ids))
        on_shard(ids)
        entries.append(ShardEntry(shard_name(number), path.stat().st_size, sha256_file(path), 0, ids))
    index_N = build_index(root, [entry.file for entry in entries], ordered)
    samples = np.bincount(index_N["shard"], minlength=len(entries)).tolist()
    entries = [replace(entry, samples=count) for entry, count in zip(entries, samples, strict=True)]
    return entries, write_index(root, index_N)


def build_index(root: Path, shard_files: Sequence[str], shape_ids: Sequence[str]) -> np.ndarray:
    """The index rows (INDEX_DTYPE, N) of the tars; `shape_ids` are all ids of the data set, sorted."""
    position = {shape_id: i for i, shape_id in enumerate(shape_ids)}
    rows = [np.empty(0, INDEX_DTYPE)]
    for number, file in enumerate(shard_files):
        members = scan_tar(Path(root) / file)
        for member in members:
            if member.shape_id not in position:
                raise InputError(
                    f"{root}/{file} holds shape {member.shape_id!r}, which the manifest does not list;"
                    " render the data set again"
                )
        rows.append(index_rows(number, members, position))
    return np.concatenate(rows)


def index_rows(number: int, members: Sequence[Member], position: Mapping[str, int]) -> np.ndarray:
    """The index rows (INDEX_DTYPE, N) of shard `number`; position: places of the shapes in the sorted ids."""
    rows = [
        (
            number,
            member.offset,
            member.length,
            position[member.shape_id],
            member.view,
            member.rotation_deg,
            member.elevation_deg,
        )
        for member in members
    ]
    return np.array(rows, INDEX_DTYPE)


def write_index(root: Path, index_N: np.ndarray) -> StoredFile:
    """Writes the index of a data set and returns its manifest entry."""
    path = Path(root) / INDEX_NAME
    with atomic_path(path) as temporary:
        np.save(temporary, index_N, allow_pickle=False)
    return StoredFile(INDEX_NAME, path.stat().st_size, sha256_file(path))
