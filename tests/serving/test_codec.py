"""The wire format, without a server."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from get3d_model.errors import InputError
from get3d_model.mesh_io import mesh_bytes
from get3d_model.types import TexturedMesh
from serving import codec
from serving.codec import (
    SampleMetadata,
    SampleRequest,
    SampleResponse,
    consecutive,
    decode_requests,
    decode_responses,
    encode_requests,
    encode_responses,
    requested_outputs,
)


def _metadata(**values: object) -> SampleMetadata:
    standard = dict(
        seed=3, truncation_psi=0.7, texture_resolution=128, file_format="glb", vertices=4, faces=4,
        empty=False, bytes=5, model="tiny", version="2", kimg=1.5, checkpoint_sha256="ab", batch_size=8,
        milliseconds={"networks": 1.25},
    )  # fmt: skip
    return SampleMetadata(**{**standard, **values})


@pytest.mark.parametrize(
    "requests",
    [
        [SampleRequest(7)],
        [SampleRequest(2**63 - 1, 0.7, 64, "ply")],
        [SampleRequest(0, 0.0, 4096, "glb"), SampleRequest(1, 2.0, 64, "obj")],
        [
            SampleRequest(
                (3, 4, 5), weights=(0.25, 0.25, 0.5), deliver="mesh,latent,preview", preview_frames=4
            )
        ],
        [SampleRequest((3, 4), weights=(0.25, 0.75), seed_tex=9)] * 2,
        [SampleRequest(3, z_tex=((0.5, 1.0), (2.0, -1.0)), weights_tex=(0.5, 0.5), color="vertex")],
        [SampleRequest(z_geo=((0.5, 1.0),), w_tex=((3.0,),), class_name="car", target_triangles=500)],
        [SampleRequest(1, preview_azimuth_deg=12.3, preview_elevation_deg=-5.0, preview_resolution=64)],
    ],
)
def test_requests_come_back(requests: list[SampleRequest]) -> None:
    arrays = encode_requests(requests)
    assert all(len(array) == len(requests) for array in arrays.values())
    assert decode_requests(arrays) == requests


def test_one_latent_is_a_plain_vector() -> None:
    request = SampleRequest(z_geo=np.float32([1, 2]), w_tex=[0.5, 0.25])
    assert (request.z_geo, request.w_tex) == (((1.0, 2.0),), ((0.5, 0.25),))
    assert encode_requests([request])["z_geo"].shape == (1, 1, 2)
    assert SampleRequest([7]).seed == 7


def test_count_is_consecutive_seeds() -> None:
    assert [r.seed for r in consecutive(SampleRequest(5, 0.5), 3)] == [5, 6, 7]
    for request, count in (
        (SampleRequest(2**63 - 1), 2),
        (SampleRequest(0), 0),
        (SampleRequest(z_geo=[1], z_tex=[1]), 2),
    ):
        with pytest.raises(InputError, match="count"):
            consecutive(request, count)


def test_what_is_delivered() -> None:
    assert SampleRequest(0).delivers("mesh") and not SampleRequest(0).delivers("preview")
    request = SampleRequest(0, deliver="preview, latent")
    assert request.deliver == "latent,preview" and not request.delivers("mesh")
    assert requested_outputs([SampleRequest(0)]) == ["mesh", "metadata"]
    assert requested_outputs([request]) == ["mesh", "metadata", "preview", "latent_geo", "latent_tex"]


def test_absent_fields_are_not_sent() -> None:
    assert list(encode_requests([SampleRequest(7)])) == ["seed"]


def test_types_are_those_of_the_configuration() -> None:
    arrays = encode_requests([SampleRequest(7, 0.5, 64, "glb")])
    assert {name: array.dtype for name, array in arrays.items()} == {
        "seed": np.int64, "truncation_psi": np.float32, "texture_resolution": np.int32, "format": np.object_,
    }  # fmt: skip
    assert arrays["format"][0, 0] == b"glb"


def test_psi_is_the_decimal_that_was_meant() -> None:
    assert SampleRequest(0, 0.7).truncation_psi == 0.7
    assert decode_requests({"seed": np.array([[0]]), "truncation_psi": np.float32([[0.7]])}) == [
        SampleRequest(0, 0.7)
    ]
    # More digits than a float32 has are dropped on both sides alike.
    request = SampleRequest(0, 0.123456789123)
    assert decode_requests(encode_requests([request])) == [request]
    assert np.float32(request.truncation_psi) == np.float32(0.123456789123)


def test_numpy_integers_are_integers() -> None:
    assert SampleRequest(np.int64(5), None, np.int32(64)) == SampleRequest(5, None, 64)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"seed": -1}, ["seed -1", "0 to 9223372036854775807"]),
        ({"seed": 2**63}, ["seed 9223372036854775808", "0 to"]),
        ({"seed": 1.5}, ["seed", "integer", "1.5"]),
        ({"seed": True}, ["seed", "integer", "True"]),
        ({"seed": "3"}, ["seed", "integer", "'3'"]),
        ({"truncation_psi": -0.1}, ["truncation_psi -0.1", "at most 2"]),
        ({"truncation_psi": 2.1}, ["truncation_psi 2.1", "at most 2"]),
        ({"truncation_psi": float("nan")}, ["truncation_psi nan"]),
        ({"truncation_psi": float("inf")}, ["truncation_psi inf"]),
        ({"truncation_psi": "1"}, ["truncation_psi", "number", "'1'"]),
        ({"texture_resolution": 32}, ["texture_resolution 32", "64 to 4096"]),
        ({"texture_resolution": 8192}, ["texture_resolution 8192", "64 to 4096"]),
        ({"texture_resolution": 100}, ["texture_resolution 100", "power of two"]),
        ({"texture_resolution": -128}, ["texture_resolution -128"]),
        ({"texture_resolution": 128.0}, ["texture_resolution", "integer"]),
        ({"file_format": "fbx"}, ["format 'fbx'", "glb, obj, ply"]),
        ({"file_format": "GLB"}, ["format 'GLB'"]),
        ({"file_format": "x" * 500}, ["format must be a text of 1 to 128 characters"]),
        ({"seed": None}, ["nothing says which geometry"]),
        ({"seed": None, "z_geo": [1.0]}, ["nothing says which texture"]),
        ({"z_geo": [1.0]}, ["the geometry is given by seed and z_geo"]),
        ({"seed_tex": 1, "w_tex": [1.0]}, ["the texture is given by seed_tex and w_tex"]),
        ({"seed_tex": -1}, ["seed_tex -1"]),
        ({"z_tex": [1.0, float("nan")]}, ["z_tex", "NaN"]),
        ({"z_tex": [1e300]}, ["z_tex", "infinite"]),
        ({"z_tex": "abc"}, ["z_tex must be numbers"]),
        ({"seed": (1, 2)}, ["seed has 2 latents; say by weights"]),
        ({"seed": (1, 2), "weights": (0.5, 0.4)}, ["weights", "sum is 1"]),
        ({"seed": (1, 2), "weights": (1.5, -0.5)}, ["weights", "from 0 to 1"]),
        ({"seed": (1, 2), "weights": (float("nan"), 1)}, ["weights"]),
        ({"seed": (1, 2, 3), "weights": (0.5, 0.5)}, ["seed has 3 latents, weights 2 shares"]),
        ({"seed": 1, "weights_tex": (0.5, 0.5)}, ["weights_tex 2 shares"]),
        ({"deliver": "mesh,image"}, ["deliver 'image'"]),
        ({"color": "vertex", "file_format": "obj"}, ["'obj' has no colours at vertices", "glb or ply"]),
        ({"target_triangles": 3}, ["target_triangles 3", "64 to 1000000"]),
        ({"preview_resolution": 4096}, ["preview_resolution 4096", "32 to 1024"]),
        ({"preview_elevation_deg": 90}, ["preview_elevation_deg 90", "-89 to 89"]),
        ({"preview_azimuth_deg": float("nan")}, ["preview_azimuth_deg nan"]),
        ({"preview_frames": 33}, ["preview_frames 33", "1 to 32"]),
    ],
)
def test_bad_values_are_named(values: dict[str, object], expected: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        SampleRequest(**{"seed": 0, **values})
    message = str(caught.value)
    assert all(part in message for part in expected), message
    assert "\n" not in message


SEED = np.array([[1], [2]], dtype=np.int64)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({}, ["seed", "missing"]),
        ({"seed": SEED.astype(np.int32)}, ["seed", "INT64", "int32"]),
        ({"seed": SEED[:, 0]}, ["seed", "[rows, any]", "[2]"]),
        ({"seed": SEED.reshape(1, 2)}, ["seed has 2 latents; say by weights how to mix them"]),
        ({"seed": SEED[:0]}, ["seed", "[0, 1]"]),
        ({"truncation_psi": np.float32([[1]])}, ["nothing says which geometry", "seed, z_geo, w_geo"]),
        ({"seed": SEED, "truncation_psi": np.float32([[1, 1]] * 2)}, ["[rows, 1]", "[2, 2]"]),
        ({"seed": SEED, "z_tex": np.float32([[1], [1]])}, ["z_tex", "[rows, any, any]", "[2, 1]"]),
        ({"seed": np.tile(SEED, (1, 17))}, ["seed has 17 values; mix 1 to 16"]),
        ({"z_geo": np.zeros((1, 1, 5000), np.float32)}, ["z_geo", "4096 values"]),
        ({"seed": SEED, "truncation_psi": np.float32([[1]])}, ["truncation_psi has 1 rows", "seed has 2"]),
        ({"seed": SEED, "colour": SEED}, ["unknown input colour", "seed, seed_tex"]),
        ({"seed": SEED, "format": np.array([[b"\xff"]] * 2, dtype=object)}, ["format", "not text"]),
        ({"seed": -SEED}, ["seed -1"]),
    ],
)
def test_bad_tensors_are_named(arrays: dict[str, np.ndarray], expected: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        decode_requests(arrays)
    assert all(part in str(caught.value) for part in expected), caught.value


def test_rows_cannot_differ_in_what_they_give() -> None:
    with pytest.raises(InputError, match="truncation_psi is given in some rows only"):
        encode_requests([SampleRequest(0, 0.5), SampleRequest(1)])
    with pytest.raises(InputError, match="at least one row"):
        encode_requests([])


def test_responses_come_back() -> None:
    responses = [
        SampleResponse(b"\x00\xffglb", _metadata()),
        SampleResponse(b"", _metadata(seed=4, empty=True)),
    ]
    arrays = encode_responses(responses)
    assert all(array.shape == (2, 1) for array in arrays.values())
    assert decode_responses(arrays) == responses


def test_previews_and_latents_come_back() -> None:
    latent = np.float32([0.5, -1.0])
    responses = [
        SampleResponse(b"x", _metadata(), (b"a", b"b"), latent, 2 * latent),
        SampleResponse(b"", _metadata(seed=None)),
        SampleResponse(b"", _metadata(seed=[1, 2]), (b"c",)),
    ]
    arrays = encode_responses(responses)
    assert arrays["preview"].shape == (3, 2) and arrays["latent_geo"].shape == (3, 2)
    back = decode_responses(arrays)
    assert back == responses
    np.testing.assert_array_equal(back[0].latent_tex, 2 * latent)
    assert back[1].latent_geo is None


def test_newer_servers_may_say_more() -> None:
    arrays = encode_responses([SampleResponse(b"x", _metadata())])
    arrays["metadata"][0, 0] = arrays["metadata"][0, 0].replace(b"{", b'{"novelty": 1, ', 1)
    assert decode_responses(arrays) == [SampleResponse(b"x", _metadata())]


@pytest.mark.parametrize("text", [b"{}", b"[]", b"no json"])
def test_foreign_answers_are_refused(text: bytes) -> None:
    arrays = encode_responses([SampleResponse(b"x", _metadata())])
    arrays["metadata"][0, 0] = text
    with pytest.raises(ValueError, match="not one of a get3d model"):
        decode_responses(arrays)
    with pytest.raises(ValueError, match="not one of a get3d model"):
        decode_responses({})


def test_the_library_writes_every_format_offered() -> None:
    triangle = TexturedMesh(
        np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32), np.eye(3, 2, dtype=np.float32),
        np.zeros((2, 2, 3), np.uint8),
    )  # fmt: skip
    assert all(mesh_bytes(triangle, name) for name in codec.FORMAT_SUFFIX)


@pytest.mark.parametrize(
    "module", ["serving.codec", "serving.client", "serving.server", "components.sample.main"]
)
def test_clients_need_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
