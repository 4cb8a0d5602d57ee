"""The published layout: loose PNG files and two camera arrays per shape.

    img/<category>/<shape id>/000.png ...                    RGBA
    camera/<category>/<shape id>/{rotation,elevation}.npy    degrees, one value per image

The category level may be absent. Source: the published data sets of GET3D (Gao et al. 2022).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from get3d_model.data.base import ONE_CLASS, View, table_from_rows
from get3d_model.data.manifest import Manifest
from get3d_model.data.splits import read_split_files, split_groups
from get3d_model.errors import InputError
from get3d_model.png import small_png

# As `category`: every category of the data set, each a class.
ALL_CATEGORIES = "*"
LONGEST_NAME = 255


class PublishedSource:
    """Access to the images of a data set in the published layout (a `SampleSource`)."""

    layout = "published"

    def __init__(
        self, path: Path, split_files: Mapping[str, Path] | None = None, category: str | None = None
    ) -> None:
        """split_files: one file of shape ids per split; without them every shape belongs to `train`.

        category: the folder below img/, `ALL_CATEGORIES`, or None where there is only one.
        Raises InputError when images and cameras do not pair up.
        """
        self.path = Path(path)
        self.manifest: Manifest | None = None
        # By shape id: (folder of its images, folder of its cameras).
        self._folders: dict[str, tuple[Path, Path]] = {}
        labels: dict[str, str] = {}
        for label, images, cameras in _category_folders(self.path, category):
            for shape_id, folders in _paired_folders(images, cameras):
                if shape_id in self._folders:
                    raise InputError(
                        f"{self._folders[shape_id][0]} and {folders[0]} are both shape {shape_id!r};"
                        " rename one, because shapes are known by their id"
                    )
                self._folders[shape_id], labels[shape_id] = folders, label
        rows = [row for shape_id in self._folders for row in self._shape_rows(shape_id)]
        self.table, _ = table_from_rows(rows, labels)
        self.resolution = self._first_size()
        self.groups: dict[str, str] = {}  # a manifest says more: `describe_by`
        self.splits = read_split_files(split_files) if split_files else {"train": list(self.table.shape_ids)}

    def describe_by(self, manifest: Manifest) -> None:
        """Takes splits, groups and classes from the manifest that `get3d render` has written beside the images."""
        self.manifest, self.splits = manifest, manifest.splits
        labels = dict(zip(self.table.shape_ids, self.table.labels, strict=True))
        known = {shape_id: mesh for shape_id, mesh in manifest.shapes.items() if shape_id in labels}
        self.groups = split_groups({shape_id: mesh.marks for shape_id, mesh in known.items()})
        labels |= {shape_id: mesh.class_label(labels[shape_id]) for shape_id, mesh in known.items()}
        self.table = replace(self.table, labels=tuple(labels.values()))

    def _shape_rows(self, shape_id: str) -> list[tuple[str, int, float, float]]:
        folder, cameras = self._folders[shape_id]
        views = []
        for path in sorted(folder.glob("*.png")):
            if not path.stem.isdigit():
                raise InputError(
                    f"{path} is not named by its view number (000.png, 001.png ...); rename or remove it"
                )
            views.append(int(path.stem))
        if not views:
            raise InputError(f"{folder} holds no PNG images; render this shape again or remove the folder")
        angles = {}
        for name in ("rotation", "elevation"):
            path = cameras / f"{name}.npy"
            if not path.is_file():
                raise InputError(f"{path} is missing, so the images in {folder} have no camera; restore it")
            try:
                angles[name] = np.atleast_1d(np.load(path, allow_pickle=False).astype(np.float64).squeeze())
            except (OSError, ValueError, EOFError) as error:
                raise InputError(
                    f"{path} cannot be read ({error}); restore it or render this shape again"
                ) from error
            if angles[name].ndim != 1 or len(angles[name]) != len(views):
                raise InputError(
                    f"{path} holds {angles[name].size} angles but {folder} holds {len(views)} images;"
                    " every image needs one camera: render this shape again"
                )
        if sorted(views) != list(range(len(views))):
            missing = min(set(range(len(views))) - set(views))
            raise InputError(f"{folder / f'{missing:03d}.png'} is missing; render this shape again")
        return [
            (shape_id, view, float(angles["rotation"][view]), float(angles["elevation"][view]))
            for view in sorted(views)
        ]

    def _first_size(self) -> int:
        path = self._file(0)
        try:
            with Image.open(path) as picture:
                return picture.size[0]
        except Exception as error:
            raise InputError(f"{path}: the image cannot be decoded ({error}); render it again") from error

    def _file(self, index: int) -> Path:
        shape_id = self.table.shape_ids[int(self.table.shape_N[index])]
        return self._folders[shape_id][0] / f"{int(self.table.view_N[index]):03d}.png"

    def stored_resolution(self, index: int) -> int:
        return self.resolution

    def read_png(self, index: int) -> bytes:
        try:
            return self._file(index).read_bytes()
        except OSError as error:
            raise InputError(f"{self.describe(index)} cannot be read ({error}); check the disk") from error

    def describe(self, index: int) -> str:
        return str(self._file(index))


def is_published(path: Path) -> bool:
    return (Path(path) / "img").is_dir()


def _subfolders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _paired_folders(images: Path, cameras: Path) -> Iterator[tuple[str, tuple[Path, Path]]]:
    """(shape id, (images, cameras)) of a category. Raises InputError for one without shapes, or without images."""
    shapes = _subfolders(images)
    if not shapes:
        raise InputError(f"{images} holds no shape folder with images; check the data path")
    for shape in _subfolders(cameras):
        if not (images / shape.name).is_dir():
            raise InputError(f"{shape} has cameras but no images; add {images / shape.name} or remove it")
    for shape in shapes:
        yield shape.name, (shape, cameras / shape.name)


def _category_folders(path: Path, category: str | None) -> list[tuple[str, Path, Path]]:
    """(name, images, cameras) of the categories to be read."""
    images, cameras = path / "img", path / "camera"
    for folder in (images, cameras):
        if not folder.is_dir():
            raise InputError(
                f"{folder} does not exist; the published layout needs img/ and camera/ side by side"
            )
    names: list[str] = [category] if category else []
    if category in (None, ALL_CATEGORIES):
        below = _subfolders(images)
        if any(next(folder.glob("*.png"), None) for folder in below):
            return [(ONE_CLASS, images, cameras)]
        if not below or (len(below) > 1 and category is None):
            found = ", ".join(folder.name for folder in below) or "nothing"
            raise InputError(
                f"{images} holds {found}; name the one category to be used, or train on all as"
                f" classes with model.num_classes: {len(below)}"
            )
        names = [folder.name for folder in below]
    for name in names:
        for folder in (images, cameras):
            if not (folder / name).is_dir():
                raise InputError(f"{folder / name} does not exist; check the category {name!r}")
    return [(name, images / name, cameras / name) for name in names]


def check_folder_names(names: Iterable[str], advice: str) -> None:
    """Raises InputError for what cannot be the name of a folder of this layout; `advice` ends the message."""
    for name in names:
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise InputError(f"the published layout cannot have a folder called {name!r}; {advice}")
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise InputError(
                f"the published layout cannot have a folder called {name!r}, longer than the {LONGEST_NAME} bytes of a"
                f" name; {advice}"
            )


def write_published_shape(root: Path, category: str, shape_id: str, views: Sequence[View]) -> None:
    """Writes one shape. Not atomic: callers write into a folder that gets its final name afterwards."""
    write_published_files(
        root,
        category,
        shape_id,
        (small_png(view.rgba_HW4) for view in views),
        [view.rotation_deg for view in views],
        [view.elevation_deg for view in views],
    )


def write_published_files(
    root: Path,
    category: str,
    shape_id: str,
    pngs: Iterable[bytes],
    rotation_deg: Sequence[float],
    elevation_deg: Sequence[float],
) -> None:
    """As `write_published_shape`, for images that are encoded already."""
    images = Path(root) / "img" / category / shape_id
    cameras = Path(root) / "camera" / category / shape_id
    for folder in (images, cameras):
        folder.mkdir(parents=True, exist_ok=True)
    for view, content in enumerate(pngs):
        (images / f"{view:03d}.png").write_bytes(content)
    np.save(cameras / "rotation.npy", np.asarray(rotation_deg, np.float64))
    np.save(cameras / "elevation.npy", np.asarray(elevation_deg, np.float64))
