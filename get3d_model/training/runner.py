"""How the static parts of a training step are run: plainly, or recorded once and replayed (cuda_graphs.py).

A part is a function of tensors whose shapes never change: networks and losses, but not the mesh in between. Inputs
and results may be nested tuples and dataclasses of tensors and None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from get3d_model.structures import map_tensors, tensors_of

T = TypeVar("T")
Report = dict[str, Tensor]
Loss = Callable[..., tuple[Tensor, Report]]
"""Tensors -> (scalar to differentiate, detached scalars to report)."""


class Early(Protocol):
    """Wants the gradients of some parameters (those that have one) before the others' are there."""

    parameters: Sequence[nn.Parameter]

    def begin(self, ready: torch.cuda.Event) -> None:
        """ready: recorded by the device when they are complete."""
        ...


class Started(Protocol[T]):
    """A part that has run forwards. outputs: cut from the part's graph; differentiate what follows, then call
    `backward`, which continues from their gradients into the parameters."""

    outputs: T

    def backward(self) -> None: ...


class Runner(Protocol):
    """Runs parts by name; the same name is always the same function and the same shapes."""

    def start(
        self,
        name: str,
        function: Callable[..., T],
        inputs: Sequence[Any],
        parameters: Sequence[nn.Parameter],
        early: Early | None = None,
    ) -> Started[T]:
        """Runs forwards. Without gradients (under torch.no_grad) only the outputs are of use.

        early: is told of its parameters' gradients during `backward`, if the part is recorded.
        """
        ...

    def gradients(
        self,
        name: str,
        loss: Loss,
        inputs: Sequence[Any],
        parameters: Sequence[nn.Parameter],
        early: Early | None = None,
    ) -> Report:
        """Leaves the gradients of the loss in the parameters, which must have none.

        early: is told of its parameters' gradients, if the part is recorded.
        """
        ...

    def input_gradient(self, name: str, loss: Loss, inputs: Sequence[Any]) -> tuple[Tensor, Report]:
        """The gradient with respect to the first input alone."""
        ...


@dataclass(frozen=True)
class EagerStarted:
    results: Any
    outputs: Any

    def backward(self) -> None:
        pairs = [
            (result, output.grad)
            for result, output in zip(tensors_of(self.results), tensors_of(self.outputs), strict=True)
            if result.requires_grad and output.grad is not None
        ]
        torch.autograd.backward(*zip(*pairs, strict=True))


class EagerRunner:
    """Runs every part as it comes."""

    def start(
        self,
        name: str,
        function: Callable[..., T],
        inputs: Sequence[Any],
        parameters: Sequence[nn.Parameter],
        early: Early | None = None,
    ) -> Started[T]:
        results = function(*inputs)
        return EagerStarted(results, map_tensors(leaf_of, results))

    def gradients(
        self,
        name: str,
        loss: Loss,
        inputs: Sequence[Any],
        parameters: Sequence[nn.Parameter],
        early: Early | None = None,
    ) -> Report:
        total, report = loss(*inputs)
        total.backward()
        return report

    def input_gradient(self, name: str, loss: Loss, inputs: Sequence[Any]) -> tuple[Tensor, Report]:
        first = inputs[0].detach().requires_grad_(True)
        total, report = loss(first, *inputs[1:])
        (gradient,) = torch.autograd.grad(total, first)
        return gradient, report


def leaf_of(result: Tensor) -> Tensor:
    """The same values without history, collecting a gradient if the original would pass one on."""
    return result.detach().requires_grad_(result.requires_grad)
