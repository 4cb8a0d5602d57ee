"""The weight's gradient of narrow convolutions against autograd's."""

import pytest
import torch
import torch.nn.functional as F

from get3d_model.ops.conv import conv2d, paired_weight_gradient


@pytest.mark.parametrize(("outputs", "inputs"), [(5, 5), (3, 4)])
def test_gradient_of_column_pairs_equals_autograd(outputs: int, inputs: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    x = random(3, inputs, 7, 10).to(memory_format=torch.channels_last)
    grad = random(3, outputs, 7, 10).to(memory_format=torch.channels_last)
    weight = random(outputs, inputs, 3, 3).requires_grad_(True)
    (expected,) = torch.autograd.grad(F.conv2d(x, weight, padding=1), weight, grad)
    ours = paired_weight_gradient(grad, x, weight.detach())
    assert ours.shape == expected.shape
    assert torch.allclose(ours, expected, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("width", [64, 65])
def test_narrow_half_precision_gradient_on_a_gpu(width: int) -> None:
    """With an even width by pairs, with an odd one as usual: as close to double precision as bfloat16 is."""
    torch.manual_seed(0)
    x, grad = (torch.randn(2, 32, 48, width, dtype=torch.bfloat16) for _ in range(2))
    weight = torch.randn(32, 32, 3, 3, dtype=torch.bfloat16)
    results = []
    for device, dtype in (("cuda", torch.bfloat16), ("cpu", torch.float64)):
        w = weight.to(device, dtype).requires_grad_(True)
        y = conv2d(x.to(device, dtype).to(memory_format=torch.channels_last), w, padding=1)
        y.backward(grad.to(device, dtype).to(memory_format=torch.channels_last))
        results.append(w.grad.double().cpu())
    ours, expected = results
    assert (ours - expected).abs().max() < 0.01 * expected.abs().max()
