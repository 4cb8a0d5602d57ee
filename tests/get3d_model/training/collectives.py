"""One rank of a two-process check of what `World` does; asserts, and says that it came to the end."""

from __future__ import annotations

import pytest
import torch

from get3d_model.cameras import UniformOrbit
from get3d_model.training.distributed import (
    RanksDisagree,
    StopVote,
    World,
    fingerprint,
    world_from_environment,
)
from get3d_model.training.gradients import average_gradients
from get3d_model.training.report import summarise
from get3d_model.training.step import build_training_step
from tests.get3d_model.training.tiny import tiny_config


def gradients(world: World) -> None:
    """The mean over ranks, then the replacements: a NaN on one rank is one replaced value on all."""
    device = world.device
    first, second = (torch.nn.Parameter(torch.zeros(shape, device=device)) for shape in ((2, 2), (3,)))
    first.grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device) * (world.rank + 1)
    second.grad = torch.tensor([1.0, torch.nan if world.rank else 1.0, torch.inf], device=device)
    figures = average_gradients([first, second], world)
    assert first.grad.tolist() == [[1.5, 3.0], [4.5, 6.0]]
    assert second.grad.tolist() == [1.0, 0.0, 1e5]
    assert int(figures.replaced) == 2


def weights(world: World) -> None:
    step = build_training_step(tiny_config(1), world, UniformOrbit())
    modules = {"generator": step.modules.generator, "discriminator": step.modules.discriminator}
    world.check_same_weights(modules)
    seen = []
    for index in range(2):
        random = torch.Generator().manual_seed(10 * world.rank + index)
        image = torch.rand(2, 4, 16, 16, generator=random).to(world.device)
        seen.append(step.step(image, torch.ones(2, 2, device=world.device), index))
    mapping = step.modules.generator.mapping
    each = world.gather(mapping.w_avg.cpu(), "the test")
    assert not torch.equal(each[0], each[1]), "every rank draws latents of its own"
    step.synchronise()
    torch.testing.assert_close(mapping.w_avg.cpu(), (each[0] + each[1]) / 2)
    assert torch.equal(mapping.w_avg, step.modules.generator_ema.mapping.w_avg)
    world.check_same_weights({**modules, "moving average": step.modules.generator_ema})

    values = world.gather([float(report["loss/generator_rgb"]) for report in seen], "the test")
    assert values[0] != values[1]
    mean = summarise(seen, world)["loss/generator_rgb"]
    assert mean == pytest.approx(sum(values[0] + values[1]) / 4)

    before = fingerprint(step.modules.discriminator)
    parameter = next(step.modules.discriminator.parameters())
    if world.rank == 1:
        # One bit.
        parameter.data.view(-1).view(torch.int32)[0] ^= 1
        assert fingerprint(step.modules.discriminator) != before
    with pytest.raises(
        RanksDisagree, match=r"the discriminator of rank 1 differs|the discriminator of rank 0"
    ):
        world.check_same_weights(modules)


def votes(world: World) -> None:
    vote = StopVote(world)
    wishes = [(False, False), (False, True), (False, False), (False, False)]
    heard = [vote(wish[world.rank]) for wish in wishes]
    assert heard == [False, False, True, False]
    vote.close()


def agreement(world: World) -> None:
    assert world.agree({"from": world.rank}, "the test") == {"from": 0}
    assert world.gather(world.rank, "the test") == [0, 1]
    world.barrier("the test")


def main() -> None:
    # On a GPU the first step compiles its kernels.
    world = world_from_environment(300.0 if torch.cuda.is_available() else 30.0)
    for check in (gradients, weights, votes, agreement):
        check(world)
    world.close()
    print(f"rank {world.rank} checked", flush=True)


if __name__ == "__main__":
    main()
