"""The exported forms of the networks: written, run, and compared with the modules they come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.export.onnx_form import ONNX_FILES, OUTPUT_NAMES, run_onnx, write_onnx
from get3d_model.errors import InputError
from get3d_model.generator import Generator
from get3d_model.programs import (
    PROGRAM_FILES,
    Programs,
    export_program,
    load_program,
    networks_of,
    save_program,
)

# Shares of an output's largest magnitude. A program runs the modules' own operators; other runtimes sum in another
# order, and the deformation passes on what they lose ten-fold.
PROGRAM_TOLERANCE = 1e-6
ONNX_TOLERANCE = 1e-4
CHECK_SEEDS = (0, 1)


def write_programs(generator: Generator, folder: Path, onnx: bool = True) -> tuple[Programs, dict[str, Any]]:
    """Writes both networks of a generator (on the CPU, in evaluation) as programs and, on request, as ONNX.

    Every file is loaded again and compared with the modules, on inputs it was not traced with. Returns the
    loaded programs, and the differences with what was allowed. Raises InputError above that.
    """
    checks: dict[str, Any] = {}
    programs = {}
    traced = networks_of(generator)
    others = [networks_of(generator, seed) for seed in CHECK_SEEDS]
    for name, network in traced.items():
        with torch.no_grad():
            wanted = [network.module(*other[name].inputs) for other in others]
        program = export_program(network)
        path = Path(folder) / PROGRAM_FILES[name]
        save_program(program, path)
        programs[name] = load_program(path)
        found = [programs[name](*other[name].inputs) for other in others]
        checks[path.name] = _compared(path, name, wanted, found, PROGRAM_TOLERANCE)
        if onnx:
            path = Path(folder) / ONNX_FILES[name]
            write_onnx(name, program, path)
            found = [run_onnx(path, other[name].inputs) for other in others]
            checks[path.name] = _compared(path, name, wanted, found, ONNX_TOLERANCE)
    return Programs(**programs), checks


def _compared(
    path: Path,
    network: str,
    wanted: Sequence[Sequence[Tensor]],
    found: Sequence[Sequence[Tensor]],
    tolerance: float,
) -> dict[str, Any]:
    """Differences by output. Raises InputError above the tolerance."""
    worst: dict[str, float] = {}
    for expected, actual in zip(wanted, found, strict=True):
        for name, first, second in zip(OUTPUT_NAMES[network], expected, actual, strict=False):
            worst[name] = max(worst.get(name, 0.0), difference(first, second))
    bad = {name: value for name, value in worst.items() if not value <= tolerance}
    if bad:
        name, value = max(bad.items(), key=lambda item: item[1])
        raise InputError(
            f"{path.name}: {name} differs from the model by {value:.2g} of its largest value, more than {tolerance:g}; "
            "nothing was exported"
        )
    return {
        "tolerance": tolerance,
        "difference": {name: float(f"{value:.2g}") for name, value in worst.items()},
    }


def difference(expected: Tensor, actual: Tensor) -> float:
    """The largest difference as a share of the largest magnitude; infinite for other shapes or NaN."""
    if expected.shape != actual.shape:
        return float("inf")
    expected, actual = expected.double(), actual.double()
    largest = max(float(expected.abs().max()), 1e-30)
    value = float((expected - actual).abs().max()) / largest
    return value if value == value else float("inf")
