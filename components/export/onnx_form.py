"""The two networks as ONNX: for TensorRT and other runtimes, checked with onnxruntime before it is written.

Static shapes, one shape at a time, float32, standard operators only. Nothing of the file tells where it was made.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from get3d_model.programs import FIELDS, MAPPING

ONNX_FILES = {name: f"{name}.onnx" for name in (MAPPING, FIELDS)}
OPSET = 20
INPUT_NAMES = {MAPPING: ["z_geo", "z_tex", "class"], FIELDS: ["w_geo", "w_tex"]}
OUTPUT_NAMES = {
    MAPPING: ["w_geo", "w_tex", "w_avg_geo", "w_avg_tex"],
    FIELDS: ["planes_tex", "styles_tex", "sdf", "deform", "empty", "cube_weights"],
}


def write_onnx(name: str, program: ExportedProgram, path: Path) -> None:
    """`program` (the network `name`) as an ONNX file."""
    with _quiet(), torch.no_grad():
        converted = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=OPSET)
    model = converted.model
    graph = model.graph
    for values, names in ((graph.inputs, INPUT_NAMES[name]), (graph.outputs, OUTPUT_NAMES[name])):
        for value, wanted in zip(values, names, strict=False):
            value.name = wanted
    for part in (model, graph, *graph.all_nodes(), *graph.inputs, *graph.outputs):
        part.metadata_props.clear()
    for node in graph.all_nodes():
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in graph.initializers.values():
        value.metadata_props.clear()
    converted.save(str(path))


def run_onnx(path: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of an ONNX file under onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    return [torch.from_numpy(np.asarray(value)) for value in session.run(None, feed)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converter reports its progress, and every optional package that is missing."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
