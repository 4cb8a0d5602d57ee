"""The GET3D model that Triton's Python backend runs: requests in, textured mesh files out.

What it does with them is in `serving.engine`; here are Triton's requests, errors and metrics.
"""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from collections import deque
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils

from get3d_model.errors import InputError
from get3d_model.version import package_version
from serving import metric_names
from serving.codec import INPUTS, SampleResponse, decode_requests, encode_responses
from serving.drift import PROBE_SEED, DriftCounter, DriftReference, read_drift
from serving.engine import Engine, load_engine
from serving.jobs import Job, Stopped
from serving.recent import Recent
from serving.repository import read_model_card
from serving.tensors import REFUSALS

REMEMBERED_ROWS = 4096
MAX_REFUSALS = 1000
"""That one request can tell of; a client that made numbers up would still spoil no more than that."""


class TritonPythonModel:
    """The interface Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads what stands beside this file, and compiles everything with first meshes."""
        version = args["model_version"]
        folder = Path(args["model_repository"]) / version
        card = read_model_card(folder)
        self.time_limit_s = card.limits.time_limit_s
        reference = read_drift(folder)
        labels = {"model": args["model_name"], "version": version}
        build = {
            "package": package_version(),
            "torch": torch.__version__,
            "checkpoint": card.checkpoint_sha256[:12],
        }
        self.metrics = _Metrics(labels, card.limits.queue_size, build, reference)
        workers = _workers(json.loads(args["model_config"]))
        drift = None if reference is None else DriftCounter(reference, self.metrics.count_bin)
        self.engine: Engine = load_engine(
            folder, card, version, _device(args), workers, self.metrics.observe_stage, drift
        )
        self.asked = Recent(REMEMBERED_ROWS)
        self.engine.warm_up()
        self.metrics.discard()

    def execute(self, requests: list[Any]) -> None:
        """Every request gets its response as soon as it is there, from whichever thread; never raises.

        Returns when other requests are welcome, which on a CPU is before the last response: no core waits for the
        end of a batch.
        """
        started = time.perf_counter()
        self.metrics.count(metric_names.REQUESTS, len(requests))
        self.metrics.count(metric_names.QUEUE_REJECTIONS, sum(map(_refusals, requests)))
        jobs, senders = [], []
        for request in requests:
            sender = request.get_response_sender()
            try:
                jobs.append(
                    Job(decode_requests(_arrays(request)), request.is_cancelled, self._limit_s(request))
                )
                senders.append(sender)
            except Exception as error:
                self._answer(sender, error, started)
        if jobs:
            rows = [row for job in jobs for row in job.rows]
            self.metrics.observe(metric_names.BATCH_ROWS, len(rows))
            repeated = [row.seed != PROBE_SEED and not self.asked.is_new(row) for row in rows]
            self.metrics.count(metric_names.REPEATED_ROWS, sum(repeated))
            self.engine.begin(jobs, lambda index, outcome: self._answer(senders[index], outcome, started))

    def finalize(self) -> None:
        self.engine.close()

    def _limit_s(self, request: Any) -> float:
        """The request's own `timeout` (Triton's parameter, microseconds) where it is shorter than the served limit."""
        own_s = request.timeout() / 1e6
        return min(own_s, self.time_limit_s) if own_s > 0 else self.time_limit_s

    def _answer(self, sender: Any, outcome: list[SampleResponse] | BaseException, started: float) -> None:
        # Counted before the client has its answer, and may ask for the metrics.
        response = self._response(outcome)
        self.metrics.finished(time.perf_counter() - started)
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _response(self, outcome: list[SampleResponse] | BaseException) -> Any:
        try:
            if isinstance(outcome, BaseException):
                return self._failed(outcome)
            arrays = encode_responses(outcome)
            answer = pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, array) for name, array in arrays.items()]
            )
        except Exception as error:
            return self._failed(error)
        self.metrics.count(metric_names.MESHES, sum(bool(row.mesh) for row in outcome))
        self.metrics.count(metric_names.EMPTY_MESHES, sum(bool(row.metadata.empty) for row in outcome))
        for row in outcome:
            if row.mesh:
                self.metrics.observe(metric_names.TRIANGLES, row.metadata.faces)
        sizes = (len(row.mesh) + sum(map(len, row.previews)) for row in outcome)
        self.metrics.count(metric_names.RESPONSE_BYTES, sum(sizes))
        return answer

    def _failed(self, error: BaseException) -> Any:
        if isinstance(error, InputError):
            self.metrics.count_error("invalid")
            return _error(str(error), pb_utils.TritonError.INVALID_ARG)
        if isinstance(error, Stopped):
            self.metrics.count_error(error.reason)
            return _error(str(error), pb_utils.TritonError.CANCELLED)
        self.metrics.count_error("internal")
        pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
        reason = " ".join(str(error).split())[:200]
        return _error(
            f"{type(error).__name__}: {reason}; see the server's log", pb_utils.TritonError.INTERNAL
        )


class _Metrics:
    """The metrics of `metric_names`, all present from the start so that their rates are defined. For any thread."""

    def __init__(
        self,
        labels: dict[str, str],
        queue_limit: int,
        build: dict[str, str],
        reference: DriftReference | None,
    ) -> None:
        family = pb_utils.MetricFamily
        kinds = {"counter": family.COUNTER, "gauge": family.GAUGE, "histogram": family.HISTOGRAM}
        # Triton's metrics take one thread at a time: two together bring the server down.
        self._one_at_a_time = threading.Lock()
        self._waiting: deque[tuple[str, float]] = deque()
        self._bins_waiting: deque[tuple[str, str]] = deque()
        # The families are kept, because a metric dies with its family.
        self._families = {
            name: pb_utils.MetricFamily(name=name, description=description, kind=kinds[kind])
            for name, (kind, description) in metric_names.TABLE.items()
        }
        plain = (
            metric_names.REQUESTS, metric_names.MESHES, metric_names.EMPTY_MESHES, metric_names.RESPONSE_BYTES,
            metric_names.QUEUE_REJECTIONS, metric_names.REPEATED_ROWS, metric_names.QUEUE_LIMIT, metric_names.SHM_SIZE,
            metric_names.SHM_USED,
        )  # fmt: skip
        self._plain = {name: self._families[name].Metric(labels=labels) for name in plain}
        for name, buckets in (
            (metric_names.BATCH_ROWS, metric_names.BATCH_BUCKETS),
            (metric_names.REQUEST_SECONDS, metric_names.REQUEST_BUCKETS_S),
            (metric_names.TRIANGLES, metric_names.TRIANGLE_BUCKETS),
        ):
            self._plain[name] = self._families[name].Metric(labels=labels, buckets=list(buckets))
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
        self._bins = {} if reference is None else self._drift_bins(labels, reference)
        self._plain[metric_names.QUEUE_LIMIT].set(queue_limit)
        self._plain[metric_names.BUILD_INFO] = self._families[metric_names.BUILD_INFO].Metric(
            labels={**labels, **build}
        )
        self._plain[metric_names.BUILD_INFO].set(1)
        self._measure_shm()

    def _drift_bins(self, labels: dict[str, str], reference: DriftReference) -> dict[tuple[str, str], Any]:
        """The counters of the drift bins; the reference's shares stand beside them for good."""
        counters = {}
        self._shares = []
        for statistic in reference.edges:
            for number, share in zip(metric_names.DRIFT_BINS, reference.shares(statistic), strict=True):
                named = {**labels, "statistic": statistic, "bin": number}
                counters[statistic, number] = self._families[metric_names.SAMPLED].Metric(labels=named)
                gauge = self._families[metric_names.REFERENCE_SHARE].Metric(labels=named)
                gauge.set(share)
                self._shares.append(gauge)
        return counters

    def _measure_shm(self) -> None:
        try:
            disk = os.statvfs("/dev/shm")
        except OSError:
            return
        self._plain[metric_names.SHM_SIZE].set(disk.f_blocks * disk.f_frsize)
        self._plain[metric_names.SHM_USED].set((disk.f_blocks - disk.f_bfree) * disk.f_frsize)

    def finished(self, seconds: float) -> None:
        """A request took so long."""
        self.observe(metric_names.REQUEST_SECONDS, seconds)
        with self._one_at_a_time:
            self._measure_shm()
        self.flush()

    def count(self, name: str, amount: int) -> None:
        if amount:
            with self._one_at_a_time:
                self._plain[name].increment(amount)

    def observe(self, name: str, value: float) -> None:
        with self._one_at_a_time:
            self._plain[name].observe(value)

    def count_error(self, reason: str) -> None:
        with self._one_at_a_time:
            self._errors[reason].increment(1)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """`flush` passes it on."""
        self._waiting.append((stage, seconds))

    def count_bin(self, statistic: str, number: str) -> None:
        """`flush` passes it on."""
        self._bins_waiting.append((statistic, number))

    def discard(self) -> None:
        """Forgets what `flush` would pass on."""
        self._waiting.clear()
        self._bins_waiting.clear()

    def flush(self) -> None:
        with self._one_at_a_time:
            while self._waiting:
                stage, seconds = self._waiting.popleft()
                self._stages[stage].observe(seconds)
            while self._bins_waiting:
                self._bins[self._bins_waiting.popleft()].increment(1)


def _arrays(request: Any) -> dict[str, Any]:
    tensors = {spec.name: pb_utils.get_input_tensor_by_name(request, spec.name) for spec in INPUTS}
    return {name: tensor.as_numpy() for name, tensor in tensors.items() if tensor is not None}


def _refusals(request: Any) -> int:
    """How often the queue refused the client before, as it says itself; 0 for what makes no sense."""
    try:
        told = json.loads(request.parameters() or "{}").get(REFUSALS, 0)
    except (ValueError, AttributeError):
        return 0
    return min(told, MAX_REFUSALS) if isinstance(told, int) and told > 0 else 0


def _error(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _device(args: dict[str, str]) -> torch.device:
    """The device of this instance: Triton turns KIND_AUTO into GPU where it sees one."""
    if args["model_instance_kind"] == "GPU":
        return torch.device("cuda", int(args["model_instance_device_id"]))
    return torch.device("cpu")


def _workers(model_config: dict[str, Any]) -> int:
    """Worker threads of this instance: its share of the CPUs this process may use."""
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
