"""Parts of a training step as CUDA graphs: recorded at their first use, replayed with one call ever after.

A step launches thousands of kernels, many of a few microseconds; launching them one by one takes the host longer
than they run. Static buffers hold inputs, outputs and gradients; a replay overwrites what the last one left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from get3d_model.ops.side_by_side import lane_stream, recording_side_by_side
from get3d_model.structures import map_tensors, tensors_of
from get3d_model.training.runner import Early, Loss, Report, Started, leaf_of

T = TypeVar("T")
RECORDER, WATCHER = -1, -2
"""Indices of the streams that a lane is recorded on, and that waits for early gradients; its parts have those from 0 on."""


def _copy_into(static: Sequence[Any], given: Sequence[Any]) -> None:
    targets, sources = tensors_of(tuple(static)), tensors_of(tuple(given))
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source, non_blocking=True)


def _warm_up(run: Callable[[], object], beside: Callable[[], AbstractContextManager[None]]) -> None:
    """Libraries choose algorithms and allocate workspaces at a first run; not while recording."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # Algorithms are chosen by their time, so nothing runs beside them then.
        run()
        with beside():
            run()
    torch.cuda.current_stream().wait_stream(stream)
    # What ran here runs from the graph's own memory from now on.
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


@dataclass
class _Recording:
    """One graph from static inputs to static results. ready: recorded, in the middle of it, once early gradients are
    complete."""

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Any]
    parameters: Sequence[nn.Parameter] = ()
    parameter_gradients: Sequence[Tensor | None] = ()
    input_gradient: Tensor | None = None
    report_names: Sequence[str] = ()
    report_values: Tensor | None = None
    ready: torch.cuda.Event | None = None

    def replay(self, inputs: Sequence[Any]) -> Report:
        _copy_into(self.inputs, inputs)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.parameter_gradients, strict=True):
            parameter.grad = gradient
        values = self.report_values.clone().unbind()
        return dict(zip(self.report_names, values, strict=True))


@dataclass
class _Front:
    """A forward graph and the backward graph that continues from its outputs' gradients. ready: as in `_Recording`."""

    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph
    inputs: Sequence[Any]
    outputs: Any
    output_gradients: list[Tensor | None]
    parameters: Sequence[nn.Parameter]
    parameter_gradients: Sequence[Tensor | None]
    ready: torch.cuda.Event | None


@dataclass(frozen=True)
class _StartedFront:
    front: _Front
    outputs: Any
    early: Early | None

    def backward(self) -> None:
        given = [output.grad for output in tensors_of(self.outputs)]
        for target, gradient in zip(self.front.output_gradients, given, strict=True):
            if target is None:
                continue
            if gradient is None:
                target.zero_()
            else:
                target.copy_(gradient)
        self.front.backward.replay()
        for parameter, gradient in zip(self.front.parameters, self.front.parameter_gradients, strict=True):
            parameter.grad = gradient
        if self.early and self.front.ready:
            self.early.begin(self.front.ready)


@dataclass
class _Lane:
    """Memory and streams of recordings that are never replayed at the same time; those of two lanes may be.

    Libraries keep a workspace for every stream that they were recorded on, so two lanes share no stream either.
    """

    name: str
    side_by_side: bool
    pool: Any = field(default_factory=torch.cuda.graph_pool_handle)

    @contextmanager
    def recording(self, graph: torch.cuda.CUDAGraph) -> Iterator[None]:
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream(RECORDER)), self.beside():
            yield

    def stream(self, index: int) -> torch.cuda.Stream:
        return lane_stream(torch.device("cuda", torch.cuda.current_device()), self.name, index)

    def beside(self) -> AbstractContextManager[None]:
        return recording_side_by_side(self.name) if self.side_by_side else nullcontext()


@contextmanager
def _watching(
    parameters: Sequence[nn.Parameter], stream: torch.cuda.Stream, accumulated: bool
) -> Iterator[torch.cuda.Event | None]:
    """An event that every replay of what is recorded inside records as soon as it has the parameters' gradients; None
    without parameters.

    Parts of a recording have streams of their own; `stream` waits for each gradient on whichever it is made.
    accumulated: the pass leaves gradients in the parameters, instead of returning them.
    """
    if not parameters:
        yield None
        return
    # External: for waiting outside of the graph, not an edge of it.
    ready, missing = torch.cuda.Event(external=True), len(parameters)

    def arrived(_: Tensor) -> None:
        nonlocal missing
        stream.wait_stream(torch.cuda.current_stream())
        missing -= 1
        if missing == 0:
            ready.record(stream)

    hooks = [
        parameter.register_post_accumulate_grad_hook(arrived)
        if accumulated
        else parameter.register_hook(arrived)
        for parameter in parameters
    ]
    try:
        yield ready
    finally:
        for hook in hooks:
            hook.remove()
    assert not missing, f"{missing} of {len(parameters)} gradients did not come as they did before"
    # What is recorded has to end where it began.
    torch.cuda.current_stream().wait_stream(stream)


class GraphRunner:
    """The `Runner` of one CUDA device. Started parts may be replayed beside the other parts, but neither kind beside
    its own."""

    def __init__(self, side_by_side: bool = True) -> None:
        """side_by_side: independent parts of a recording run beside each other, which is faster and takes more memory."""
        self._fronts: dict[str, _Front] = {}
        self._recordings: dict[str, _Recording] = {}
        # Between the two halves of a started part other parts run, so its memory is its own. The others are complete
        # in themselves and run one after the other: they share theirs.
        self._front_lane = _Lane("fronts", side_by_side)
        self._shared_lane = _Lane("shared", side_by_side)

    def start(
        self,
        name: str,
        function: Callable[..., T],
        inputs: Sequence[Any],
        parameters: Sequence[nn.Parameter],
        early: Early | None = None,
    ) -> Started[T]:
        if name not in self._fronts:
            with torch.enable_grad():
                self._fronts[name] = self._record_front(function, inputs, list(parameters), early)
        front = self._fronts[name]
        _copy_into(front.inputs, inputs)
        front.forward.replay()
        differentiable = torch.is_grad_enabled()
        leaf = leaf_of if differentiable else Tensor.detach
        return _StartedFront(front, map_tensors(leaf, front.outputs), early)

    def gradients(
        self,
        name: str,
        loss: Loss,
        inputs: Sequence[Any],
        parameters: Sequence[nn.Parameter],
        early: Early | None = None,
    ) -> Report:
        if name not in self._recordings:
            self._recordings[name] = self._record_gradients(loss, inputs, list(parameters), early)
        recording = self._recordings[name]
        report = recording.replay(inputs)
        if early and recording.ready:
            early.begin(recording.ready)
        return report

    def input_gradient(self, name: str, loss: Loss, inputs: Sequence[Any]) -> tuple[Tensor, Report]:
        if name not in self._recordings:
            self._recordings[name] = self._record_input_gradient(loss, inputs)
        recording = self._recordings[name]
        report = recording.replay(inputs)
        return recording.input_gradient, report

    def _record_front(
        self,
        function: Callable[..., T],
        inputs: Sequence[Any],
        parameters: list[nn.Parameter],
        early: Early | None,
    ) -> _Front:
        static = map_tensors(lambda x: x.detach().clone(), tuple(inputs))

        def differentiable(results: Any) -> list[Tensor]:
            return [item for item in tensors_of(results) if item.requires_grad]

        found: set[nn.Parameter] = set()

        def run() -> None:
            made = differentiable(function(*static))
            zeros = [torch.zeros_like(m) for m in made]
            gradients = torch.autograd.grad(made, parameters, zeros, allow_unused=True)
            found.update(p for p, g in zip(parameters, gradients, strict=True) if g is not None)

        _warm_up(run, self._front_lane.beside)
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with self._front_lane.recording(forward):
            results = function(*static)
        gradients = [torch.zeros_like(item) if item.requires_grad else None for item in tensors_of(results)]
        watched = [p for p in early.parameters if p in found] if early else []
        watching = _watching(watched, self._front_lane.stream(WATCHER), accumulated=False)
        with self._front_lane.recording(backward), watching as ready:
            parameter_gradients = torch.autograd.grad(
                differentiable(results),
                parameters,
                [g for g in gradients if g is not None],
                allow_unused=True,
            )
        outputs = map_tensors(leaf_of, results)
        return _Front(forward, backward, static, outputs, gradients, parameters, parameter_gradients, ready)

    def _record_gradients(
        self,
        loss: Loss,
        inputs: Sequence[Any],
        parameters: list[nn.Parameter],
        early: Early | None,
    ) -> _Recording:
        static = map_tensors(lambda x: x.detach().clone(), tuple(inputs))

        def run() -> Report:
            total, report = loss(*static)
            total.backward()
            return report

        _warm_up(run, self._shared_lane.beside)
        watched = [p for p in early.parameters if p.grad is not None] if early else []
        for parameter in parameters:
            parameter.grad = None
        graph = torch.cuda.CUDAGraph()
        watching = _watching(watched, self._shared_lane.stream(WATCHER), accumulated=True)
        with self._shared_lane.recording(graph):
            with watching as ready:
                report = run()
            values = _stack(report)
        gradients = [parameter.grad for parameter in parameters]
        return _Recording(
            graph, static, parameters, gradients, None, list(report), report_values=values, ready=ready
        )

    def _record_input_gradient(self, loss: Loss, inputs: Sequence[Any]) -> _Recording:
        static = map_tensors(lambda x: x.detach().clone(), tuple(inputs))
        first = static[0].requires_grad_(True)

        def run() -> tuple[Tensor, Report]:
            total, report = loss(*static)
            (gradient,) = torch.autograd.grad(total, first)
            return gradient, report

        _warm_up(run, self._shared_lane.beside)
        graph = torch.cuda.CUDAGraph()
        with self._shared_lane.recording(graph):
            gradient, report = run()
            values = _stack(report)
        inputs = tuple(item.detach() if item is first else item for item in static)
        return _Recording(
            graph, inputs, input_gradient=gradient, report_names=list(report), report_values=values
        )


def _stack(report: Report) -> Tensor:
    return torch.stack([value.detach().float().reshape(()) for value in report.values()])
