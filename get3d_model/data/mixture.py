"""Several data sets as one: a small file names them and says how often each is drawn.

    resolution: 256            # optional; the smallest of the data sets' unless given
    sources:
      - path: rendered/cars    # a data set in either layout, relative to this file
        weight: 3              # share of the images drawn, relative to the others; 1 unless given
      - path: rendered/buses
        name: buses            # in front of its shapes' ids; the folder's name unless given
        category: bus          # of the published layout, where there are several
        label: bus             # the class of all its shapes, instead of those of the data set

Shape legend: N samples, S sources
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from get3d_model.data.base import SampleSource, SampleTable
from get3d_model.errors import InputError

MIXTURE_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class MixtureEntry:
    """One data set of a mixture; see above."""

    path: Path
    weight: float
    name: str
    category: str | None = None
    label: str | None = None


def is_mixture(path: Path) -> bool:
    return Path(path).suffix.lower() in MIXTURE_SUFFIXES and Path(path).is_file()


def read_mixture(path: Path) -> tuple[list[MixtureEntry], int | None]:
    """(entries, resolution or None). Raises InputError for a file that is no mixture."""
    path = Path(path)
    try:
        value = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"{path} cannot be read ({' '.join(str(error).split())}); see docs/data.md"
        ) from error

    def check(condition: bool, message: str) -> None:
        if not condition:
            raise InputError(f"{path}: {message}; see docs/data.md")

    check(isinstance(value, dict) and isinstance(value.get("sources"), list), "lists no `sources`")
    check(
        not value.keys() - {"sources", "resolution"},
        f"unknown {sorted(map(str, value.keys() - {'sources', 'resolution'}))}",
    )
    known = {field.name for field in fields(MixtureEntry)}
    texts = ("name", "category", "label")
    entries: list[MixtureEntry] = []
    for number, entry in enumerate(value["sources"]):
        check(
            isinstance(entry, dict) and isinstance(entry.get("path"), str), f"source {number} has no `path`"
        )
        unknown = entry.keys() - known
        check(
            not unknown, f"source {number} has an unknown {sorted(map(str, unknown))}; known: {sorted(known)}"
        )
        for key in texts:
            # YAML takes the synset 03001627 for a number, and an octal one.
            text = entry.get(key, "text")
            check(
                isinstance(text, str) and bool(text),
                f"the {key} of source {number} is {text!r}, not a text; put it in quotes as it stands there",
            )
        weight = entry.get("weight", 1.0)
        check(
            isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 < weight < 1e9,
            f"the weight of source {number} must be positive",
        )
        folder = path.parent / entry["path"]
        check(
            folder.suffix.lower() not in MIXTURE_SUFFIXES or folder.is_dir(),
            f"source {number} is {entry['path']}: a mixture holds folders of data sets and no other mixtures",
        )
        name = entry.get("name", folder.name)
        bad = not name or any(letter in "./" or ord(letter) < 32 for letter in name)
        check(not bad, f"{name!r} cannot stand in front of shape ids; give source {number} a `name`")
        check(name not in [other.name for other in entries], f"two sources are {name!r}; give one a `name`")
        entries.append(MixtureEntry(folder, float(weight), name, entry.get("category"), entry.get("label")))
    check(bool(entries), "lists no `sources`")
    resolution = value.get("resolution")
    check(
        resolution is None
        or (isinstance(resolution, int) and not isinstance(resolution, bool) and resolution > 0),
        "`resolution` must be a number",
    )
    return entries, resolution


class MixtureSource:
    """Several data sets as one `SampleSource`; shape ids are `<name>-<id>`, splits of one name are joined.

    weights_S: of the sources. source_N: which of `sources` an image of the table comes from.
    """

    layout = "mixture"
    manifest = None  # its data sets have theirs

    def __init__(self, path: Path, open_source: Callable[..., SampleSource]) -> None:
        """Raises InputError for a bad file, and as `open_source` for its data sets.

        open_source: called with a folder and the keyword `category`.
        """
        self.path = Path(path)
        entries, resolution = read_mixture(self.path)
        self.sources = [open_source(entry.path, category=entry.category) for entry in entries]
        self.weights_S = np.array([entry.weight for entry in entries])
        smallest = min(source.resolution for source in self.sources)
        self.resolution = resolution or smallest
        for entry, source in zip(entries, self.sources, strict=True):
            if source.resolution % self.resolution:
                raise InputError(
                    f"{entry.path} has images of {source.resolution} pixels, no multiple of {self.resolution};"
                    f" render it again, or set `resolution` in {self.path}"
                )
        rows: list[tuple[str, int, int, str]] = []
        self.splits: dict[str, list[str]] = {}
        self.groups: dict[str, str] = {}
        for number, (entry, source) in enumerate(zip(entries, self.sources, strict=True)):
            labels = source.table.labels
            rows += [
                (f"{entry.name}-{shape_id}", number, shape, entry.label or labels[shape])
                for shape, shape_id in enumerate(source.table.shape_ids)
            ]
            for split, ids in source.splits.items():
                self.splits.setdefault(split, []).extend(f"{entry.name}-{shape_id}" for shape_id in ids)
            self.groups |= {
                f"{entry.name}-{shape_id}": f"{entry.name}-{group}"
                for shape_id, group in source.groups.items()
            }
        self.table, self.source_N, self._index_N = _joined(
            sorted(rows), [source.table for source in self.sources]
        )

    def stored_resolution(self, index: int) -> int:
        return self.sources[int(self.source_N[index])].stored_resolution(int(self._index_N[index]))

    def read_png(self, index: int) -> bytes:
        return self.sources[int(self.source_N[index])].read_png(int(self._index_N[index]))

    def describe(self, index: int) -> str:
        return self.sources[int(self.source_N[index])].describe(int(self._index_N[index]))


def _joined(
    rows: list[tuple[str, int, int, str]], tables: list[SampleTable]
) -> tuple[SampleTable, np.ndarray, np.ndarray]:
    """(table, source N, index into the source's own table N) of shapes (id, source, its number there, label)."""
    if len({row[0] for row in rows}) != len(rows):
        raise InputError("two data sets have a shape of the same name; give one of them another `name`")
    starts = [np.searchsorted(table.shape_N, np.arange(len(table.shape_ids) + 1)) for table in tables]
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("shape", "source", "index", "view", "rotation", "elevation")
    }
    for number, (_, source, shape, _) in enumerate(rows):
        own = np.arange(starts[source][shape], starts[source][shape + 1])
        columns: dict[str, Any] = {
            "shape": np.full(len(own), number, np.int32),
            "source": np.full(len(own), source, np.int64),
            "index": own,
            "view": tables[source].view_N[own],
            "rotation": tables[source].rotation_deg_N[own],
            "elevation": tables[source].elevation_deg_N[own],
        }
        for name, column in columns.items():
            parts[name].append(column)
    joined = {name: np.concatenate(columns) for name, columns in parts.items()}
    table = SampleTable(
        tuple(row[0] for row in rows),
        joined["shape"],
        joined["view"],
        joined["rotation"],
        joined["elevation"],
        tuple(row[3] for row in rows),
    )
    return table, joined["source"], joined["index"]


def sample_weights(source: SampleSource, index_N: np.ndarray, balance_groups: bool) -> np.ndarray | None:
    """How often each of these images of the table is to be drawn, N float64 of any scale; None where all are equal.

    balance_groups: the shapes of a group (near-duplicates: equal vertices, or a group that was given) share the weight
    of one shape. The weights of a mixture hold between its data sets whatever is inside them.
    """
    weight_N = np.ones(len(index_N))
    table = source.table
    if balance_groups and source.groups:
        names = [source.groups.get(shape_id, shape_id) for shape_id in table.shape_ids]
        number = {name: i for i, name in enumerate(sorted(set(names)))}
        group_N = np.array([number[name] for name in names])[table.shape_N[index_N]]
        # Of those that are drawn from: a copy in another split takes nothing away.
        shapes_G = np.zeros(len(number))
        for shape in np.unique(table.shape_N[index_N]):
            shapes_G[number[names[shape]]] += 1
        weight_N /= shapes_G[group_N]
    if isinstance(source, MixtureSource):
        source_N = source.source_N[index_N]
        totals_S = np.bincount(source_N, weight_N, len(source.sources))
        weight_N *= (source.weights_S / np.maximum(totals_S, 1e-300))[source_N]
    return None if np.allclose(weight_N, weight_N[0], rtol=1e-12, atol=0.0) else weight_N
