"""Five hundred malformed requests, straight at the real server: it refuses them one by one and goes on answering."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from serving.client import Get3DClient
from serving.codec import INPUTS, SampleRequest
from serving.server import TritonServer

REQUESTS = 500
# Over 6 000 requests the model process grows by 60 MiB in the first thousand and not at all afterwards; Triton's own
# buffers go up and down between 290 and 560 MiB.
GROWTH_MIB = 100.0
SERVER_MIB = 1024.0
# What a request may end with: refused by Triton or by the model. Nothing is a bug of ours (INTERNAL).
REFUSED = "StatusCode.INVALID_ARGUMENT"
TYPES = (np.int64, np.int32, np.int8, np.uint16, np.float32, np.float64, np.float16, np.bool_, np.object_)
NUMBERS = (0, -1, 1, 7, 100, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e38, -1e-45, 0.5, 3.0)
TEXTS = (
    b"", b"glb", b"GLB", b"../../etc/passwd", b"/dev/zero", b"\x00\xff\xfe", b"\x80\x04\x95.", b"a" * 100_000,
    "ü€\u202e".encode(), b"mesh,mesh,preview", b",", b"cos\nsystem\n(S'id'\ntR.", b"{}", b"preview", b"vertex",
)  # fmt: skip


def random_array(random_: random.Random, dtype: Any, shape: list[int]) -> np.ndarray:
    count = int(np.prod(shape))
    if dtype is np.object_:
        array = np.empty(count, dtype=np.object_)
        array[:] = [random_.choice(TEXTS) for _ in range(count)]
    elif np.issubdtype(dtype, np.floating):
        with np.errstate(over="ignore"):
            array = np.array([random_.choice(FLOATS) for _ in range(count)]).astype(dtype)
    else:
        array = np.array([random_.choice(NUMBERS) for _ in range(count)], dtype=np.int64).astype(dtype)
    return array.reshape(shape)


def malformed(random_: random.Random) -> dict[str, np.ndarray]:
    """A few tensors with values, shapes, types or names that cannot be."""
    arrays: dict[str, np.ndarray] = {"seed": np.array([[3]])} if random_.random() < 0.7 else {}
    rows = random_.choice((1, 1, 1, 2, 9))
    for spec in random_.sample(INPUTS, random_.randint(1, 4)):
        dtype = spec.dtype if random_.random() < 0.8 else random_.choice(TYPES)
        shape = [rows, *(size if size > 0 else random_.choice((1, 2, 16, 17)) for size in spec.dims)]
        if random_.random() < 0.2:
            shape = [random_.choice((0, 1, 2, 5000)) for _ in range(random_.randint(1, 3))]
            shape = shape if np.prod(shape) <= 100_000 else [1, 1]
        name = spec.name if random_.random() < 0.95 else random_.choice(("", "seed\n", "../seed", "x" * 1000))
        arrays[name] = random_array(random_, dtype, shape)
    if random_.random() < 0.3:
        # All right but for one tensor, so that it reaches the model.
        spec = random_.choice(INPUTS)
        arrays = {"seed": np.array([[3]]), "texture_resolution": np.array([[64]], np.int32)}
        arrays[spec.name] = random_array(random_, spec.dtype, [1, *(max(size, 1) for size in spec.dims)])
    return arrays


def resident_mib(server: TritonServer) -> tuple[float, float]:
    """Of the server and of its model process, their shared memory included."""
    server_mib = model_mib = 0.0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        if "VmRSS" not in fields:
            continue
        mib = int(fields["VmRSS"].split()[0]) / 1024
        if server.pid == int(fields["Pid"]):
            server_mib += mib
        elif server.pid == int(fields["PPid"]):
            model_mib += mib
    return server_mib, model_mib


def test_fuzzing_leaves_the_server_answering(server: TritonServer, client: Get3DClient) -> None:
    random_ = random.Random(20240)
    expected = client.sample(SampleRequest(3)).mesh
    outcomes: Counter[str] = Counter()
    with triton.InferenceServerClient(server.grpc_url) as stub:
        for index in range(REQUESTS):
            if index == REQUESTS // 5:
                _, before_mib = resident_mib(server)
            inputs = []
            for name, array in malformed(random_).items():
                tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
                tensor.set_data_from_numpy(array)
                inputs.append(tensor)
            try:
                stub.infer("get3d", inputs, client_timeout=30.0)
                outcomes["answered"] += 1
            except InferenceServerException as error:
                outcomes[error.status()] += 1
                assert error.status() == REFUSED, (error, index)
                assert len(error.message()) < 2000
    assert outcomes[REFUSED] > 0.7 * REQUESTS, outcomes
    server_mib, model_mib = resident_mib(server)
    assert model_mib - before_mib < GROWTH_MIB
    assert server_mib < SERVER_MIB
    assert client.sample(SampleRequest(3)).mesh == expected
    server.check()


def test_shapes_that_lie_are_refused(server: TritonServer, client: Get3DClient) -> None:
    """What a shape claims is compared with what came before anybody makes room for it."""
    raw = np.int64(3).tobytes()
    channel = grpc.insecure_channel(server.grpc_url)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    with channel:
        for name, kind in (("seed", "INT64"), ("z_geo", "FP32"), ("format", "BYTES")):
            for shape in ([1, 1 << 20], [1, 1 << 40], [1 << 40, 1], [1, -1], [-5, -5], [0, 0], [1] * 9, []):
                request = service_pb2.ModelInferRequest(model_name="get3d", raw_input_contents=[raw])
                request.inputs.add(name=name, datatype=kind, shape=shape)
                with pytest.raises(grpc.RpcError) as caught:
                    stub.ModelInfer(request, timeout=20)
                assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, (name, shape)
    assert client.sample(SampleRequest(3)).metadata.faces > 0
    server.check()
