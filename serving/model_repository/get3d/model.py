"""The GET3D model that Triton's Python backend runs: seeds in, textured mesh files out.

The requests of a dynamic batch pass through the networks together; all its meshes are unwrapped at a time, on several
threads, while they are textured and encoded one after the other. A bad or cancelled request fails alone.

A seed gives the same bytes whenever it is sampled alone. In a larger batch the networks round differently
(about 1e-5 in a vertex), which can also move texture seams; max_batch_size 1 avoids that.

Shape legend: B meshes of a batch
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils

from get3d_model.errors import InputError
from get3d_model.inference import Sampler, Shapes, Styles, with_extras
from get3d_model.limits import MIN_TEXTURE_RESOLUTION
from get3d_model.mesh_io import mesh_bytes
from get3d_model.rendering.texture_bake import PendingBake
from serving import metric_names
from serving.codec import (
    FORMAT_SUFFIX,
    INPUTS,
    SampleMetadata,
    SampleRequest,
    SampleResponse,
    decode_requests,
    encode_responses,
)
from serving.repository import read_model_card


class TritonPythonModel:
    """The interface Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the checkpoint that stands beside this file, and compiles everything with a first mesh."""
        self.name, self.version = args["model_name"], args["model_version"]
        model_config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / self.version
        card = read_model_card(folder)
        self.defaults = card.defaults
        torch.set_num_threads(_threads(model_config))
        self.sampler = Sampler.load(folder, _device(args))
        if self.sampler.identity.sha256 != card.checkpoint_sha256:
            raise InputError(f"{folder}: the weights are not those of the model card; export the model again")
        self.metrics = _Metrics({"model": self.name, "version": self.version})
        mesh = self.sampler.generate([0], 1.0, MIN_TEXTURE_RESOLUTION)[0]
        for file_format in FORMAT_SUFFIX:
            mesh_bytes(mesh, file_format)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request, in order; never raises."""
        self.metrics.count(metric_names.REQUESTS, len(requests))
        rows_by_request: dict[int, list[SampleRequest]] = {}
        responses: list[Any] = [None] * len(requests)
        for index, request in enumerate(requests):
            try:
                rows_by_request[index] = [
                    self._with_defaults(row) for row in decode_requests(_arrays(request))
                ]
            except Exception as error:
                responses[index] = self._failed(error)
        if rows_by_request:
            every = [row for rows in rows_by_request.values() for row in rows]
            try:
                batch = self._run_networks(every)
                texturing = self.sampler.texturing(
                    batch.shapes, range(len(every)), [row.texture_resolution for row in every]
                )
            except Exception as error:
                # Whatever stops the networks stops all of the batch.
                for index in rows_by_request:
                    responses[index] = self._failed(error)
            else:
                first = 0
                with texturing as bakes:
                    for index, rows in rows_by_request.items():
                        own = bakes[first : first + len(rows)]
                        responses[index] = self._respond(requests[index], rows, batch, first, own)
                        first += len(rows)
        return responses

    def _with_defaults(self, row: SampleRequest) -> SampleRequest:
        missing = {name: value for name, value in vars(self.defaults).items() if getattr(row, name) is None}
        return replace(row, **missing)

    def _run_networks(self, rows: list[SampleRequest]) -> _Batch:
        milliseconds: dict[str, float] = {}
        with self.metrics.stage("networks", milliseconds):
            shapes = self.sampler.shapes(self._styles(rows))
            empty_B = shapes.empty_B.tolist()  # waits for the device, so that the time is the networks' own
        return _Batch(shapes, empty_B, milliseconds)

    def _styles(self, rows: list[SampleRequest]) -> Styles:
        """The styles of all rows; one pass of the mapping networks for each psi that occurs."""
        by_psi: dict[float, list[int]] = {}
        for index, row in enumerate(rows):
            by_psi.setdefault(row.truncation_psi, []).append(index)
        parts = [self.sampler.styles([rows[i].seed for i in indices], psi) for psi, indices in by_psi.items()]
        order = (
            torch.tensor([i for indices in by_psi.values() for i in indices])
            .argsort()
            .to(self.sampler.device)
        )
        return Styles(
            torch.cat([part.w_geo_BD for part in parts])[order],
            torch.cat([part.w_tex_BD for part in parts])[order],
        )

    def _respond(
        self, request: Any, rows: list[SampleRequest], batch: _Batch, first: int, bakes: list[PendingBake]
    ) -> Any:
        answers = []
        for offset, (row, bake) in enumerate(zip(rows, bakes, strict=True)):
            if request.is_cancelled():
                self.metrics.count_error("cancelled")
                return _error("cancelled by the client", pb_utils.TritonError.CANCELLED)
            try:
                answers.append(self._finish(row, batch, first + offset, bake))
            except Exception as error:
                return self._failed(error)
        self.metrics.count(metric_names.MESHES, len(answers))
        self.metrics.count(metric_names.EMPTY_MESHES, sum(answer.metadata.empty for answer in answers))
        arrays = encode_responses(answers)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in arrays.items()])

    def _finish(self, row: SampleRequest, batch: _Batch, index: int, bake: PendingBake) -> SampleResponse:
        milliseconds = dict(batch.milliseconds)
        with self.metrics.stage("texture", milliseconds):
            mesh = with_extras(bake.finish(), self.sampler.extras(row.seed, row.truncation_psi))
        with self.metrics.stage("encode", milliseconds):
            content = mesh_bytes(mesh, row.file_format)
        identity = self.sampler.identity
        return SampleResponse(
            content,
            SampleMetadata(
                seed=row.seed,
                truncation_psi=row.truncation_psi,
                texture_resolution=row.texture_resolution,
                file_format=row.file_format,
                vertices=len(mesh.vertices_V3),
                faces=len(mesh.faces_F3),
                empty=batch.empty_B[index],
                bytes=len(content),
                model=identity.name,
                version=self.version,
                kimg=identity.kimg,
                checkpoint_sha256=identity.sha256,
                batch_size=len(batch.empty_B),
                milliseconds=milliseconds,
            ),
        )

    def _failed(self, error: Exception) -> Any:
        if isinstance(error, InputError):
            self.metrics.count_error("invalid")
            return _error(str(error), pb_utils.TritonError.INVALID_ARG)
        self.metrics.count_error("internal")
        pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
        reason = " ".join(str(error).split())[:200]
        return _error(
            f"{type(error).__name__}: {reason}; see the server's log", pb_utils.TritonError.INTERNAL
        )


class _Batch:
    """What the networks made of a batch."""

    def __init__(self, shapes: Shapes, empty_B: list[bool], milliseconds: dict[str, float]) -> None:
        self.shapes = shapes
        self.empty_B = empty_B
        self.milliseconds = milliseconds


class _Metrics:
    """The counters of `metric_names`, all present from the start so that their rates are defined."""

    def __init__(self, labels: dict[str, str]) -> None:
        counter, histogram = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.HISTOGRAM
        # The families are kept, because a metric dies with its family.
        self._families = {
            name: pb_utils.MetricFamily(name=name, description=description, kind=kind)
            for name, description, kind in (
                (metric_names.REQUESTS, "Requests that reached the model", counter),
                (metric_names.ERRORS, "Requests without an answer, by reason", counter),
                (metric_names.MESHES, "Meshes delivered", counter),
                (metric_names.EMPTY_MESHES, "Delivered meshes whose field had no surface", counter),
                (metric_names.STAGE_SECONDS, "Duration of the stages of sampling", histogram),
            )
        }
        plain = (metric_names.REQUESTS, metric_names.MESHES, metric_names.EMPTY_MESHES)
        self._counters = {name: self._families[name].Metric(labels=labels) for name in plain}
        self._errors = {
            reason: self._families[metric_names.ERRORS].Metric(labels={**labels, "reason": reason})
            for reason in metric_names.ERROR_REASONS
        }
        self._stages = {
            stage: self._families[metric_names.STAGE_SECONDS].Metric(
                labels={**labels, "stage": stage}, buckets=list(metric_names.STAGE_BUCKETS_S)
            )
            for stage in metric_names.STAGES
        }

    def count(self, name: str, amount: int) -> None:
        if amount:
            self._counters[name].increment(amount)

    def count_error(self, reason: str) -> None:
        self._errors[reason].increment(1)

    @contextmanager
    def stage(self, name: str, milliseconds: dict[str, float]) -> Iterator[None]:
        """Observes the duration of the block and adds it to `milliseconds`."""
        start = time.perf_counter()
        yield
        duration_s = time.perf_counter() - start
        self._stages[name].observe(duration_s)
        milliseconds[name] = round(duration_s * 1000.0, 3)


def _arrays(request: Any) -> dict[str, Any]:
    tensors = {spec.name: pb_utils.get_input_tensor_by_name(request, spec.name) for spec in INPUTS}
    return {name: tensor.as_numpy() for name, tensor in tensors.items() if tensor is not None}


def _error(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _device(args: dict[str, str]) -> torch.device:
    """The device of this instance: Triton turns KIND_AUTO into GPU where it sees one."""
    if args["model_instance_kind"] == "GPU":
        return torch.device("cuda", int(args["model_instance_device_id"]))
    return torch.device("cpu")


def _threads(model_config: dict[str, Any]) -> int:
    """Torch threads of this instance: its share of the CPUs this process may use."""
    instances = sum(group.get("count", 1) for group in model_config["instance_group"])
    return max(1, _usable_cpus() // max(1, instances))


def _usable_cpus() -> int:
    """CPUs by affinity and, in a container, by the control group's quota (more would be throttled)."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, int(quota) // int(period)))
