"""Requests in, files out: what the served model does between Triton's call and its answer. Knows nothing of Triton.

On a CPU every row has a worker of its own, from its networks to its encoded file, whatever batch it came with: the next
batch is welcome before the last rows are done, and where there is none, these get the idle workers for their textures.
On a GPU all rows of a dynamic batch are worked on together: networks run row after row without waiting for the host,
extraction runs once for all, and the workers unwrap, texture and encode. A row's bytes depend neither on its company nor
on the number of workers (see `get3d_model.stable_sampler`).
Before every stage a row of a request that was cancelled, or took too long, stops; a bad request fails alone.

Shape legend: T points
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from get3d_model.cameras import turntable
from get3d_model.decimation import decimated
from get3d_model.errors import InputError
from get3d_model.inference import Shapes, Styles
from get3d_model.limits import MIN_TEXTURE_RESOLUTION
from get3d_model.mesh_io import mesh_bytes
from get3d_model.mesh_topology import is_closed
from get3d_model.png import small_png
from get3d_model.rendering.texture_bake import find_texels, to_byte_tensor
from get3d_model.stable_sampler import StableSampler
from get3d_model.types import ColoredMesh, Mesh, TexturedMesh
from serving.allocator import keep_freed_memory
from serving.codec import (
    COLORED_FORMATS,
    FORMAT_SUFFIX,
    MAX_RESPONSE_BYTES,
    SampleMetadata,
    SampleRequest,
    SampleResponse,
    check_size,
)
from serving.drift import DriftCounter, measured, rendered
from serving.jobs import Job, Row, Share, State
from serving.latent_rows import class_number, styles_of
from serving.repository import ModelCard
from serving.tensors import MIN_TRIANGLES

PREVIEW_DEFAULTS = {
    "preview_resolution": 256,
    "preview_azimuth_deg": 30.0,
    "preview_elevation_deg": 18.0,
    "preview_frames": 1,
}
Observe = Callable[[str, float], None]
Answered = Callable[[int, "list[SampleResponse] | BaseException"], None]


class Engine:
    """Samples with `sampler` on `workers` threads.

    defaults: for the fields of `SampleRequest` that a request leaves out. model_version: for the metadata.
    observe: called with (stage, seconds), from any thread. row_by_row: whether every row has its networks on a worker,
    which is for CPUs; None: by the device. drift: counts what the meshes are like; None: nobody does.
    """

    def __init__(
        self,
        sampler: StableSampler,
        defaults: dict[str, Any],
        model_version: str,
        workers: int,
        observe: Observe = lambda stage, seconds: None,
        row_by_row: bool | None = None,
        drift: DriftCounter | None = None,
    ) -> None:
        self.drift = drift
        self.sampler = sampler
        self.defaults = {**PREVIEW_DEFAULTS, "deliver": "mesh", "color": "texture", **defaults}
        self.version = model_version
        self.workers = workers
        self.observe = observe
        self.row_by_row = sampler.device.type == "cpu" if row_by_row is None else row_by_row
        self._share = Share(workers)
        self._rows = ThreadPoolExecutor(workers, "rows", initializer=_bind, initargs=(sampler.device,))
        # One picture at a time: a rasteriser's context on a GPU takes no two threads.
        self._pictures = threading.Lock()

    def warm_up(self) -> None:
        """Compiles everything that requests may ask for. Raises what they would."""
        classes = {"class_name": "0"} if self.sampler.generator.num_classes else {}
        common = {"seed": 0, "texture_resolution": MIN_TEXTURE_RESOLUTION, **classes}
        rows = [SampleRequest(file_format=name, **common) for name in FORMAT_SUFFIX]
        rows += [SampleRequest(file_format=name, color="vertex", **common) for name in COLORED_FORMATS]
        rows.append(SampleRequest(target_triangles=MIN_TRIANGLES, **common))
        if self.sampler.rasterizer is not None:
            rows.append(SampleRequest(deliver="latent,preview", **common))
        for outcome in self.run([Job([row]) for row in rows]):
            if isinstance(outcome, Exception):
                raise outcome

    def close(self) -> None:
        self._share.wait(0)
        self._rows.shutdown(wait=True)

    def run(self, jobs: Sequence[Job]) -> list[list[SampleResponse] | Exception]:
        """The answers of every job, or what it failed with; never raises for a job."""
        answered: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self.begin(jobs, lambda index, outcome: answered.put((index, outcome)))
        outcomes = dict(answered.get() for _ in jobs)
        return [outcomes[index] for index in range(len(jobs))]

    def begin(self, jobs: Sequence[Job], answered: Answered) -> None:
        """Works on the jobs, and returns when others are welcome: on a CPU as soon as its workers have no more than
        their next rows to do, on a GPU at the end. answered: called with (place of the job, its answers or what it
        failed with) once for each, from any thread."""
        started = time.monotonic()
        states = [State(job, started + job.time_limit_s) for job in jobs]
        rows = []
        for index, state in enumerate(states):
            accepted = self._accepted(state)
            if accepted:
                rows += accepted
            else:
                answered(index, state.outcome)
        places = {id(state): index for index, state in enumerate(states)}
        batch = list(rows)
        if not self.row_by_row:
            try:
                rows = self._run_networks(rows)
            except (
                Exception
            ) as error:  # whatever stops the networks, such as a lack of memory, stops all of the batch
                for state in states:
                    state.error = state.error or error
                rows = []
        going_on = {id(row) for row in rows}
        self._share.begin(len(rows))
        for row in batch:
            state = row.state
            told = partial(answered, places[id(state)])
            if id(row) in going_on:
                self._rows.submit(self._finish, row, len(rows), told)
            elif state.row_is_done():
                told(state.outcome)
        self._share.wait(self.workers if self.row_by_row else 0)

    def _accepted(self, state: State) -> list[Row]:
        try:
            rows = [
                Row(state, index, self._with_defaults(request))
                for index, request in enumerate(state.job.rows)
            ]
        except Exception as error:
            state.error = error
            return []
        state.answers = [None] * len(rows)
        return rows

    def _with_defaults(self, request: SampleRequest) -> SampleRequest:
        filled = replace(
            request,
            **{name: value for name, value in self.defaults.items() if getattr(request, name) is None},
        )
        check_size(filled)
        if filled.delivers("preview") and self.sampler.rasterizer is None:
            raise InputError(
                "this server has no rasteriser, so it makes no previews; leave preview out of deliver"
            )
        class_number(self.sampler, filled)
        return filled

    def _run_networks(self, rows: list[Row]) -> list[Row]:
        """Networks and extraction of a whole batch on a GPU; the rows that go on, with the shapes that they need."""
        shapeless = [row for row in rows if not row.request.needs_shape]
        rows = [row for row in rows if row.request.needs_shape]
        if not rows:
            return shapeless
        alive, styles = [], []
        with self._stage("networks", rows):
            for row in rows:
                try:
                    row.state.check("networks")
                    styles.append(styles_of(self.sampler, row.request))
                    alive.append(row)
                except Exception as error:
                    row.state.error = row.state.error or error
            if not alive:
                return shapeless
            geometry, planes_tex, ws_tex = self.sampler.networks(
                Styles(torch.cat([s.w_geo_BD for s in styles]), torch.cat([s.w_tex_BD for s in styles]))
            )
            if self.sampler.device.type == "cuda":
                torch.cuda.synchronize(self.sampler.device)  # so that the time is the networks' own
        with self._stage("extraction", alive), torch.no_grad():
            meshes = self.sampler.generator.synthesis.extractor.surface(geometry).meshes
            shapes = Shapes(meshes, geometry.empty_B, planes_tex, ws_tex)
            for index, row in enumerate(alive):
                row.shapes = shapes.single(index)
        return shapeless + alive

    def _finish(self, row: Row, batch_size: int, told: Callable[[Any], None]) -> None:
        """Everything of one row, on a worker; tells what has become of its job when it was the last one."""
        state = row.state
        try:
            with torch.no_grad():
                state.answers[row.index] = self._answer(row, batch_size)
        except BaseException as error:
            # The other rows of the request stop, too.
            state.error = state.error or error
        try:
            if state.row_is_done():
                told(state.outcome)
        finally:
            self._share.done()

    def _answer(self, row: Row, batch_size: int) -> SampleResponse:
        request, sampler = row.request, self.sampler
        latents = (None, None)
        if row.shapes is None:
            row.state.check("networks")
            with self._stage("networks", [row]):
                styles = styles_of(sampler, request)
                if request.needs_shape:
                    geometry, planes_tex, ws_tex = sampler.networks(styles)
            if request.needs_shape:
                row.state.check("extraction")
                with self._stage("extraction", [row]):
                    meshes = sampler.generator.synthesis.extractor.surface(geometry).meshes
                    row.shapes = Shapes(meshes, geometry.empty_B, planes_tex, ws_tex)
        elif request.delivers("latent"):
            styles = styles_of(sampler, request)
        if request.delivers("latent"):
            latents = tuple(w[0].float().cpu().numpy() for w in (styles.w_geo_BD, styles.w_tex_BD))
        previews = self._previews(row) if request.delivers("preview") else ()
        content, facts = b"", {"vertices": 0, "faces": 0}
        if request.delivers("mesh"):
            content, facts = self._mesh(row)
        identity = sampler.identity
        metadata = SampleMetadata(
            seed=_listed(request.seed),
            truncation_psi=request.truncation_psi,
            texture_resolution=request.texture_resolution,
            file_format=request.file_format,
            empty=None if row.shapes is None else bool(row.shapes.empty_B[0]),
            bytes=len(content),
            model=identity.name,
            version=self.version,
            kimg=identity.kimg,
            checkpoint_sha256=identity.sha256,
            batch_size=batch_size,
            milliseconds=row.milliseconds,
            color=request.color,
            class_name=self._class_name(request),
            seed_tex=_listed(request.seed_tex),
            **facts,
        )
        return SampleResponse(content, metadata, previews, *latents)

    def _mesh(self, row: Row) -> tuple[bytes, dict[str, Any]]:
        """(file, what the metadata says of the mesh)."""
        request = row.request
        mesh = full = row.shapes.meshes.to_host()[0]
        if request.target_triangles is not None:
            row.state.check("decimation")
            with self._stage("decimation", [row]):
                mesh = decimated(full, request.target_triangles)
        colored = self._textured if request.color == "texture" else self._colored
        result = replace(colored(row, mesh), extras=self._extras(request))
        row.state.check("encode")
        with self._stage("encode", [row]):
            content = mesh_bytes(result, request.file_format)
            if len(content) > MAX_RESPONSE_BYTES:
                raise InputError(
                    f"the {request.file_format} has {len(content) >> 20} MiB, more than {MAX_RESPONSE_BYTES >> 20}; "
                    "lower target_triangles or texture_resolution"
                )
            facts = {
                "vertices": len(result.vertices_V3),
                "faces": len(result.faces_F3),
                "watertight": is_closed(mesh),
                "triangles_before": None if mesh is full else len(full.faces_F3),
            }
        if self.drift is not None and self.drift.wants(request):
            self.drift.see(measured(self.sampler, row.shapes, 0, full, self._share.threads()))
            if self.drift.wants_render():
                with self._pictures:
                    self.drift.see(rendered(self.sampler, row.shapes))
        return content, facts

    def _textured(self, row: Row, mesh: Mesh) -> TexturedMesh:
        resolution = row.request.texture_resolution
        row.state.check("atlas")
        with self._stage("atlas", [row]):
            unwrapped = self.sampler.atlas.unwrap(mesh, resolution, self._share.threads())
            needed = find_texels(unwrapped, resolution, self.sampler.device, self._share.threads())
        row.state.check("texture")
        with self._stage("texture", [row]):
            texture_HH3 = needed.texture(self._colors(row, needed.points_T3, self._share.threads()))
        return TexturedMesh(
            unwrapped.mesh.vertices_V3, unwrapped.mesh.faces_F3, unwrapped.uvs_W2, texture_HH3
        )

    def _colored(self, row: Row, mesh: Mesh) -> ColoredMesh:
        row.state.check("texture")
        with self._stage("texture", [row]):
            points_V3 = torch.from_numpy(mesh.vertices_V3).to(self.sampler.device)
            color_V3 = self._colors(row, points_V3, self._share.threads()).cpu().numpy()
        return ColoredMesh(mesh.vertices_V3, mesh.faces_F3, color_V3)

    def _colors(self, row: Row, points_T3: Tensor, threads: int) -> Tensor:
        """The texture field at points on the sampler's device, uint8."""
        if not len(points_T3):
            return torch.zeros(0, 3, dtype=torch.uint8, device=points_T3.device)
        return to_byte_tensor(self.sampler.point_colors(row.shapes, 0, points_T3, threads))

    def _previews(self, row: Row) -> tuple[bytes, ...]:
        request, sampler = row.request, self.sampler
        orbit = sampler.config.cameras.orbit
        cameras = turntable(
            request.preview_frames,
            math.radians(90.0 - request.preview_elevation_deg),
            math.radians(request.preview_azimuth_deg),
            orbit.radius,
            math.radians(orbit.field_of_view_deg),
        )
        pictures = []
        for index in range(request.preview_frames):
            row.state.check("preview")
            with self._stage("preview", [row]):
                camera = cameras[index : index + 1].to(sampler.device)
                with self._pictures:
                    rgba_1HW4 = sampler.picture(row.shapes, camera, request.preview_resolution)
                pictures.append(small_png(rgba_1HW4[0]))
        return tuple(pictures)

    def _extras(self, request: SampleRequest) -> dict[str, Any]:
        """What the file says about itself; for a plain seed, what every sampler writes."""
        number = class_number(self.sampler, request)
        seed = request.seed if isinstance(request.seed, int) else 0
        extras = self.sampler.extras(seed, request.truncation_psi, number)
        if request.seed is None:
            del extras["seed"]
        elif isinstance(request.seed, tuple):
            extras |= {"seed": list(request.seed), "weights": list(request.weights)}
        if request.seed_tex is not None:
            extras["texture_seed"] = _listed(request.seed_tex)
        return extras

    def _class_name(self, request: SampleRequest) -> str | None:
        number, names = class_number(self.sampler, request), self.sampler.identity.class_names
        if number is None:
            return None
        return names[number] if names else str(number)

    @contextmanager
    def _stage(self, name: str, rows: Sequence[Row]) -> Iterator[None]:
        """Observes the duration of the block, and adds it to the rows' own."""
        start = time.perf_counter()
        yield
        duration_s = time.perf_counter() - start
        self.observe(name, duration_s)
        for row in rows:
            row.milliseconds[name] = round(row.milliseconds.get(name, 0.0) + duration_s * 1000.0, 3)


def load_engine(
    folder: Path,
    card: ModelCard,
    version: str,
    device: torch.device,
    workers: int,
    observe: Observe = lambda stage, seconds: None,
    drift: DriftCounter | None = None,
) -> Engine:
    """The engine of a version folder that an export wrote. Raises InputError."""
    _bind(device)
    keep_freed_memory()
    # The workers are the threads: one operation on several would only wait for its slowest.
    torch.set_num_threads(1)
    sampler = StableSampler.load_exported(folder, device)
    if sampler.identity.sha256 != card.checkpoint_sha256:
        raise InputError(f"{folder}: the weights are not those of the model card; export the model again")
    return Engine(sampler, vars(card.defaults), version, workers, observe, drift=drift)


def _listed(seed: int | tuple[int, ...] | None) -> int | list[int] | None:
    """As JSON has it."""
    return list(seed) if isinstance(seed, tuple) else seed


def _bind(device: torch.device) -> None:
    """Makes `device` the calling thread's own, which kernels are launched on."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
