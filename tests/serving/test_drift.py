"""Drift statistics against known solids, and the index against its definition by hand."""

from __future__ import annotations

import dataclasses
import math
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import trimesh
from prometheus_client.parser import text_string_to_metric_families

from components.export.main import export
from get3d_model.errors import InputError
from get3d_model.inference import Sampler
from get3d_model.types import Mesh
from monitoring.metrics import (
    DRIFT_BINS,
    MESH_STATISTICS,
    RENDER_STATISTICS,
    SERVING,
    series_names,
)
from serving import drift
from serving.client import Get3DClient
from serving.codec import SampleRequest
from serving.server import TritonServer


def box(extents: tuple[float, float, float]) -> Mesh:
    solid = trimesh.creation.box(extents)
    return Mesh(solid.vertices.astype(np.float32), solid.faces.astype(np.int32))


def test_statistics_of_a_box() -> None:
    colors = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    values = drift.statistics_of(box((1.0, 0.5, 0.25)), colors)
    assert values.keys() == set(MESH_STATISTICS)
    assert values == pytest.approx(
        {
            "triangles": 12, "area": 1.75, "volume": 0.125, "extent_x": 1.0, "extent_y": 0.5, "extent_z": 0.25,
            "brightness": 1 / 3, "saturation": 1.0,
        }
    )  # fmt: skip


def test_statistics_of_a_picture() -> None:
    """A quarter is covered, half of it black and half of it pure red; what is not covered does not count."""
    rgba_HW4 = np.full((8, 8, 4), 255, np.uint8)
    rgba_HW4[..., 3] = 0
    rgba_HW4[:4, :4, 3] = 255
    rgba_HW4[:2, :4, :3] = 0
    rgba_HW4[2:4, :4] = (255, 0, 0, 255)
    values = drift.statistics_of_picture(rgba_HW4)
    assert values == pytest.approx(
        {
            "render_silhouette": 1 / 4,
            "render_brightness": 1 / 6,
            "render_saturation": 1 / 2,
            "render_contrast": 1 / 6,
        }
    )
    assert values.keys() == set(RENDER_STATISTICS)
    rgba_HW4[..., 3] = 0
    assert drift.statistics_of_picture(rgba_HW4) == {"render_silhouette": 0.0}


def test_an_empty_and_a_broken_mesh() -> None:
    empty = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    assert drift.statistics_of(empty, np.zeros((0, 3), np.uint8))["area"] == 0
    broken = box((1, 1, 1))
    broken.vertices_V3[0, 0] = np.nan
    assert "volume" not in drift.statistics_of(broken, np.zeros((1, 3), np.uint8))


def population(seed: int, scale: float, count: int) -> list[dict[str, float]]:
    generator = np.random.default_rng(seed)
    sizes = generator.uniform(0.5, 1.0, (count, 3)) * scale
    colors = generator.integers(0, 256, (count, 16, 3)).astype(np.uint8)
    return [drift.statistics_of(box(tuple(s)), c) for s, c in zip(sizes, colors, strict=True)]


def index(reference: drift.DriftReference, values: list[dict[str, float]], name: str) -> float:
    bins = [reference.bin_of(name, v[name]) for v in values]
    return drift.psi(reference.shares(name), [bins.count(number) for number in DRIFT_BINS])


def test_the_index_tells_another_population_from_the_same() -> None:
    reference = drift.make_reference(population(0, 1.0, drift.DEFAULT_SAMPLES), 0.7)
    same, smaller = population(1, 1.0, 200), population(2, 0.6, 200)
    for name in ("area", "volume", "extent_x", "brightness", "saturation"):
        assert index(reference, same, name) < 0.25, name
    for name in ("area", "volume", "extent_x"):
        assert index(reference, smaller, name) > 1.0, name
    assert index(reference, same, "triangles") < 0.01, "a constant is one bin, here and there"


def discs(seed: int, count: int, shade: float) -> list[dict[str, float]]:
    """Statistics of pictures of coloured discs of random sizes and colours, which are `shade` of what they may be."""
    generator = np.random.default_rng(seed)
    y_HW, x_HW = np.mgrid[-1:1:32j, -1:1:32j]
    found = []
    for radius, color_3 in zip(generator.uniform(0.3, 0.9, count), generator.random((count, 3)), strict=True):
        inside_HW = x_HW**2 + y_HW**2 < radius**2
        texture_HW = 0.5 + 0.5 * generator.random((32, 32))
        rgb_HW3 = np.where(inside_HW[..., None], texture_HW[..., None] * color_3 * shade, 1.0)
        rgba_HW4 = np.concatenate([rgb_HW3, inside_HW[..., None]], axis=2)
        found.append(drift.statistics_of_picture((rgba_HW4 * 255).astype(np.uint8)))
    return found


def test_the_index_tells_pictures_that_went_dark_from_the_same() -> None:
    """As where another rasteriser or driver draws otherwise, though the meshes are the same."""
    reference = drift.make_reference(discs(0, drift.DEFAULT_SAMPLES, 1.0), 0.7)
    same, dark = discs(1, 200, 1.0), discs(2, 200, 0.4)
    for name in RENDER_STATISTICS:
        assert index(reference, same, name) < 0.25, name
        assert (index(reference, dark, name) > 0.25) == (name != "render_silhouette"), name


def test_the_index_by_hand() -> None:
    counts = [9.5, 19.5, 29.5]  # with the half added: 10, 20, 30 of 60
    expected = [0.2, 0.3, 0.5]
    by_hand = sum((n / 60 - e) * math.log(n / 60 / e) for n, e in zip((10, 20, 30), expected, strict=True))
    assert drift.psi(expected, counts) == pytest.approx(by_hand)
    assert drift.psi([0.25] * 4, [5, 5, 5, 5]) == pytest.approx(0.0, abs=1e-12)


def test_files(tmp_path: Path) -> None:
    assert drift.read_drift(tmp_path) is None
    reference = drift.make_reference(population(0, 1.0, 40), 0.7)
    drift.write_drift(tmp_path, reference)
    assert drift.read_drift(tmp_path) == reference
    drift.write_drift(tmp_path, dataclasses.replace(reference, edges={"area": [1.0]}))
    with pytest.raises(InputError, match=r"drift\.json: not a drift reference .*export the model again"):
        drift.read_drift(tmp_path)
    with pytest.raises(InputError, match="must be 20 or more"):
        drift.make_reference([], 0.7)


def test_samples_of_a_model_are_counted_as_they_were_recorded(checkpoint: Path) -> None:
    """The same seeds fall into the bins that the reference says; other settings are not compared."""
    sampler = Sampler.load(checkpoint)
    reference = drift.sample_reference(sampler, 20, 0.7)
    counted: list[tuple[str, str]] = []
    counter = drift.DriftCounter(reference, lambda *place: counted.append(place))
    for seed in range(20):
        shapes = sampler.shapes(sampler.styles([seed], 0.7))
        counter.see(drift.measured(sampler, shapes, 0, shapes.meshes.to_host()[0]))
        counter.see(drift.rendered(sampler, shapes))
    assert reference.edges.keys() == {*MESH_STATISTICS, *RENDER_STATISTICS}
    for name in reference.edges:
        assert [counted.count((name, number)) for number in DRIFT_BINS] == reference.counts[name]
    assert counter.wants(SampleRequest(3, 0.7)) and not counter.wants(SampleRequest(3, 0.7)), (
        "a seed counts once"
    )
    others = (
        SampleRequest(3, 0.5),
        SampleRequest((1, 2), 0.7, weights=(0.5, 0.5)),
        SampleRequest(3, 0.7, seed_tex=4),
    )
    assert not any(counter.wants(request) for request in (*others, SampleRequest(0, 0.7)))
    assert all(counter.wants(SampleRequest(seed, 0.7)) for seed in range(4, 4 + drift.REMEMBERED_SEEDS))
    assert counter.wants(SampleRequest(3, 0.7)), "long ago"
    assert [counter.wants_render() for _ in range(8)] == [False, False, False, True] * 2
    without = {name: edges for name, edges in reference.edges.items() if name in MESH_STATISTICS}
    older = drift.DriftCounter(dataclasses.replace(reference, edges=without), lambda *place: None)
    assert not any(older.wants_render() for _ in range(8)), (
        "a version that was exported before there were pictures"
    )
    sampler.rasterizer = None
    assert drift.rendered(sampler, shapes) == {}


@pytest.mark.e2e
def test_the_real_server_counts_what_it_samples(checkpoint: Path, tmp_path: Path) -> None:
    """Through Triton's own metrics endpoint: reference shares, and every mesh in one bin of each statistic."""
    export(checkpoint, tmp_path, onnx=False, drift_samples=20)
    reference = drift.read_drift(tmp_path / "get3d" / "1")
    with TritonServer(tmp_path) as server, Get3DClient(server.grpc_url, timeout_s=20.0) as client:
        rows = [SampleRequest(seed, file_format="ply") for seed in range(1, 6)]
        faces = [row.metadata.faces for row in client.sample_rows(rows)]
        client.sample(SampleRequest(7, 0.2, file_format="ply"))

        def samples() -> dict[str, list[tuple[dict[str, str], float]]]:
            text = urllib.request.urlopen(server.metrics_url, timeout=5).read().decode()
            found: dict[str, list[tuple[dict[str, str], float]]] = {}
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    found.setdefault(sample.name, []).append((sample.labels, sample.value))
            return found

        deadline = time.monotonic() + 5.0
        while (found := samples())["get3d_mesh_triangles_count"][0][1] < 7 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert {name for metric in SERVING for name in series_names(metric)} <= found.keys() | {
        "get3d_errors_total"
    }
    places = {
        (labels["statistic"], labels["bin"]): count
        for labels, count in found["get3d_sampled_statistic_total"]
    }
    for name in (*MESH_STATISTICS, *RENDER_STATISTICS):
        counted = 5 if name in MESH_STATISTICS else 5 // drift.RENDER_EVERY
        assert sum(places[name, number] for number in DRIFT_BINS) == counted, (
            "the sixth had another truncation"
        )
    expected = [reference.bin_of("triangles", float(count)) for count in faces]
    assert [places["triangles", number] for number in DRIFT_BINS] == [expected.count(n) for n in DRIFT_BINS]
    shares = {(labels["statistic"], labels["bin"]): share for labels, share in found["get3d_reference_share"]}
    assert [shares["area", n] for n in DRIFT_BINS] == pytest.approx(reference.shares("area"))
    assert found["get3d_request_duration_seconds_count"][0][1] == 3, "the warm-up among them"
    assert found["get3d_queue_limit"][0][1] == 64
    assert found["get3d_shm_size_bytes"][0][1] > found["get3d_shm_used_bytes"][0][1] > 0
