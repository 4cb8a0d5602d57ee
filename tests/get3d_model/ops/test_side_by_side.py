"""Independent parts give the results they give alone; with streams only on a GPU."""

import pytest
import torch

from get3d_model.ops.side_by_side import recording_side_by_side, side_by_side


def test_parts_run_in_order_on_a_cpu() -> None:
    order, x = [], torch.arange(3.0)

    def part(factor: float) -> torch.Tensor:
        order.append(factor)
        return x * factor

    with recording_side_by_side():
        results = side_by_side([lambda: part(2.0), lambda: part(3.0)], [x])
    assert order == [2.0, 3.0]
    assert torch.equal(results[0], 2 * x) and torch.equal(results[1], 3 * x)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_recording_with_gradients_equals_plain_execution() -> None:
    """Long chains of products, so that the parts overlap, and parts within a part; replayed often, because a race would
    not show each time."""
    torch.manual_seed(0)
    x = torch.randn(256, 256, device="cuda")
    weights = [torch.randn(256, 256, device="cuda") / 16 for _ in range(3)]

    def chain(weight: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        y = shared
        for _ in range(20):
            y = torch.tanh(y @ weight)
        return y

    def run() -> list[torch.Tensor]:
        # A leaf of its own: autograd would join the stream of its first use, outside of the recording.
        leaf = x.detach().requires_grad_(True)
        shared = leaf * 2.0

        def rest() -> tuple[torch.Tensor, torch.Tensor]:
            return tuple(side_by_side([lambda w=w: chain(w, shared) for w in weights[1:]], [shared]))

        first, others = side_by_side([lambda: chain(weights[0], shared), rest], [shared])
        results = [first, *others]
        return [*results, *torch.autograd.grad(sum(r.sum() for r in results), leaf)]

    with torch.cuda.stream(torch.cuda.Stream()):
        expected = run()
        with recording_side_by_side():
            run()
    torch.cuda.synchronize()
    with recording_side_by_side():
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            recorded = run()
    for _ in range(50):
        graph.replay()
        torch.cuda.synchronize()
        for ours, plain in zip(recorded, expected, strict=True):
            assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-4)
