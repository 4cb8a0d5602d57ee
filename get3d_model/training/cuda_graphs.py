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
from get3d_model.training.runner import Loss, Report, Started, leaf_of

T = TypeVar("T")
RECORDER = -1
"""Index of the stream that a lane is recorded on; its parts have those from 0 on."""


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
    """One graph from static inputs to static results."""

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Any]
    parameters: Sequence[nn.Parameter] = ()
    parameter_gradients: Sequence[Tensor | None] = ()
    input_gradient: Tensor | None = None
    report_names: Sequence[str] = ()
    report_values: Tensor | None = None

    def replay(self, inputs: Sequence[Any]) -> Report:
        _copy_into(self.inputs, inputs)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.parameter_gradients, strict=True):
            parameter.grad = gradient
        values = self.report_values.clone().unbind()
        return dict(zip(self.report_names, values, strict=True))


@dataclass
class _Front:
    """A forward graph and the backward graph that continues from its outputs' gradients."""

    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph
    inputs: Sequence[Any]
    outputs: Any
    output_gradients: list[Tensor | None]
    parameters: Sequence[nn.Parameter]
    parameter_gradients: Sequence[Tensor | None]


@dataclass(frozen=True)
class _StartedFront:
    front: _Front
    outputs: Any

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
        stream = lane_stream(torch.device("cuda", torch.cuda.current_device()), self.name, RECORDER)
        with torch.cuda.graph(graph, pool=self.pool, stream=stream), self.beside():
            yield

    def beside(self) -> AbstractContextManager[None]:
        return recording_side_by_side(self.name) if self.side_by_side else nullcontext()


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
        self, name: str, function: Callable[..., T], inputs: Sequence[Any], parameters: Sequence[nn.Parameter]
    ) -> Started[T]:
        if name not in self._fronts:
            with torch.enable_grad():
                self._fronts[name] = self._record_front(function, inputs, list(parameters))
        front = self._fronts[name]
        _copy_into(front.inputs, inputs)
        front.forward.replay()
        differentiable = torch.is_grad_enabled()
        leaf = leaf_of if differentiable else Tensor.detach
        return _StartedFront(front, map_tensors(leaf, front.outputs))

    def gradients(
        self, name: str, loss: Loss, inputs: Sequence[Any], parameters: Sequence[nn.Parameter]
    ) -> Report:
        if name not in self._recordings:
            self._recordings[name] = self._record_gradients(loss, inputs, list(parameters))
        return self._recordings[name].replay(inputs)

    def input_gradient(self, name: str, loss: Loss, inputs: Sequence[Any]) -> tuple[Tensor, Report]:
        if name not in self._recordings:
            self._recordings[name] = self._record_input_gradient(loss, inputs)
        recording = self._recordings[name]
        report = recording.replay(inputs)
        return recording.input_gradient, report

    def _record_front(
        self, function: Callable[..., T], inputs: Sequence[Any], parameters: list[nn.Parameter]
    ) -> _Front:
        static = map_tensors(lambda x: x.detach().clone(), tuple(inputs))

        def differentiable(results: Any) -> list[Tensor]:
            return [item for item in tensors_of(results) if item.requires_grad]

        def run() -> None:
            made = differentiable(function(*static))
            torch.autograd.grad(made, parameters, [torch.zeros_like(m) for m in made], allow_unused=True)

        _warm_up(run, self._front_lane.beside)
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with self._front_lane.recording(forward):
            results = function(*static)
        gradients = [torch.zeros_like(item) if item.requires_grad else None for item in tensors_of(results)]
        with self._front_lane.recording(backward):
            parameter_gradients = torch.autograd.grad(
                differentiable(results),
                parameters,
                [g for g in gradients if g is not None],
                allow_unused=True,
            )
        outputs = map_tensors(leaf_of, results)
        return _Front(forward, backward, static, outputs, gradients, parameters, parameter_gradients)

    def _record_gradients(
        self, loss: Loss, inputs: Sequence[Any], parameters: list[nn.Parameter]
    ) -> _Recording:
        static = map_tensors(lambda x: x.detach().clone(), tuple(inputs))

        def run() -> Report:
            total, report = loss(*static)
            total.backward()
            return report

        _warm_up(run, self._shared_lane.beside)
        for parameter in parameters:
            parameter.grad = None
        graph = torch.cuda.CUDAGraph()
        with self._shared_lane.recording(graph):
            report = run()
            values = _stack(report)
        gradients = [parameter.grad for parameter in parameters]
        return _Recording(
            graph, static, parameters, gradients, report_names=list(report), report_values=values
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
