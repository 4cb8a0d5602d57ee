"""Work beside other work: in its order on a CPU, on a second stream of a GPU."""

import pytest
import torch

from get3d_model.training.aside import Aside


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
    device, size, pause = torch.device("cuda"), 1 << 24, 200_000_000
    aside = Aside(device)
    given = torch.zeros(size, device=device)
    torch.cuda._sleep(pause)
    given.fill_(3.0)
    with aside.running((given, None)):
        torch.cuda._sleep(pause)
        made = given * 2.0
    beside = torch.cuda.Event()
    beside.record()
    address = given.data_ptr()
    del given
    others = [torch.full((size,), 7.0, device=device) for _ in range(4)]
    assert address not in [other.data_ptr() for other in others]
    beside.synchronize()
    assert not aside._stream.query(), "the work inside should still be running"
    aside.join()
    assert made.add(0.0).eq(6.0).all()
