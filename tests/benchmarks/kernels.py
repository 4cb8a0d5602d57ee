"""The fused kernels of a training step, each alone: `python -m tests.benchmarks.kernels --preset car_1024 --batch 8`.

One JSON line per operation and shape: the kernel's time, that of the PyTorch composition which defines it, and the time
that moving its inputs and results once would take at the bandwidth of a plain copy, measured in the same run. Times are
medians between CUDA events. The composition runs without torch.compile, as on a CPU.

Shape legend: B batch, K image channels, C channels, H W image size, R rows, I inputs, O outputs
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from get3d_model.config import CONFIG_DIR, ModelConfig, load_config
from get3d_model.networks.synthesis import block_channels
from get3d_model.ops.activation import activated_low_pass
from get3d_model.ops.from_rgb import PendingActivation, add_from_rgb
from get3d_model.ops.linear import equalized_linear
from get3d_model.ops.modulated_conv import demodulation
from tests.benchmarks.device_time import median_ms
from tests.get3d_model.ops.compositions import compositions

MODULES = ("ops.activation", "ops.from_rgb", "ops.linear", "ops.modulated_conv", "ops.resample")
COPY_BYTES = 1 << 30


@dataclass(frozen=True)
class Operation:
    """forward: makes the result from `inputs`; backward passes are with respect to those named in `wanted`.

    wanted: name of a backward pass -> the inputs whose gradients it makes. moved: bytes read and written at least,
    by "forward" and by the backward passes.
    """

    name: str
    shape: Sequence[int]
    inputs: dict[str, Tensor]
    forward: Callable[[], Tensor]
    wanted: dict[str, Sequence[str]]
    moved: dict[str, int]


def bytes_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def feature_map(batch: int, channels: int, size: int, device: torch.device) -> Tensor:
    """Random bf16 values, channels-last."""
    x = torch.randn(batch, size, size, channels, device=device).bfloat16()
    return x.permute(0, 3, 1, 2).requires_grad_()


def from_rgb(
    batch: int, channels: int, size: int, kinds: int, below: bool, device: torch.device
) -> Operation:
    image = torch.randn(batch, kinds, size, size, device=device, requires_grad=True)
    weight = torch.randn(channels, kinds, device=device, requires_grad=True)
    bias, bias_x = (torch.randn(channels, device=device, requires_grad=True) for _ in range(2))
    x = feature_map(batch, channels, size, device)
    inputs = {"image": image, "weight": weight, "bias": bias} | ({"x": x, "bias_x": bias_x} if below else {})

    def forward() -> Tensor:
        pending = PendingActivation(x, bias_x, 256.0) if below else None
        return add_from_rgb(pending, image, weight, bias, 256.0, torch.bfloat16)

    through = bytes_of(x) * (3 if below else 1)
    others = [name for name in inputs if name not in ("image", "x")]
    return Operation(
        "from_rgb" + ("" if below else " at the first resolution"),
        (batch, kinds, channels, size, size),
        inputs,
        forward,
        {
            "backward to the image": ["image"] + (["x"] if below else []),
            "backward to the weights": others + (["x"] if below else []),
        },
        {
            "forward": bytes_of(image, x) + (bytes_of(x) if below else 0),
            "backward to the image": 2 * bytes_of(image) + through,
            "backward to the weights": bytes_of(image) + through,
        },
    )


def low_pass(batch: int, channels: int, size: int, device: torch.device) -> Operation:
    x = feature_map(batch, channels, size, device)
    bias = torch.randn(channels, device=device, requires_grad=True)
    return Operation(
        "activated_low_pass", (batch, channels, size, size), {"x": x, "bias": bias},
        lambda: activated_low_pass(x, bias, 256.0), {"backward": ["x", "bias"]},
        {"forward": 2 * bytes_of(x), "backward": 3 * bytes_of(x)},
    )  # fmt: skip


def linear(rows: int, inputs: int, outputs: int, device: torch.device) -> Operation:
    x, weight, bias = (
        torch.randn(shape, device=device, requires_grad=True)
        for shape in ((rows, inputs), (outputs, inputs), (outputs,))
    )
    return Operation(
        "equalized_linear", (rows, inputs, outputs), {"x": x, "weight": weight, "bias": bias},
        lambda: equalized_linear(x, weight, bias, 0.05, 0.01, True), {"backward": ["x", "weight", "bias"]},
        {"forward": bytes_of(weight), "backward": 2 * bytes_of(weight)},
    )  # fmt: skip


def demodulated(rows: int, inputs: int, outputs: int, device: torch.device) -> Operation:
    weight = torch.randn(outputs, inputs, 3, 3, device=device, requires_grad=True)
    style = (torch.randn(rows, inputs, device=device) + 1.0).requires_grad_()
    return Operation(
        "demodulation", (rows, inputs, outputs), {"weight": weight, "style": style},
        lambda: demodulation(weight, style), {"backward": ["weight", "style"]},
        {"forward": bytes_of(weight), "backward": 2 * bytes_of(weight)},
    )  # fmt: skip


def operations(model: ModelConfig, batch: int, device: torch.device) -> Iterator[Operation]:
    """Those of the discriminators' three highest resolutions, and of the generator's widest layers."""
    for level in range(3):
        size = model.image_resolution >> level
        channels = block_channels(size, model.discriminator_channel_base, model.discriminator_channel_max)
        for kinds in (3, 1):
            yield from_rgb(batch, channels, size, kinds, level > 0, device)
        yield low_pass(batch, channels, size, device)
    yield linear(batch, model.w_dim, model.channel_max, device)
    yield demodulated(batch, model.channel_max, model.channel_max, device)


def copy_bytes_per_ms(device: torch.device) -> float:
    source = torch.empty(COPY_BYTES // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return COPY_BYTES / median_ms(lambda: target.copy_(source))


def prepared(operation: Operation, name: str) -> Callable[[], object]:
    """A pass, ready to run. What is fused is decided here, by the forward pass that a backward one goes back through."""
    if name == "forward":
        return operation.forward
    chosen = operation.wanted[name]
    for key, tensor in operation.inputs.items():
        # The kernels leave out what nobody asks for.
        tensor.requires_grad_(key in chosen)
    result = operation.forward()
    gradient = torch.randn_like(result)
    inputs = [operation.inputs[key] for key in chosen]
    return lambda: torch.autograd.grad(result, inputs, gradient, retain_graph=True)


def measure(operation: Operation, bytes_per_ms: float) -> Iterator[dict[str, object]]:
    for name in ("forward", *operation.wanted):
        fused = median_ms(prepared(operation, name))
        with compositions(MODULES):
            composed = median_ms(prepared(operation, name))
        yield {
            "benchmark": "kernels",
            "operation": operation.name,
            "pass": name,
            "shape": list(operation.shape),
            "ms": round(fused, 4),
            "composition_ms": round(composed, 4),
            "ratio": round(composed / fused, 2),
            "at_full_bandwidth_ms": round(operation.moved[name] / bytes_per_ms, 4),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="car_1024", help="name of a file in get3d_model/configs")
    parser.add_argument("--batch", type=int, default=8, help="images of a pass of the discriminators")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("kernels needs an NVIDIA GPU")
    device = torch.device("cuda")
    bytes_per_ms = copy_bytes_per_ms(device)
    machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(
        json.dumps({"benchmark": "kernels", "copy_gb_per_s": round(bytes_per_ms / 1e6), **machine}),
        flush=True,
    )
    for operation in operations(load_config(CONFIG_DIR / f"{args.preset}.yaml").model, args.batch, device):
        for line in measure(operation, bytes_per_ms):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
