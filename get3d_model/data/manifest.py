"""`manifest.json`: what a rendered data set holds. Written last: a folder without it is not finished."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from get3d_model.errors import InputError
from get3d_model.files import write_json_atomic

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
# The class of shapes that nothing tells apart.
ONE_CLASS = "shapes"


@dataclass(frozen=True)
class StoredFile:
    """A file of the data set. file: path relative to the data set, with forward slashes."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardEntry(StoredFile):
    """One tar. samples: number of images. shapes: ids, in the order they are stored."""

    samples: int
    shapes: list[str]


@dataclass(frozen=True)
class SourceMesh:
    """The mesh a shape came from.

    source: path relative to the mesh folder. sha256: of the file and of the files it names (textures ...).
    geometry: equal for shapes with the same vertices, empty where nothing is known of them. group: shapes that
    a split must keep together. label: the shape's class, None for the first folder of `source`.
    caption: a text about the shape.
    """

    source: str
    sha256: str
    geometry: str = ""
    group: str | None = None
    label: str | None = None
    caption: str | None = None

    def class_label(self, category: str | None) -> str:
        """The name of the shape's class; `category` is the whole data set's."""
        folder, slash, _ = self.source.partition("/")
        return self.label or (folder if slash else category or ONE_CLASS)

    @property
    def texts(self) -> dict[str, str]:
        """What stands beside the camera of every image."""
        texts = {"label": self.label, "caption": self.caption}
        return {name: text for name, text in texts.items() if text is not None}

    @property
    def marks(self) -> list[str]:
        """For `split_groups`."""
        marks = {"geometry": self.geometry or None, "group": self.group}
        return [f"{kind}/{mark}" for kind, mark in marks.items() if mark is not None]


@dataclass(frozen=True)
class Part:
    """Which part of a larger data set a folder holds; see `parts.py`.

    index, count: this part's number, from 0, and how many there are.
    inputs_sha256: of the list of all mesh files and of the split files; all parts must agree on it.
    split_rule: `val_fraction` and `seed` of a split by hash, which depends on the shapes of all parts; None when
        files said which shape goes where.
    """

    index: int
    count: int
    inputs_sha256: str
    split_rule: dict[str, Any] | None


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    resolution: pixels; views_per_shape: images of every shape; category: a name, or None.
    settings: the render settings, as the render step wrote them.
    renderer_version: changes when the same settings give other pixels.
    shapes, rejected: source meshes by shape id. splits: shape ids by split name.
    shards: empty when only the published layout was written. index: the sample index beside the shards.
    part: None for a data set that is complete in itself.
    """

    resolution: int
    views_per_shape: int
    category: str | None
    settings: dict[str, Any]
    renderer_version: str
    shapes: dict[str, SourceMesh]
    splits: dict[str, list[str]]
    shards: list[ShardEntry]
    index: StoredFile | None
    rejected: dict[str, SourceMesh] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    part: Part | None = None

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        if self.part is None:
            del value["part"]
        for kind in ("shapes", "rejected"):
            value[kind] = {
                shape_id: {name: entry for name, entry in mesh.items() if entry or name == "sha256"}
                for shape_id, mesh in value[kind].items()
            }
        return value


def read_manifest(data_dir: Path) -> Manifest:
    """Reads `data_dir/manifest.json`. Raises InputError when it is missing, damaged or of another version."""
    path = Path(data_dir) / MANIFEST_NAME
    if path.parent.is_file():
        raise InputError(
            f"{data_dir} is a file, where the folder of one rendered data set is needed; of a mixture give one of its"
            " sources"
        )
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; run `get3d render` until it finishes, or, for pictures from elsewhere,"
            " `get3d data convert --to shards`"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); render the data set again") from error
    version = value.get("format_version") if isinstance(value, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version!r}, this program reads {FORMAT_VERSION};"
            " render the data set again"
        )
    try:
        value["shards"] = [ShardEntry(**entry) for entry in value["shards"]]
        value["index"] = None if value["index"] is None else StoredFile(**value["index"])
        for key in ("shapes", "rejected"):
            value[key] = {shape_id: SourceMesh(**entry) for shape_id, entry in value[key].items()}
        if value.get("part") is not None:
            value["part"] = Part(**value["part"])
        manifest = Manifest(**value)
        files = [entry.file for entry in (*manifest.shards, *([manifest.index] if manifest.index else []))]
        outside = [
            name for name in (*files, *manifest.splits) if name.startswith("/") or ".." in name.split("/")
        ]
        if outside:
            raise TypeError(f"{outside[0]!r} lies outside of the data set")
        return manifest
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); render the data set again") from error


def write_manifest(data_dir: Path, manifest: Manifest) -> None:
    write_json_atomic(Path(data_dir) / MANIFEST_NAME, manifest.to_json())
