"""What requests can ask for, through the real server: latents, mixtures, decimation, colours, previews, limits."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from get3d_model.errors import InputError
from get3d_model.inference import Sampler
from get3d_model.latents import latent_codes
from serving.client import Get3DClient
from serving.codec import SampleRequest, SampleResponse, encode_requests
from serving.server import TritonServer
from tests.serving.tiny import MODEL


@pytest.fixture(scope="module")
def sampler(checkpoint: Path) -> Sampler:
    return Sampler.load(checkpoint)


def loaded(response: SampleResponse) -> trimesh.Trimesh:
    kind = response.metadata.file_format
    return trimesh.load(io.BytesIO(response.mesh), file_type=kind, force="mesh", process=False)


KINDS = [
    SampleRequest(3),
    SampleRequest(3, 0.4, 128, "obj"),
    SampleRequest(3, color="vertex"),
    SampleRequest(3, color="vertex", file_format="ply"),
    SampleRequest(3, target_triangles=100),
    SampleRequest(3, seed_tex=8),
    SampleRequest((3, 5, 9), weights=(0.5, 0.25, 0.25)),
    SampleRequest((3, 5), weights=(1.0, 0.0), z_tex=np.full(MODEL.z_dim, 0.3)),
    SampleRequest(w_geo=np.full(MODEL.w_dim, 0.2), seed_tex=1),
    SampleRequest(3, deliver="preview", preview_frames=2, preview_resolution=64),
    SampleRequest(3, deliver="mesh,latent"),
]


def test_every_kind_is_the_same_alone_and_in_company(client: Get3DClient) -> None:
    alone = [client.sample(request) for request in KINDS]
    with ThreadPoolExecutor(len(KINDS) * 2) as pool:
        together = list(pool.map(client.sample, KINDS * 2))
    for request, first, second in zip(KINDS * 2, alone * 2, together, strict=True):
        assert first.mesh == second.mesh, request
        assert first.previews == second.previews, request
    rows = client.sample_rows([SampleRequest(seed) for seed in range(8)])
    assert rows[3].metadata.batch_size == 8 and rows[3].mesh == alone[0].mesh


def test_geometry_and_texture_apart(client: Get3DClient) -> None:
    first, other, mixed = (
        loaded(client.sample(SampleRequest(color="vertex", file_format="ply", **seeds)))
        for seeds in ({"seed": 3}, {"seed": 8}, {"seed": 3, "seed_tex": 8})
    )
    np.testing.assert_array_equal(mixed.vertices, first.vertices)
    assert (mixed.visual.vertex_colors != first.visual.vertex_colors).any()
    assert len(other.vertices) != len(mixed.vertices) or (other.vertices != mixed.vertices).any()
    # What is asked for comes back, so that it can be asked for again.
    for seeds in (
        {"seed": 3},
        {"seed": 3, "seed_tex": 8},
        {"seed": 3, "seed_tex": (4, 5), "weights_tex": (0.5, 0.5)},
    ):
        told = client.sample(SampleRequest(deliver="latent", **seeds)).metadata
        wanted = seeds.get("seed_tex")
        assert (told.seed, told.seed_tex) == (3, list(wanted) if isinstance(wanted, tuple) else wanted)


def test_explicit_latents_are_those_of_the_seed(client: Get3DClient) -> None:
    geo_Z, tex_Z = latent_codes([4], MODEL.z_dim)[0][0].numpy()
    by_seed = client.sample(SampleRequest(4, 0.8))
    by_latents = client.sample(SampleRequest(z_geo=geo_Z, z_tex=tex_Z, truncation_psi=0.8))
    np.testing.assert_array_equal(loaded(by_seed).vertices, loaded(by_latents).vertices)
    assert by_latents.metadata.seed is None


def test_a_mixture_is_linear_in_w(client: Get3DClient, sampler: Sampler) -> None:
    shares = torch.tensor([[0.25], [0.75]])
    styles = sampler.styles([3, 5], 0.7)
    answer = client.sample(SampleRequest((3, 5), 0.7, weights=(0.25, 0.75), deliver="latent"))
    assert answer.mesh == b"" and answer.metadata.seed == [3, 5] and answer.metadata.watertight is None
    for w_BD, latent_D in ((styles.w_geo_BD, answer.latent_geo), (styles.w_tex_BD, answer.latent_tex)):
        np.testing.assert_allclose(latent_D, (w_BD * shares).sum(dim=0).numpy(), atol=1e-5)
    # One that has all the weight is itself.
    alone, whole = (client.sample(SampleRequest(s, weights=w)) for s, w in ((5, None), ((3, 5), (0.0, 1.0))))
    np.testing.assert_array_equal(loaded(alone).vertices, loaded(whole).vertices)


def test_latents_come_back_as_what_they_were(client: Get3DClient) -> None:
    first = client.sample(SampleRequest(6, 0.6, None, "ply", color="vertex", deliver="mesh,latent"))
    again = client.sample(
        SampleRequest(w_geo=first.latent_geo, w_tex=first.latent_tex, color="vertex", file_format="ply")
    )
    np.testing.assert_array_equal(loaded(first).vertices, loaded(again).vertices)
    np.testing.assert_array_equal(loaded(first).visual.vertex_colors, loaded(again).visual.vertex_colors)


def test_fewer_triangles(client: Get3DClient) -> None:
    full = client.sample(SampleRequest(3)).metadata
    few = client.sample(SampleRequest(3, target_triangles=100))
    assert full.triangles > 110 and full.triangles_before is None
    assert few.metadata.triangles <= 110 and few.metadata.triangles_before == full.triangles
    assert len(loaded(few).faces) == few.metadata.triangles
    plain = client.sample(SampleRequest(3, target_triangles=1_000_000))
    assert plain.metadata.triangles_before is None and plain.metadata.triangles == full.triangles


def test_previews_are_pictures(client: Get3DClient, sampler: Sampler) -> None:
    request = SampleRequest(
        3, deliver="preview,mesh", preview_frames=4, preview_resolution=48, preview_azimuth_deg=10.0
    )
    answer = client.sample(request)
    pictures = [Image.open(io.BytesIO(png)) for png in answer.previews]
    assert [(p.size, p.mode, p.format) for p in pictures] == [((48, 48), "RGBA", "PNG")] * 4
    alphas = [np.asarray(picture)[..., 3] for picture in pictures]
    assert all(0.02 < (alpha > 127).mean() < 0.98 for alpha in alphas), "a shape with room around it"
    assert len({png for png in answer.previews}) == 4
    # A quarter of the turn on, the second frame is what a camera there sees.
    there = client.sample(
        SampleRequest(3, deliver="preview", preview_resolution=48, preview_azimuth_deg=100.0)
    )
    np.testing.assert_allclose(
        np.asarray(Image.open(io.BytesIO(there.previews[0])), int), np.asarray(pictures[1], int), atol=2
    )
    above = client.sample(
        SampleRequest(3, deliver="preview", preview_resolution=48, preview_elevation_deg=80.0)
    )
    assert above.previews[0] != there.previews[0] and above.mesh == b""


def test_rows_may_have_different_numbers_of_previews(client: Get3DClient) -> None:
    rows = client.sample_rows(
        [SampleRequest(s, deliver="preview", preview_resolution=32, preview_frames=s) for s in (1, 3)]
    )
    assert [len(row.previews) for row in rows] == [1, 3]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"z_geo": [1.0, 2.0], "seed_tex": 0}, "z_geo has 2 values per latent; the model tiny has 16"),
        ({"seed": 0, "w_tex": [1.0] * 5}, "w_tex has 5 values per latent"),
        ({"seed": 0, "class_name": "../../etc/passwd"}, "has no classes; leave the class out"),
        (
            {"seed": 0, "deliver": "preview", "preview_frames": 32, "preview_resolution": 1024},
            "128 MiB, more than 64",
        ),
    ],
)
def test_what_this_model_does_not_have(client: Get3DClient, values: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        client.sample(SampleRequest(**values))


def test_a_request_can_limit_its_own_time(server: TritonServer) -> None:
    arrays = encode_requests([SampleRequest(seed, texture_resolution=1024) for seed in range(8)])
    inputs = []
    for name, kind in (("seed", "INT64"), ("texture_resolution", "INT32")):
        inputs.append(triton.InferInput(name, list(arrays[name].shape), kind))
        inputs[-1].set_data_from_numpy(arrays[name])
    with triton.InferenceServerClient(server.grpc_url) as stub:
        with pytest.raises(
            InferenceServerException, match=r"longer than the limit of 0\.02 s .*ask for"
        ) as caught:
            stub.infer("get3d", inputs, timeout=20_000, client_timeout=60.0)
        assert caught.value.status() == "StatusCode.CANCELLED"
