"""Work beside other work: in its order on a CPU, on a second stream of a GPU."""

import pytest
import torch

from get3d_model.training.aside import Aside

SIZE = 1 << 24


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_without_a_gpu_everything_runs_in_its_order(device: torch.device | None) -> None:
    aside, seen = Aside(device), []
    with aside.running():
        seen.append("inside")
    seen.append("after")
    aside.join()
    assert seen == ["inside", "after"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_order_and_memory_on_a_gpu() -> None:
    """Inside waits for before, after waits for `join` alone, and what is read inside is not used anew before."""
    aside = Aside(torch.device("cuda"))
    # At first kernels are loaded and memory is taken from the driver; both may wait for the whole device.
    run(aside, cycles=1)
    torch.cuda.synchronize()
    overlapped, reused, made = run(aside, cycles=500_000_000)
    assert overlapped, "what came after the block waited for what was inside"
    assert not reused, "memory that the block still read was given away"
    assert made.eq(6.0).all()


def run(aside: Aside, cycles: int) -> tuple[bool, bool, torch.Tensor]:
    """(the work inside outlasts what came after it, memory was used anew too early, 6 everywhere)."""
    given = torch.zeros(SIZE, device="cuda")
    torch.cuda._sleep(cycles // 4)
    given.fill_(3.0)
    with aside.running((given, None)):
        torch.cuda._sleep(cycles)
        made = given * 2.0
        inside = torch.cuda.Event()
        inside.record()
    address = given.data_ptr()
    del given
    others = [torch.full((SIZE,), 7.0, device="cuda") for _ in range(4)]
    after = torch.cuda.Event()
    after.record()
    after.synchronize()
    overlapped = not inside.query()
    aside.join()
    return overlapped, address in [other.data_ptr() for other in others], made.add(0.0)
