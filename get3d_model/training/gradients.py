"""Gradients of one phase: averaged over the processes of a run, made finite, and measured.

A backward pass has the gradients of some layers long before those of others. Where it is recorded, the first ones are
averaged while it makes the rest (`EarlyAverage`), so that little is left to wait for.

Nothing here waits for the device: the figures stay tensors until somebody logs them.

Shape legend: P parameter values of a network
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from get3d_model.ops.finite import make_finite
from get3d_model.training.distributed import World


@dataclass(frozen=True)
class GradientFigures:
    """Scalars on the device. norm: L2 norm of what the optimizer is given. replaced: values that were not finite."""

    norm: Tensor
    replaced: Tensor


class EarlyAverage:
    """Averages the gradients of some parameters on a stream of its own, beside the rest of the backward pass.

    Whoever runs the pass calls `begin`; where nobody does, `average_gradients` averages all gradients at its end.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], world: World) -> None:
        """parameters: those whose gradients come first; the ones that have none in a pass are left out of it."""
        self.parameters = list(parameters)
        self._world = world
        self._stream = torch.cuda.Stream(world.device)
        self._buffer_P: Tensor | None = None
        self._begun: list[nn.Parameter] = []
        self._flat_P: Tensor | None = None
        self._work: dist.Work | None = None

    def begin(self, ready: torch.cuda.Event) -> None:
        """ready: recorded when these gradients are complete. The host does not wait."""
        self._begun = [p for p in self.parameters if p.grad is not None]
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            # One buffer for ever: the pass that is ready comes after the update that read the last averages.
            if self._buffer_P is None:
                self._buffer_P = torch.empty(
                    sum(p.numel() for p in self.parameters), device=self._world.device
                )
            self._flat_P = flattened(self._begun, self._buffer_P[: sum(p.numel() for p in self._begun)])
            self._work = self._world.start_average(self._flat_P, "the gradients")

    def take(self) -> tuple[list[nn.Parameter], Tensor] | None:
        """(parameters, their averages one after the other), for what is issued from now on; None where none were begun."""
        if self._work is None:
            return None
        self._work.wait()
        self._work = None
        return self._begun, self._flat_P


def flattened(parameters: Sequence[nn.Parameter], out_P: Tensor | None = None) -> Tensor:
    """Their gradients one after the other, in `out_P` where one is given."""
    return torch.cat([parameter.grad.flatten() for parameter in parameters], out=out_P)


def _give(parameters: Sequence[nn.Parameter], flat_P: Tensor) -> None:
    """Makes parts of a buffer the parameters' gradients."""
    for parameter, part in zip(parameters, flat_P.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def average_gradients(
    parameters: Iterable[nn.Parameter], world: World, early: EarlyAverage | None = None
) -> GradientFigures:
    """Averages gradients over all ranks and replaces non-finite values, in place.

    NaN becomes 0 and infinities +-1e5 (the published rule), so that one bad pixel does not end a run.
    Of several ranks they become views of one flat buffer: a single all-reduce, apart from those that `early` has begun
    with. Parameters without a gradient are left out, the same ones on every rank: which layers a phase reaches does not
    depend on the data.
    """
    owners = [p for p in parameters if p.grad is not None]
    if not owners:
        return GradientFigures(torch.zeros(()), torch.zeros(()))
    if world.size > 1:
        buffers = []
        begun = early.take() if early else None
        if begun is not None:
            _give(*begun)
            buffers.append(begun[1])
            done = set(begun[0])
            owners = [p for p in owners if p not in done]
        if owners:
            flat_P = flattened(owners)
            world.average(flat_P, "the gradients")
            _give(owners, flat_P)
            buffers.append(flat_P)
        return GradientFigures(*make_finite(buffers))
    for parameter in owners:
        # Convolutions leave gradients in a layout of their own; the fused optimizer wants the parameter's.
        if parameter.grad.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(parameter.grad)
    return GradientFigures(*make_finite([p.grad for p in owners]))
