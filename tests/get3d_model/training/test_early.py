"""Gradients that are averaged while a backward pass still makes the others."""

import contextlib
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from get3d_model.cameras import UniformOrbit
from get3d_model.networks.discriminator import Discriminator
from get3d_model.training.distributed import World
from get3d_model.training.gradients import EarlyAverage, average_gradients
from get3d_model.training.step import build_training_step
from tests.get3d_model.training.tiny import graph_config

CYCLES = 100_000_000


class HalvingWorld(World):
    """Of two ranks, of which the other has gradients of zero."""

    def average(self, tensor: Tensor, place: str) -> None:
        tensor /= 2


class Begun:
    """What `EarlyAverage` is after `begin`."""

    def __init__(self, parameters: list[nn.Parameter], averages_P: Tensor) -> None:
        self.parameters, self._averages_P = parameters, averages_P

    def take(self) -> tuple[list[nn.Parameter], Tensor]:
        return self.parameters, self._averages_P


def test_averages_that_were_begun_are_not_averaged_again() -> None:
    world = HalvingWorld(0, 2, torch.device("cpu"))
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (3,), (2,))]
    for value, parameter in enumerate(parameters, start=1):
        parameter.grad = torch.full_like(parameter, 2.0 * value)
    early = Begun(parameters[1:2], torch.tensor([10.0, torch.nan, 11.0]))
    figures = average_gradients(parameters, world, early)
    assert [p.grad.flatten().tolist() for p in parameters] == [[1.0] * 4, [10.0, 0.0, 11.0], [3.0] * 2]
    assert int(figures.replaced) == 1
    assert float(figures.norm) == pytest.approx((4 * 1 + 100 + 121 + 2 * 9) ** 0.5)


class NoStream:
    """Stands in for a CUDA stream, which a machine without a GPU has not; the order of things is then that of the calls."""

    def __init__(self, device: torch.device) -> None: ...

    def wait_event(self, event: object) -> None: ...


class StartingWorld(HalvingWorld):
    def start_average(self, tensor: Tensor, place: str) -> "StartingWorld":
        tensor /= 2
        return self

    def wait(self) -> None: ...


def test_passes_of_different_parameters_share_a_buffer(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """R1 leaves some biases without a gradient, so its gradients are fewer than Dmain's."""
    monkeypatch.setattr(torch.cuda, "Stream", NoStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    world = StartingWorld(0, 2, torch.device("cpu"))
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (3,), (2,))]
    early, places = EarlyAverage(parameters[:2], world), set()
    for with_gradient in (parameters, parameters[1:], parameters):
        for value, parameter in enumerate(parameters, start=1):
            has_one = any(parameter is other for other in with_gradient)
            parameter.grad = torch.full_like(parameter, 2.0 * value) if has_one else None
        early.begin(None)
        average_gradients(parameters, world, early)
        for value, parameter in enumerate(parameters, start=1):
            assert parameter.grad is None or parameter.grad.eq(value).all()
        places.add(parameters[1].grad.untyped_storage().data_ptr())
    assert early.take() is None, "averages are taken once"
    assert len(places) == 1 and not recwarn.list, "a buffer that changes its size warns"


def test_the_discriminators_gradients_come_in_the_promised_order() -> None:
    network = Discriminator(32, 256, 32)
    early = set(network.first_to_have_gradients())
    assert 0.8 < sum(p.numel() for p in early) / sum(p.numel() for p in network.parameters()) < 1.0
    came: list[str] = []
    for name, parameter in network.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: came.append(name))
    images = torch.rand(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    sum(item.sum() for item in network(images, torch.ones(1, 2))).backward()
    names = {name for name, parameter in network.named_parameters() if parameter in early}
    for prefix in ("", "mask_"):
        # Biases of the highest resolutions may be among the first.
        rest = [came.index(f"{prefix}b{size}.conv{k}.weight") for size in (32, 16) for k in (0, 1)]
        mine = [came.index(name) for name in names if name.startswith("mask_") == bool(prefix)]
        assert max(mine) < min(rest)


class SlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        torch.cuda._sleep(CYCLES)
        return grad.clone()


class Taker:
    """Copies the gradients as soon as it is told that they are there."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.stream = torch.cuda.Stream()
        self.taken: list[Tensor] = []
        self.done = torch.cuda.Event()

    def begin(self, ready: torch.cuda.Event) -> None:
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(ready)
            self.taken = [p.grad.clone() for p in self.parameters if p.grad is not None]
            self.done.record()


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("generator", ["unified", "separate"])
def test_every_phase_hands_over_the_gradients_that_it_ends_with(generator: str) -> None:
    pytest.importorskip("nvdiffrast")
    train = build_training_step(
        graph_config(generator=generator), World(0, 1, torch.device("cuda")), UniformOrbit()
    )
    networks = train.modules.generator, train.modules.discriminator
    takers = [Taker(network.first_to_have_gradients()) for network in networks]
    phases = dataclasses.replace(train.phases, early_generator=takers[0], early_discriminator=takers[1])
    real, angles = torch.rand(4, 4, 64, 64).cuda(), torch.rand(4, 2).cuda()
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)
        for phase, network, taker in (
            (lambda r=random: phases.generator_main(4, r), networks[0], takers[0]),
            (lambda r=random: phases.discriminator_main(real, angles, r), networks[1], takers[1]),
            (lambda: phases.discriminator_r1(real, angles), networks[1], takers[1]),
        ):
            network.zero_grad(set_to_none=True)
            phase()
            phases.aside.join()
            torch.cuda.synchronize()
            final = [p.grad for p in taker.parameters if p.grad is not None]
            assert 0.5 * len(taker.parameters) < len(final) == len(taker.taken)
            # The buffers still hold the last pass: whatever was taken too early differs.
            assert all(torch.equal(a, b) for a, b in zip(taker.taken, final, strict=True))
            assert any(gradient.any() for gradient in final)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter += 0.01 * torch.randn_like(parameter)


@pytest.mark.gpu
@on_a_gpu
def test_a_recorded_pass_hands_over_complete_gradients_before_its_end() -> None:
    from get3d_model.training.cuda_graphs import GraphRunner

    torch.manual_seed(0)
    last, first = (nn.Linear(64, 64).cuda() for _ in range(2))
    early = Taker(list(first.parameters()))
    parameters = [*last.parameters(), *first.parameters()]

    def loss(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = SlowBackward.apply(first(SlowBackward.apply(last(x)))).square().mean()
        return y, {"loss": y.detach()}

    runner = GraphRunner()
    for seed in range(4):
        x = torch.randn(8, 64, generator=torch.Generator().manual_seed(seed)).cuda()
        for parameter in parameters:
            parameter.grad = None
        torch.cuda.synchronize()
        runner.gradients("loss", loss, (x,), parameters, early)
        end = torch.cuda.Event()
        end.record()
        early.done.synchronize()
        overlapped = not end.query()
        torch.cuda.synchronize()
        taken = early.taken
        expected = torch.autograd.grad(loss(x)[0], list(first.parameters()))
        # Gradients of the replay before would be those of another input.
        for mine, reference in zip(taken, expected, strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)
        # The first call also records.
        assert overlapped or seed == 0, "nothing was handed over before the end"
