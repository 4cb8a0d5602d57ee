"""Loaded programs: what is changed in them for speed changes no bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from get3d_model import programs
from get3d_model.programs import Network, export_program, load_program, save_program


class Layers(nn.Module):
    """Intermediates that may be overwritten, and some that may not."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(8, 8, 3, 3, generator=generator))
        self.second = nn.Parameter(torch.randn(8, 8, 3, 3, generator=generator))
        self.shared = nn.Parameter(torch.randn(1, 8, 1, 1, generator=generator))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        image = (x * self.shared).contiguous(memory_format=torch.channels_last)
        read_twice = nn.functional.conv2d(image, self.first, padding=1) * 2.0
        y = nn.functional.leaky_relu(read_twice + self.shared, 0.2) * 1.5
        y = nn.functional.conv2d(y.clamp(-2.0, 2.0), self.second, padding=1) + 0.5
        rows = torch.bmm(y.flatten(2), y.flatten(2).transpose(1, 2))
        # A view of the input, a broadcast, and a sum into another type.
        return rows * 0.5 + 1.0, read_twice, x + 1.0, self.shared + y, rows.permute(0, 2, 1) + 2


def calls(program: Callable[..., Any], suffix: str) -> int:
    return sum(str(node.target).endswith(suffix) for node in program.graph.nodes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    network = Network(Layers().eval(), (torch.zeros(1, 8, 16, 16),))
    save_program(export_program(network), tmp_path / "layers.pt2")
    return tmp_path / "layers.pt2"


def test_work_in_place_changes_no_bit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = load_program(path)
    with monkeypatch.context() as patch:
        patch.setattr(programs, "_work_in_place", lambda module: None)
        plain = load_program(path)
    assert calls(plain, "_.default") == calls(plain, "_.Tensor") == 0
    assert calls(fast, "clamp_.default") == 1 and calls(fast, "mul_.Tensor") >= 1
    for seed in range(2):
        x = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(seed))
        before = x.clone()
        with torch.no_grad():
            for mine, reference in zip(fast(x), plain(x), strict=True):
                assert torch.equal(mine, reference)
        assert torch.equal(x, before), "inputs are the caller's"


def test_kernels_lie_as_convolutions_read_them(path: Path) -> None:
    program = load_program(path)
    kernels = [
        getattr(program, node.args[1].target)
        for node in program.graph.nodes
        if node.target is torch.ops.aten.conv2d.default
    ]
    assert len(kernels) == 2
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
