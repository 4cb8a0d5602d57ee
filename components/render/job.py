"""The render step: a folder of meshes in, a versioned data set of pictures out.

Shapes are rendered in worker processes, each to a *piece* that is found again by a key of all that decides
its pixels. So a stopped run continues, an unchanged shape is never rendered twice, and the files do not
depend on the number of workers. When all pieces are there they are put together and moved into place.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from components.render.archive import is_archive, unpacked
from components.render.assembly import (
    Inputs,
    assemble,
    read_rejected,
    reuse_images,
    write_rejected,
    write_split_lists,
)
from components.render.folder import OutputFolder, Plan, open_output, part_folder
from components.render.inputs import (
    MeshFile,
    Splits,
    find_meshes,
    find_split_files,
    split_shapes,
)
from components.render.memory import worker_limit
from components.render.mesh_files import inspect_meshes
from components.render.pool import run_tasks
from components.render.progress import Progress, log
from components.render.settings import PixelSettings, RenderOptions
from components.render.tables import match_table, read_table
from components.render.worker import (
    RENDERER_VERSION,
    RenderFunction,
    RenderTask,
    make_handler,
    make_mesh_renderer,
)
from get3d_model.data.manifest import MANIFEST_NAME, Manifest, Part, SourceMesh, write_manifest
from get3d_model.data.parts import REJECTED_NAME
from get3d_model.data.published import check_folder_names
from get3d_model.data.shard_source import check_shards
from get3d_model.data.splits import split_groups
from get3d_model.errors import InputError
from get3d_model.files import clear_disk_errors, sha256_file, sha256_json


class RenderStopped(KeyboardInterrupt):
    """A signal ended the run; what is rendered is kept. signal_number: which one."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("rendering stopped; the same command continues where it was")
        self.signal_number = int(signal_number)


@dataclass(frozen=True)
class RenderReport:
    """What a run did. rendered: shapes rendered now; reused: shapes whose images were there already."""

    out: Path
    shapes: int
    images: int
    rejected: dict[str, str]
    rendered: int
    reused: int
    up_to_date: bool
    seconds: float


def render_dataset(
    options: RenderOptions,
    make_renderer: Callable[[PixelSettings], RenderFunction] = make_mesh_renderer,
    renderer_version: str = RENDERER_VERSION,
) -> RenderReport:
    """Renders all meshes of a folder into `options.out`, or this job's part of them into a folder in there.

    make_renderer: a picklable top-level function, called once in every worker process.
    A mesh that is damaged, crashes its worker or takes too long is set aside in rejected.json. Interrupted,
    a run leaves what it has in OUT/.partial, and the same call continues there.
    Raises InputError for a missing or empty mesh folder, bad split files, a foreign OUT, or when nothing
    could be rendered, or when the disk is full; RenderStopped for Ctrl-C and SIGTERM.
    """
    begin = time.monotonic()
    out = part_folder(options.out, options.shard)
    advice = "make space or access; the same command continues where it was"
    with _interruptible(), clear_disk_errors(out, advice), contextlib.ExitStack() as stack:
        if is_archive(options.meshes):
            folder = stack.enter_context(open_output(out))
            meshes = stack.enter_context(unpacked(options.meshes, folder.partial / "input"))
            stack.callback(folder.tidy)
            options = replace(options, meshes=meshes)
            inputs = _find_inputs(options, renderer_version)
        else:
            inputs = _find_inputs(options, renderer_version)
            folder = stack.enter_context(open_output(out))
        finished = None if options.overwrite else folder.finished()
        if finished is not None and _is_current(folder, finished, options, inputs, renderer_version):
            splits = _split(options, inputs, set(finished.shapes))
            current = replace(
                finished,
                splits=splits.lists,
                part=inputs.part,
                shapes={shape_id: inputs.sources[shape_id] for shape_id in finished.shapes},
                rejected={shape_id: inputs.sources[shape_id] for shape_id in finished.rejected},
            )
            if current != finished:
                _retire_merged(options)
                write_split_lists(folder.out, options, splits.lists)
                write_manifest(folder.out, current)
                log("only the splits or the meshes of other parts have changed; the images stay")
            folder.clean()
            counts = f"{len(finished.shapes)} shapes, {len(finished.rejected)} set aside"
            log(f"{out} is up to date: {counts}")
            return RenderReport(
                folder.out,
                shapes=len(finished.shapes),
                images=len(finished.shapes) * finished.views_per_shape,
                rejected=read_rejected(folder.out),
                rendered=0,
                reused=len(finished.shapes),
                up_to_date=True,
                seconds=time.monotonic() - begin,
            )
        texts = {shape_id: source.texts for shape_id, source in inputs.sources.items()}
        run = sha256_json(
            [options.describe(), options.category_written, options.overwrite, inputs.keys, texts]
        )
        plan = folder.begin(run, set() if options.overwrite else set(inputs.keys.values()))
        rendered = 0
        if plan is None:
            if finished is not None:
                reuse_images(folder, finished, options, inputs, renderer_version)
            plan, rendered = _render(folder, options, inputs, make_renderer)
            folder.save_plan(run, plan)
        splits = _split(options, inputs, set(plan.accepted))
        for note in splits.notes:
            log(f"warning: {note}")
        manifest = assemble(folder, options, inputs, plan, splits.lists, renderer_version)
        _retire_merged(options)
        folder.commit()
    return RenderReport(
        folder.out,
        shapes=len(plan.accepted),
        images=len(plan.accepted) * manifest.views_per_shape,
        rejected=plan.rejected,
        rendered=rendered,
        reused=len(plan.accepted) - rendered,
        up_to_date=False,
        seconds=time.monotonic() - begin,
    )


def _find_inputs(options: RenderOptions, renderer_version: str) -> Inputs:
    meshes = find_meshes(options.meshes)
    split_files = find_split_files(options.meshes, options.splits)
    used = (
        f"splits from {', '.join(str(path) for path in split_files.values())}"
        if split_files
        else (f"no split files, so a share of {options.val_fraction:g} is held out for validation")
    )
    log(f"{len(meshes)} meshes in {options.meshes}; {used}")
    if options.writes_published:
        check_folder_names((mesh.shape_id for mesh in meshes), "shorten the mesh's path or use shards")
    # Checked now, so that a shape in two lists does not show after hours of rendering.
    split_shapes(meshes, meshes, split_files, options.val_fraction, options.pixels.seed)
    tables = _read_tables(options, meshes)
    listed, part = meshes, None
    if not options.shard.whole:
        meshes = [mesh for mesh in listed if options.shard.owns(mesh.shape_id)]
        part = _describe_part(options, listed, split_files)
        log(f"shard {options.shard.index}/{options.shard.count}: {len(meshes)} of them")
    facts = inspect_meshes(meshes, options.meshes)
    sources = {
        mesh.shape_id: SourceMesh(
            mesh.relative,
            facts[mesh.shape_id].sha256,
            facts[mesh.shape_id].geometry,
            tables["group"].get(mesh.shape_id),
            tables["label"].get(mesh.shape_id, mesh.label),
            tables["caption"].get(mesh.shape_id),
        )
        for mesh in meshes
    }
    keys = {
        shape_id: options.pixels_of(source.class_label(options.category_written)).key(
            renderer_version, shape_id, source.sha256
        )
        for shape_id, source in sources.items()
    }
    notes = {shape_id: list(fact.notes) for shape_id, fact in facts.items() if fact.notes}
    if notes:
        first = min(notes)
        log(f"warning: files are missing for {len(notes)} shapes, such as {first!r}: {notes[first][0]}")
    return Inputs(meshes, sources, keys, split_files, listed, part, notes)


def _read_tables(options: RenderOptions, meshes: list[MeshFile]) -> dict[str, dict[str, str]]:
    """What the files of `options.tables` say, by kind and shape id."""
    tables: dict[str, dict[str, str]] = {"caption": {}, "label": {}, "group": {}}
    for kind, path in options.tables.items():
        tables[kind], unknown = match_table(read_table(path, kind), meshes)
        if unknown:
            log(f"warning: {len(unknown)} names in {path} have no mesh, such as {unknown[0]!r}")
    return tables


def _describe_part(options: RenderOptions, listed: list[MeshFile], split_files: dict[str, Path]) -> Part:
    # By name: were every job to read every mesh, the jobs would do little else.
    names = [mesh.relative for mesh in listed]
    lists = {name: sha256_file(path) for name, path in split_files.items()}
    rule = None if lists else {"val_fraction": options.val_fraction, "seed": options.pixels.seed}
    return Part(options.shard.index, options.shard.count, sha256_json([names, lists]), rule)


def _retire_merged(options: RenderOptions) -> None:
    """A manifest of the whole must not describe a part that is about to change."""
    if not options.shard.whole:
        (options.out / MANIFEST_NAME).unlink(missing_ok=True)


def _split(options: RenderOptions, inputs: Inputs, accepted: set[str]) -> Splits:
    rendered = [mesh for mesh in inputs.meshes if mesh.shape_id in accepted]
    groups = split_groups({shape_id: source.marks for shape_id, source in inputs.sources.items()})
    return split_shapes(
        rendered, inputs.listed, inputs.split_files, options.val_fraction, options.pixels.seed, groups
    )


def _is_current(
    folder: OutputFolder, finished: Manifest, options: RenderOptions, inputs: Inputs, renderer_version: str
) -> bool:
    """Whether OUT holds what this run would make, the splits aside."""
    if options.retry_rejected and finished.rejected:
        return False
    if finished.settings != options.describe() or finished.renderer_version != renderer_version:
        return False
    before = {**finished.shapes, **finished.rejected}
    # Groups and the like decide only the splits; texts stand in the shards.
    described = [
        {
            key: (mesh.source, mesh.sha256, mesh.texts if finished.shards else {})
            for key, mesh in meshes.items()
        }
        for meshes in (before, inputs.sources)
    ]
    if described[0] != described[1] or finished.category != options.category_written:
        return False
    try:
        if finished.shards:
            check_shards(folder.out, finished)
    except InputError:
        return False
    return not options.writes_published or (folder.out / "img" / options.category).is_dir()


def _render(
    folder: OutputFolder,
    options: RenderOptions,
    inputs: Inputs,
    make_renderer: Callable[[PixelSettings], RenderFunction],
) -> tuple[Plan, int]:
    """Renders the shapes that have no piece yet. Returns the plan and how many were rendered."""
    tasks = [
        RenderTask(
            mesh.shape_id,
            mesh.path,
            folder.piece(inputs.keys[mesh.shape_id]),
            options.max_triangles,
            options.meshes,
            options.pixels_of(inputs.sources[mesh.shape_id].class_label(options.category_written)).scale,
        )
        for mesh in inputs.meshes
        if not folder.piece(inputs.keys[mesh.shape_id]).exists()
    ]
    if len(tasks) < len(inputs.meshes):
        log(f"the images of {len(inputs.meshes) - len(tasks)} shapes are there already")
    rejected: dict[str, str] = {}
    handler = functools.partial(make_handler, options.pixels, make_renderer)
    memory = options.max_memory or worker_limit(options.worker_count)
    results = run_tasks(tasks, handler, options.worker_count, options.mesh_timeout_s, memory)
    with Progress(len(tasks), "shape") as progress, contextlib.closing(results):
        for result in results:
            if result.reason is not None:
                rejected[result.task.shape_id] = result.reason
                log(f"set aside: {result.task.path}: {result.reason}")
            progress.advance()
    accepted = [mesh.shape_id for mesh in inputs.meshes if mesh.shape_id not in rejected]
    # A part may be empty, or hold only the damaged ones; `get3d data merge` looks at the whole.
    if not accepted and options.shard.whole:
        report = folder.partial / REJECTED_NAME
        write_rejected(report, inputs, rejected)
        first = min(rejected)
        raise InputError(
            f"none of the {len(rejected)} meshes could be rendered; the first is"
            f" {inputs.sources[first].source}: {rejected[first]}; all reasons are in {report}"
        )
    return Plan(accepted, rejected), len(tasks) - len(rejected)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Turns Ctrl-C, and SIGTERM as a scheduler sends it, into `RenderStopped`."""
    received = [signal.SIGINT]

    def interrupt(signum: int, frame: object) -> None:
        received[0] = signal.Signals(signum)
        raise KeyboardInterrupt

    # Only the main thread may set handlers; elsewhere whoever owns the process deals with signals.
    main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, interrupt) if main else None
    try:
        yield
    except KeyboardInterrupt:
        raise RenderStopped(received[0]) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, previous)
