"""The served model, through the real server: what it delivers, what it refuses, what it counts."""

from __future__ import annotations

import io
import re
import time
import urllib.request
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import trimesh
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from get3d_model.errors import InputError
from get3d_model.files import sha256_file
from get3d_model.inference import Sampler
from get3d_model.mesh_io import is_watertight, load_textured_mesh, mesh_bytes
from serving import metric_names
from serving.client import Get3DClient, ServiceError
from serving.codec import FORMAT_SUFFIX, SampleRequest, SampleResponse
from serving.server import TritonServer


@pytest.fixture(scope="module")
def sampler(checkpoint: Path) -> Sampler:
    return Sampler.load(checkpoint)


def metric(server: TritonServer, name: str, **labels: str) -> float:
    """The value of a metric of version 1 with these labels."""
    text = urllib.request.urlopen(server.metrics_url, timeout=5).read().decode()
    wanted = {"model": "get3d", "version": "1", **labels}
    for line in text.splitlines():
        match = re.fullmatch(re.escape(name) + r"\{(.*)\} (\S+)", line)
        if match and dict(re.findall(r'(\w+)="([^"]*)"', match[1])) == wanted:
            return float(match[2])
    raise AssertionError(f"{name} {wanted} is not among the metrics")


def grew(read: Callable[[], float], before: float) -> float:
    """By how much a counter grew; the server updates them a little after its answer."""
    deadline = time.monotonic() + 5.0
    while read() == before and time.monotonic() < deadline:
        time.sleep(0.02)
    return read() - before


def test_a_textured_glb(client: Get3DClient, checkpoint: Path, tmp_path: Path) -> None:
    response = client.sample(SampleRequest(5, 0.5, 128))
    metadata = response.metadata
    mesh = trimesh.load(io.BytesIO(response.mesh), file_type="glb", force="mesh", process=False)
    assert (len(mesh.vertices), len(mesh.faces)) == (metadata.vertices, metadata.faces)
    assert metadata.faces > 0 and np.ptp(mesh.vertices, axis=0).max() <= 1.1
    assert mesh.visual.material.baseColorTexture.size == (128, 128)
    assert metadata.bytes == len(response.mesh)
    assert (metadata.seed, metadata.truncation_psi, metadata.texture_resolution) == (5, 0.5, 128)
    assert (metadata.model, metadata.version, metadata.kimg) == ("tiny", "1", 0.0)
    assert metadata.checkpoint_sha256 == sha256_file(checkpoint)
    assert metadata.milliseconds.keys() == {"networks", "extraction", "atlas", "texture", "encode"}
    assert metadata.watertight == is_watertight(load_textured_mesh(_written(tmp_path, response)))
    assert all(duration > 0 for duration in metadata.milliseconds.values())
    (tmp_path / "mesh.glb").write_bytes(response.mesh)
    extras = load_textured_mesh(tmp_path / "mesh.glb").extras
    assert (extras["seed"], extras["truncation_psi"]) == (5, 0.5)
    assert extras["checkpoint_sha256"] == metadata.checkpoint_sha256


def test_equals_local_sampling(client: Get3DClient, sampler: Sampler) -> None:
    for seed in range(3):
        (mesh,) = sampler.generate([seed], 0.9, 64)
        assert client.sample(SampleRequest(seed, 0.9, 64)).mesh == mesh_bytes(mesh, "glb")


def test_defaults_are_those_of_the_export(client: Get3DClient) -> None:
    plain = client.sample(SampleRequest(2))
    assert plain.mesh == client.sample(SampleRequest(2, 0.7, 64, "glb")).mesh
    assert (plain.metadata.truncation_psi, plain.metadata.file_format) == (0.7, "glb")


def test_seeds_decide(client: Get3DClient) -> None:
    first, again, other = (client.sample(SampleRequest(seed)).mesh for seed in (8, 8, 9))
    assert first == again != other
    assert client.sample(SampleRequest(2**63 - 1)).metadata.seed == 2**63 - 1


def test_psi_zero_is_one_shape(client: Get3DClient) -> None:
    first, second = (client.sample(SampleRequest(seed, 0.0, file_format="ply")) for seed in (1, 2))
    surfaces = [trimesh.load(io.BytesIO(r.mesh), file_type="ply", process=False) for r in (first, second)]
    np.testing.assert_array_equal(surfaces[0].vertices, surfaces[1].vertices)


def test_other_formats(client: Get3DClient) -> None:
    obj = client.sample(SampleRequest(1, file_format="obj"))
    names = zipfile.ZipFile(io.BytesIO(obj.mesh)).namelist()
    assert sorted(Path(name).suffix for name in names) == [".mtl", ".obj", ".png"]
    ply = client.sample(SampleRequest(1, file_format="ply"))
    mesh = trimesh.load(io.BytesIO(ply.mesh), file_type="ply", process=False)
    assert len(mesh.faces) == ply.metadata.faces


def test_rows_of_one_call(client: Get3DClient) -> None:
    """Rows are sampled together, and each is, to the last bit, what it is alone."""
    wanted = [
        SampleRequest(3, 0.2, 64, "ply"),
        SampleRequest(4, 1.0, 128, "ply"),
        SampleRequest(3, 0.2, 64, "ply"),
    ]
    rows = client.sample_rows(wanted)
    assert [row.metadata.batch_size for row in rows] == [3, 3, 3]
    for request, row in zip(wanted, rows, strict=True):
        alone = client.sample(request)
        assert row.metadata.texture_resolution == request.texture_resolution
        assert row.mesh == alone.mesh


def test_a_bad_request_fails_alone(client: Get3DClient, server: TritonServer) -> None:
    def invalid() -> float:
        return metric(server, metric_names.ERRORS, reason="invalid")

    before = invalid()
    # While the model is busy with a large texture, what comes next queues up and makes one batch.
    with ThreadPoolExecutor(8) as pool:
        busy = pool.submit(client.sample, SampleRequest(0, texture_resolution=512))
        time.sleep(0.1)
        good = [pool.submit(client.sample, SampleRequest(seed, file_format="ply")) for seed in range(6)]
        bad = pool.submit(_raw, server, seed=np.array([[-4]]))
        answers = [future.result() for future in good]
        busy.result()
        with pytest.raises(InferenceServerException, match="seed -4 is out of range; use 0 to") as caught:
            bad.result()
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "\n" not in caught.value.message()
    assert max(answer.metadata.batch_size for answer in answers) > 1
    assert [answer.metadata.seed for answer in answers] == list(range(6))
    for answer in answers:
        assert answer.mesh == client.sample(SampleRequest(answer.metadata.seed, file_format="ply")).mesh
    assert grew(invalid, before) == 1
    server.check()


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (
            {"seed": np.array([[1]]), "truncation_psi": np.float32([[2.5]])},
            "truncation_psi 2.5 is out of range",
        ),
        ({"seed": np.array([[1]]), "truncation_psi": np.float32([[np.nan]])}, "truncation_psi nan"),
        ({"seed": np.array([[1]]), "texture_resolution": np.int32([[1000]])}, "texture_resolution 1000"),
        ({"seed": np.array([[1]]), "format": np.array([[b"fbx"]], object)}, "format 'fbx' is not offered"),
        ({"seed": np.array([[1]]), "format": np.array([[b"\xff"]], object)}, "is not text"),
        ({"seed": np.array([[1, 2]])}, "say by weights how to mix them"),
        ({"seed": np.array([1])}, "shape"),
        ({"seed": np.float32([[1]])}, "data-type"),
        ({"truncation_psi": np.float32([[0.5]])}, "seed"),
        ({"seed": np.array([[1]]), "colour": np.array([[1]])}, "colour"),
        ({"seed": np.zeros((9, 1), np.int64)}, "batch-size must be <= 8"),
    ],
)
def test_bad_tensors(server: TritonServer, tensors: dict[str, np.ndarray], expected: str) -> None:
    with pytest.raises(InferenceServerException, match=re.escape(expected)) as caught:
        _raw(server, **tensors)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_the_client_passes_refusals_on(client: Get3DClient) -> None:
    with pytest.raises(InputError, match="batch-size must be <= 8"):
        client.sample_rows([SampleRequest(seed) for seed in range(9)])


def test_unknown_model_and_version(server: TritonServer) -> None:
    with Get3DClient(server.grpc_url, model_name="cars") as client:
        with pytest.raises(InputError, match="serves no model cars"):
            client.sample(SampleRequest(0))
        with pytest.raises(InputError, match="serves no ready model cars"):
            client.wait_until_ready(0.1)
    with (
        Get3DClient(server.grpc_url, model_version="7") as client,
        pytest.raises(InputError, match="no model get3d version 7"),
    ):
        client.sample(SampleRequest(0))


def test_many_come_in_order(client: Get3DClient) -> None:
    seeds = [5, 3, 9, 0, 1, 7, 2]
    responses = client.sample_many((SampleRequest(seed) for seed in seeds), concurrency=4)
    assert [response.metadata.seed for response in responses] == seeds


def test_metrics_move(client: Get3DClient, server: TritonServer) -> None:
    def meshes() -> float:
        return metric(server, metric_names.MESHES)

    stages = {stage: f"{metric_names.STAGE_SECONDS}_count" for stage in metric_names.STAGES}
    batches = metric(server, f"{metric_names.BATCH_ROWS}_sum")
    before = {stage: metric(server, name, stage=stage) for stage, name in stages.items()}
    requests, delivered = metric(server, metric_names.REQUESTS), meshes()
    client.sample_rows([SampleRequest(0), SampleRequest(1)])
    assert grew(meshes, delivered) == 2
    assert metric(server, metric_names.REQUESTS) - requests == 1
    after = {stage: metric(server, name, stage=stage) for stage, name in stages.items()}
    assert {stage: after[stage] - before[stage] for stage in stages} == {
        "networks": 2,
        "extraction": 2,
        "decimation": 0,
        "atlas": 2,
        "texture": 2,
        "encode": 2,
        "preview": 0,
    }
    assert metric(server, f"{metric_names.BATCH_ROWS}_sum") - batches == 2
    assert {metric(server, metric_names.ERRORS, reason=reason) for reason in ("internal",)} == {0}


def test_empty_shapes_are_told_and_counted(
    client: Get3DClient, server: TritonServer, sampler: Sampler
) -> None:
    empty_B = sampler.shapes(sampler.styles(range(40), 2.0)).empty_B
    assert empty_B.any() and not empty_B.all(), "the tiny model must make both"
    seed = int(empty_B.int().argmax())

    def count() -> float:
        return metric(server, metric_names.EMPTY_MESHES)

    before = count()
    response = client.sample(SampleRequest(seed, 2.0))
    assert response.metadata.empty and response.metadata.faces > 0
    assert grew(count, before) == 1


def test_a_passed_deadline_cancels(server: TritonServer) -> None:
    def cancelled() -> float:
        return metric(server, metric_names.ERRORS, reason="cancelled")

    before = cancelled()
    with Get3DClient(server.grpc_url, timeout_s=0.1) as impatient:
        # The second row is reached only after the deadline.
        rows = [SampleRequest(seed, 0.7, 512) for seed in range(8)]
        with pytest.raises(ServiceError, match=r"gave no answer within 0\.1 s") as caught:
            impatient.sample_rows(rows)
    assert caught.value.status == "DEADLINE_EXCEEDED"
    assert grew(cancelled, before) == 1


def test_alive(client: Get3DClient) -> None:
    assert client.is_ready()
    assert 0 < client.check_alive() < 10


def _raw(server: TritonServer, **tensors: np.ndarray) -> None:
    """A request that bypasses our client's own checks."""
    inputs = []
    for name, array in tensors.items():
        types = {"int64": "INT64", "int32": "INT32", "float32": "FP32", "object": "BYTES"}
        tensor = triton.InferInput(name, list(array.shape), types[str(array.dtype)])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    with triton.InferenceServerClient(server.grpc_url) as stub:
        stub.infer("get3d", inputs, client_timeout=20.0)


def _written(folder: Path, response: SampleResponse) -> Path:
    path = folder / f"written{FORMAT_SUFFIX[response.metadata.file_format]}"
    path.write_bytes(response.mesh)
    return path
