"""Networks as CUDA graphs against the same networks run plainly."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from get3d_model.generator import build_generator
from get3d_model.inference import ModelIdentity, Sampler
from get3d_model.recorded import MAX_RECORDINGS, RecordedFunction
from tests.serving.tiny import CONFIG as TINY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def sampler() -> Sampler:
    config = TINY
    torch.manual_seed(0)
    generator = build_generator(config.model)
    return Sampler(generator, config, ModelIdentity("tiny", 0.0, "0" * 64), None, torch.device("cuda", 0))


def test_networks_give_the_same_fields() -> None:
    plain, recorded = sampler(), sampler()
    recorded.record_networks()
    for count in (1, 3, 1):
        styles = plain.styles(range(count), 0.7)
        expected, found = plain.networks(styles), recorded.networks(styles)
        for name in ("sdf_BN", "deform_BN3", "empty_B"):
            torch.testing.assert_close(
                getattr(found[0], name), getattr(expected[0], name), rtol=1e-5, atol=1e-5
            )
        torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[2], expected[2], rtol=1e-5, atol=1e-5)


def test_results_outlive_the_next_call_and_threads_do_not_mix_them() -> None:
    double = RecordedFunction(lambda x: (x * 2.0,))
    inputs = [torch.full((1000,), float(number), device="cuda") for number in range(64)]
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(lambda x: double(x)[0], inputs))
    for x, y in zip(inputs, outputs, strict=True):
        assert torch.equal(y, 2.0 * x)


def test_more_shapes_than_recordings() -> None:
    double = RecordedFunction(lambda x: (x * 2.0,))
    for size in range(1, MAX_RECORDINGS + 4):
        x = torch.rand(size, device="cuda")
        assert torch.equal(double(x)[0], 2.0 * x)
