"""Parts of a step, run plainly."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from get3d_model.training.runner import EagerRunner


@dataclass(frozen=True)
class Pair:
    first: Tensor
    rest: tuple[Tensor, Tensor | None]


def test_a_started_part_continues_backwards():
    """The same gradients as in one piece, also where an output is not used."""
    layer = nn.Linear(3, 2)
    x, direction = torch.randn(4, 3), torch.randn(4, 2)

    def part(x: Tensor) -> Pair:
        y = layer(x)
        return Pair(y, (y.square(), None))

    started = EagerRunner().start("part", part, (x,), list(layer.parameters()))
    assert started.outputs.first.is_leaf and layer.weight.grad is None
    (started.outputs.first.tanh() * direction).sum().backward()
    assert layer.weight.grad is None, "nothing goes further before it is asked to"
    started.backward()
    parts = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    (layer(x).tanh() * direction).sum().backward()
    for ours, parameter in zip(parts, layer.parameters(), strict=True):
        assert torch.allclose(ours, parameter.grad)


def test_without_gradients_outputs_are_plain():
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        started = EagerRunner().start("part", lambda x: Pair(layer(x), (x, None)), (torch.randn(1, 3),), [])
    assert not started.outputs.first.requires_grad


def test_the_gradient_of_an_input_alone():
    layer = nn.Linear(3, 1)
    x = torch.randn(5, 3)
    gradient, report = EagerRunner().input_gradient(
        "loss", lambda x: (layer(x).sum(), {"value": layer(x).sum().detach()}), (x,)
    )
    assert torch.allclose(gradient, layer.weight.expand(5, -1))
    assert layer.weight.grad is None and not x.requires_grad and set(report) == {"value"}
