"""From pieces to a data set, and back from a finished data set to the pieces that are still good."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from components.render.folder import OutputFolder, Plan
from components.render.inputs import MeshFile
from components.render.settings import PixelSettings, RenderOptions
from get3d_model.data.manifest import Manifest, Part, SourceMesh, write_manifest
from get3d_model.data.parts import NOTES_NAME, REJECTED_NAME, SPLITS_FOLDER
from get3d_model.data.published import write_published_files
from get3d_model.data.shards import annotate_piece, assemble_shards, decode_piece, read_pieces
from get3d_model.data.splits import SPLIT_NAMES, write_split_files
from get3d_model.files import sha256_file, write_bytes_atomic, write_json_atomic


@dataclass(frozen=True)
class Inputs:
    """The meshes of a run. keys: of each shape's images. split_files: empty for a split by hash.

    listed: all meshes of the folder, of which `meshes` are this job's. part: None when there is one job.
    notes: lines by shape id about what is missing in its files.
    """

    meshes: list[MeshFile]
    sources: dict[str, SourceMesh]
    keys: dict[str, str]
    split_files: dict[str, Path]
    listed: list[MeshFile]
    part: Part | None = None
    notes: dict[str, list[str]] = field(default_factory=dict)


def reuse_images(
    folder: OutputFolder, finished: Manifest, options: RenderOptions, inputs: Inputs, renderer_version: str
) -> None:
    """Takes the images of unchanged shapes out of the finished data set."""
    pixels = options.pixels
    same_pixels = all(finished.settings.get(name) == value for name, value in pixels.describe().items())
    if finished.renderer_version != renderer_version or not same_pixels:
        return
    wanted = {
        shape_id: folder.piece(key)
        for shape_id, key in inputs.keys.items()
        if shape_id in finished.shapes
        and _finished_pixels(finished, pixels, shape_id).key(
            renderer_version, shape_id, finished.shapes[shape_id].sha256
        )
        == key
        and not folder.piece(key).exists()
    }
    for stored in finished.shards:
        path = folder.out / stored.file
        # A shard that was damaged since is rendered again.
        if wanted.keys() & set(stored.shapes) and path.is_file() and sha256_file(path) == stored.sha256:
            for shape_id, piece in read_pieces(path):
                if shape_id in wanted:
                    write_bytes_atomic(wanted[shape_id], piece)


def _finished_pixels(finished: Manifest, pixels: PixelSettings, shape_id: str) -> PixelSettings:
    """`pixels` with the scale that the finished data set gave to the shape."""
    label = finished.shapes[shape_id].class_label(finished.category)
    return replace(pixels, scale=finished.settings.get("scales", {}).get(label, pixels.scale))


def write_rejected(path: Path, inputs: Inputs, rejected: dict[str, str]) -> None:
    entries = {
        shape_id: {"file": inputs.sources[shape_id].source, "reason": reason}
        for shape_id, reason in rejected.items()
    }
    write_json_atomic(path, entries)


def assemble(
    folder: OutputFolder,
    options: RenderOptions,
    inputs: Inputs,
    plan: Plan,
    splits: dict[str, list[str]],
    renderer_version: str,
) -> Manifest:
    """Puts the pieces together in the staging folder; its manifest comes last."""

    def publish_and_free(shape_ids: list[str]) -> None:
        # A piece that is gone was dealt with before an interruption.
        for path, shape_id in ((folder.piece(inputs.keys[shape_id]), shape_id) for shape_id in shape_ids):
            if path.exists():
                if options.writes_published:
                    _publish(folder.staged, options.category, shape_id, path.read_bytes())
                path.unlink()

    shards, index = [], None
    if options.writes_shards:
        shards, index = assemble_shards(
            folder.staged,
            plan.accepted,
            lambda shape_id: annotate_piece(
                folder.piece(inputs.keys[shape_id]).read_bytes(), inputs.sources[shape_id].texts
            ),
            options.shard_shapes,
            publish_and_free,
        )
    else:
        publish_and_free(plan.accepted)
    write_split_lists(folder.staged, options, splits)
    write_rejected(folder.staged / REJECTED_NAME, inputs, plan.rejected)
    if inputs.notes:
        write_json_atomic(folder.staged / NOTES_NAME, inputs.notes)
    manifest = Manifest(
        resolution=options.pixels.resolution,
        views_per_shape=options.pixels.views,
        category=options.category_written,
        settings=options.describe(),
        renderer_version=renderer_version,
        shapes={shape_id: inputs.sources[shape_id] for shape_id in plan.accepted},
        rejected={shape_id: inputs.sources[shape_id] for shape_id in plan.rejected},
        splits=splits,
        shards=shards,
        index=index,
        part=inputs.part,
    )
    write_manifest(folder.staged, manifest)
    return manifest


def _publish(root: Path, category: str, shape_id: str, piece: bytes) -> None:
    views = decode_piece(piece)
    write_published_files(
        root,
        category,
        shape_id,
        (png for png, _ in views),
        [camera["rotation_deg"] for _, camera in views],
        [camera["elevation_deg"] for _, camera in views],
    )


def write_split_lists(root: Path, options: RenderOptions, splits: dict[str, list[str]]) -> None:
    """The lists as files, as `--splits` reads them: in `splits`, those that name a shape.

    Other readers of the published layout know no manifest, so there they stand beside the images as well.
    """
    write_split_files(root / SPLITS_FOLDER, splits)
    if options.writes_published:
        for name in SPLIT_NAMES:
            if name in splits:
                content = "".join(f"{shape_id}\n" for shape_id in splits[name]).encode()
                write_bytes_atomic(root / f"{name}.txt", content)
            else:
                (root / f"{name}.txt").unlink(missing_ok=True)


def read_rejected(out: Path) -> dict[str, str]:
    """The reasons by shape id in a finished data set; empty when the file was removed."""
    path = Path(out) / REJECTED_NAME
    entries = json.loads(path.read_text()) if path.is_file() else {}
    return {shape_id: entry["reason"] for shape_id, entry in entries.items()}
