"""`get3d evaluate` on meshes that stand for a data set of five shapes, with a network of the Inception's interface."""

from __future__ import annotations

import json
import math
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
import yaml

from components.evaluate.evaluation import Evaluation, evaluate
from components.evaluate.gate import decide
from components.evaluate.images import NAMES
from components.evaluate.main import main
from components.evaluate.results import flat, protocols
from get3d_model.config import config_to_dict
from get3d_model.data.manifest import Manifest, read_manifest, write_manifest
from get3d_model.errors import InputError
from get3d_model.evaluation_settings import EvaluationConfig, Threshold
from get3d_model.files import sha256_file
from get3d_model.inference import Sampler
from get3d_model.mesh_io import save_mesh
from get3d_model.metrics.second_opinion import missing_requirement
from get3d_model.types import TexturedMesh
from get3d_model.weights import load_tensors, save_tensors
from pipelines import cli
from tests.get3d_model.data.synthetic import SHAPES
from tests.get3d_model.metrics.fake_inception import write_fake_inception
from tests.get3d_model.training.tiny import tiny_config, write_params
from tests.serving.tiny import write_checkpoint

SETTINGS = EvaluationConfig(
    samples_per_reference=3, surface_points=128, memorization_points=64, min_samples=6, bootstrap_resamples=40,
    image_samples=12, fid_resamples=5, texture_resolution=64, sheet_samples=2, distances=("cd",),
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GET3D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box of its own proportions for every shape of the data set."""
    folder = tmp_path_factory.mktemp("meshes")
    for index, name in enumerate(SHAPES):
        write_box(folder / f"{name}.glb", (1.0, 1.0 + index, 2.0))
    return folder


def write_box(path: Path, extents: tuple[float, float, float]) -> None:
    box = trimesh.creation.box(extents=extents)
    textured = TexturedMesh(
        box.vertices.astype(np.float32), box.faces.astype(np.int32),
        np.zeros((len(box.vertices), 2), np.float32), np.full((4, 4, 3), 128, np.uint8),
    )  # fmt: skip
    save_mesh(textured, path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def measure(checkpoint: Path, tiny_data: Path, meshes: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    """published: the small network stands for the published one, by its hash."""

    def run(
        manifest: Manifest | None = None,
        folder: Path = meshes,
        device: str = "cpu",
        published: bool = True,
        **settings: Any,
    ) -> Evaluation:
        chosen, sha256 = replace(SETTINGS, **settings), None
        manifest = manifest or read_manifest(tiny_data)
        sampler = Sampler.load(checkpoint, device)
        if chosen.inception:
            sha256 = write_fake_inception(Path(chosen.inception))
            if published:
                monkeypatch.setattr("components.evaluate.images.SHA256", sha256)
        return evaluate(sampler, tiny_data, manifest, folder, chosen, cache, sha256)

    return run


def arguments(checkpoint: Path, data: Path, meshes: Path, out: Path) -> list[str]:
    return ["--checkpoint", str(checkpoint), "--data", str(data), "--meshes", str(meshes), "--out", str(out)]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(), parse_constant=no_constant)


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.e2e
def test_files(checkpoint: Path, tiny_data: Path, meshes: Path, tmp_path: Path, capsys) -> None:
    data = config_to_dict(tiny_config(1))
    data["evaluation"]["thresholds"] = [
        {"metric": "empty_fraction", "max": 0.5},
        {"metric": "fid_ori", "max": 9.0},
    ]
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(data))
    out = tmp_path / "new" / "out"
    assert main([*arguments(checkpoint, tiny_data, meshes, out), "--config", str(params)]) == 0
    metrics, whole, gate = (read(out / f"{n}.json") for n in ("metrics", "metrics_full", "gate"))
    assert all(value is None or isinstance(value, (int, float, str)) for value in metrics.values())
    assert (metrics["references"], metrics["samples"], metrics["train_control"]) == (2, 2, 2)
    assert metrics["surface_points"] == 64
    assert 0 <= metrics["cd_cov"] <= 1 and metrics["cd_mmd_x1000"] > 0
    assert 0 <= metrics["lfd_cov"] <= 1 and metrics["lfd_mmd"] > 0 and metrics["train_lfd_mmd"] > 0
    assert 0 < metrics["texture_utilisation_median"] <= 1
    assert metrics["checkpoint_sha256"] == Sampler.load(checkpoint).identity.sha256
    for name, item in whole["metrics"].items():
        assert metrics[name] == item["value"]
        assert item["low"] <= item["value"] <= item["high"], name
    for control, items in whole["controls"].items():
        assert all(metrics[f"{control}_{name}"] == item["value"] for name, item in items.items())
    # Without the network's weights there is no number, and nothing in its place.
    assert all(metrics[name] is None and "--weights" in whole["unavailable"][name] for name in NAMES)
    assert gate["decision"] == "hold" and "fid_ori has no value: unavailable: " in gate["reasons"][0]
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*whole["metrics"], *NAMES]) and "hold:\n  fid_ori" in printed
    page = (out / "report.html").read_text()
    assert "unavailable: the Inception-v3 weights" in page and ">Hold<" in page and gate["reasons"][0] in page
    assert not re.search(r'(src|href)="(?!data:|#)', page), "the page stands alone"
    rows = read(out / "plots" / "nearest_training_shape.json")
    assert [row["percent"] for row in rows] == list(range(0, 101, 2))
    assert rows[25]["samples"] == metrics["memorization_shape_distance_median"]
    assert rows[25]["held_out"] == metrics["self_memorization_shape_distance_median"]
    assert (out / "samples.png").stat().st_size > 100
    # The model may become the one in production: the same numbers are no worse.
    capsys.readouterr()
    data["evaluation"]["thresholds"] = [{"metric": "cd_mmd_x1000", "worse_than_production": 0.0}]
    params.write_text(yaml.safe_dump(data))
    command = arguments(checkpoint, tiny_data, meshes, tmp_path / "second")
    assert (
        cli.main(["evaluate", *command, "--config", str(params), "--production", str(out / "metrics.json")])
        == 0
    )
    assert read(tmp_path / "second" / "gate.json")["decision"] == "promote"
    assert "no worse" in capsys.readouterr().out
    assert (tmp_path / "second" / "metrics.json").read_bytes() == (out / "metrics.json").read_bytes()


def test_fid_and_kid_with_the_networks_weights(measure, tmp_path: Path, cache: Path) -> None:
    network = str(tmp_path / "network.pt")
    first = measure(inception=network)
    section = first.section
    assert section.metrics.keys() >= set(NAMES) and not section.unavailable
    for control in ("train", "self"):
        assert section.controls[control]["fid_ori"] == section.controls[control]["fid_3d"]
    # An untrained model's pictures are farther from the held-out ones than the training pictures are.
    assert section.metrics["fid_ori"].value > section.controls["train"]["fid_ori"].value >= 0
    assert section.facts["image_samples"] == 12 and section.facts["image_references"] == 6
    assert section.settings["image_resolution"] == 16 and len(section.settings["inception_sha256"]) == 64
    cameras = section.settings["image_cameras"]
    assert cameras.startswith("orbit, rotation_deg (0.0, 360.0), ") and "field_of_view_deg 49.1" in cameras
    # 12 and 6 pictures: a hundred choices of six.
    assert (section.settings["kid_subsets"], section.settings["kid_subset_size"]) == (100, 6)
    assert section.second.keys() == set(NAMES)
    for name, opinion in section.second.items():
        if why_alone := missing_requirement():
            assert opinion.source == why_alone and flat(section)[f"second_{name}"] is None
        else:
            assert opinion.source.startswith("torch-fidelity ")
            # FID of 12 and 6 pictures by eigenvalues of singular products: 1e-3 of a level of some tenths.
            allowed = 6 * opinion.standard_error + 1e-3 * abs(section.metrics[name].value) + 1e-5
            assert abs(opinion.value - section.metrics[name].value) <= allowed
    stored = sorted((cache / "features").iterdir())
    times = [file.stat().st_mtime_ns for file in stored]
    assert len(stored) == 2, "held-out and training pictures"
    again = measure(inception=network)
    assert flat(again.section) == flat(section)
    assert [file.stat().st_mtime_ns for file in sorted((cache / "features").iterdir())] == times
    smaller = measure(inception=network, image_resolution=8 * 2)
    assert smaller.section.metrics["fid_ori"] == section.metrics["fid_ori"]
    # What was done is what is recorded: one subset where it is the whole, points as many as there are.
    whole = measure(inception=network, image_samples=6, surface_points=32, memorization_points=64).section
    assert (whole.settings["kid_subsets"], whole.settings["kid_subset_size"]) == (1, 6)
    assert whole.settings["memorization_points"] == 32


def test_another_network_has_names_of_its_own(measure, tmp_path: Path) -> None:
    section = measure(inception=str(tmp_path / "network.pt"), published=False).section
    assert set(section.unavailable) == set(NAMES)
    assert all(
        "of another network (see other_network_fid_ori); the Inc" in v for v in section.unavailable.values()
    )
    values = flat(section)
    assert all(values[name] is None and values[f"other_network_{name}"] > -1 for name in NAMES)
    verdict = decide(section, [Threshold("fid_ori", max=1e9)], None)
    assert verdict.decision == "hold" and "fid_ori has no value" in verdict.reasons[0]
    assert decide(section, [Threshold("other_network_fid_ori", max=1e9)], None).decision == "promote"


def test_pictures_must_be_enough_and_large_enough(
    measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before anything is sampled, which takes long."""
    monkeypatch.setattr("components.evaluate.evaluation.draw_samples", lambda *_: pytest.fail("sampled"))
    network = str(tmp_path / "network.pt")
    with pytest.raises(InputError, match=r"6 held-out pictures are too few: at least 7 .*min_samples"):
        measure(inception=network, samples_per_reference=4, min_samples=7)
    with pytest.raises(InputError, match=r"image_samples \(5\) is too small"):
        measure(inception=network, image_samples=5)
    with pytest.raises(InputError, match=r"image_resolution \(64\) is above that of the data set, 16"):
        measure(image_resolution=64)


def test_the_control_is_measured_like_the_samples(measure, tiny_data: Path) -> None:
    """Held-out shapes in the place of the training shapes: all are found, at no distance."""
    manifest = read_manifest(tiny_data)
    val = manifest.splits["val"]
    control = measure(replace(manifest, splits={"train": val, "val": val})).section.controls["train"]
    assert control["cd_cov"].value == 1.0 and control["cd_mmd_x1000"].value == pytest.approx(0.0, abs=1e-3)
    assert control["jsd"].value == pytest.approx(0.0, abs=1e-9)
    assert measure().section.controls["train"]["cd_mmd_x1000"].value > 1.0
    without = measure(replace(manifest, splits={"val": val})).section
    assert "train" not in without.controls and "memorization_shape" in without.unavailable


def test_the_meshes_of_the_data_set_stand_beside_the_samples(measure, cache: Path) -> None:
    found = measure()
    section = found.section
    for control in ("train", "self"):
        # Boxes with one texel each.
        quality = section.controls[control]
        assert quality["watertight_fraction"].value == 1.0 and quality["triangles_median"].value == 12.0
        assert "empty_fraction" not in quality, "meshes without a surface are excluded instead"
    assert section.controls["train"]["memorization_shape"].value == 1.0, "a training shape is a copy"
    assert section.controls["self"]["memorization_shape"].value == 0.5
    curves = {distribution.name: distribution for distribution in found.distributions}
    assert curves.keys() >= {"triangles", "components", "euler_characteristic", "self_intersection_share"}
    lengths = {label: len(values) for label, values in curves["triangles"].sets.items()}
    histogram = section.details["quality_distributions"]["triangles"]
    assert lengths == {"samples": sum(histogram["counts"]), "held out": 2, "training": 3}
    assert flat(measure().section) == flat(section), "the same from the cache"


def test_scales(measure) -> None:
    box, sphere = measure().section, measure(normalize="sphere").section
    assert sphere.settings["normalize"] == "sphere" and protocols(sphere) != protocols(box)
    # The farthest vertex at 1 instead of the longest side: all is larger, by at most the diagonal of a cube.
    ratio = sphere.controls["train"]["cd_mmd_x1000"].value / box.controls["train"]["cd_mmd_x1000"].value
    assert 4 / 3 <= ratio <= 4
    with pytest.raises(InputError, match="normalize must be box or sphere, not 'none'"):
        replace(SETTINGS, normalize="none")


def test_copies_are_found(measure, tiny_data: Path) -> None:
    """Samples in the training set: the check has to say so, and shows the pairs."""
    from components.evaluate.memory import nearest_shapes

    found = measure()
    assert [pair.nearest for pair in found.sheets.shape_pairs if pair.nearest not in SHAPES] == []
    assert len(found.sheets.shape_pairs) == len(found.sheets.picture_pairs) == 6
    distances = [pair.distance for pair in found.sheets.shape_pairs]
    assert distances == sorted(distances)
    rows = found.section.details["nearest_training"]
    assert [row["seed"] for row in rows] == list(range(6)), "every sample, not only the pictured pairs"
    for kind, pairs in (("shape", found.sheets.shape_pairs), ("picture", found.sheets.picture_pairs)):
        listed = {f"seed {row['seed']}": (row[kind], row[f"{kind}_distance"]) for row in rows}
        assert {pair.sample: (pair.nearest, pair.distance) for pair in pairs} == listed
    from components.evaluate.shapes import ShapeSet

    rng = np.random.default_rng(0)
    train = ShapeSet([f"t{i}" for i in range(8)], rng.random((8, 32, 3), np.float32))
    held_out = ShapeSet(["a", "b"], rng.random((2, 32, 3), np.float32))
    near = nearest_shapes(train[[3, 5]], held_out, train, 16, torch.device("cpu"))
    assert near.nearest_S == ["t3", "t5"] and near.distance_S.max() < near.held_out_distance_R.min() / 10


def test_a_model_without_surfaces_has_no_nan(
    checkpoint: Path, tiny_data: Path, meshes: Path, tmp_path: Path
) -> None:
    tensors, description = load_tensors(checkpoint)
    description["config"]["model"]["initial_shape"] = None
    (last,) = (n for n in tensors if n.endswith("mlp_synthesis_sdf.layers.1.bias"))
    save_tensors({**tensors, last: torch.full_like(tensors[last], -1e3)}, tmp_path / "empty", description)
    assert main(arguments(tmp_path / "empty", tiny_data, meshes, tmp_path)) == 0
    metrics = read(tmp_path / "metrics.json")
    assert metrics["empty_fraction"] == 1.0 and metrics["cd_cov"] == 0.0
    assert metrics["cd_mmd_x1000"] is None and metrics["triangles_median"] is None
    assert metrics["excluded_samples"] == metrics["samples"] == 10
    assert math.isfinite(metrics["train_cd_mmd_x1000"])
    assert "sample of seed 0" in (tmp_path / "report.html").read_text()


def test_meshes_that_cannot_be_used_are_listed_and_left_out(
    measure, meshes: Path, tiny_data: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(tiny_data)
    folder = Path(shutil.copytree(meshes, tmp_path / "damaged"))
    train = manifest.splits["train"]
    (folder / manifest.shapes[train[0]].source).write_bytes(b"glTF, or so it says")
    (folder / manifest.shapes[train[1]].source).unlink()
    section = measure(folder=folder).section
    assert section.facts["excluded_meshes"] == 2 and section.facts["train_control"] == len(train) - 2
    assert [what for what, _ in section.excluded] == sorted(manifest.shapes[s].source for s in train[:2])
    held_out = manifest.shapes[manifest.splits["val"][0]].source
    (folder / held_out).unlink()
    with pytest.raises(
        InputError, match=f"1 held-out meshes are too few: at least 2 .*min_references.*{held_out}"
    ):
        measure(folder=folder)


def test_meshes_that_changed_after_the_render_are_counted(measure, meshes: Path, tiny_data: Path) -> None:
    """The model has not seen these; the numbers are those of the files that are there."""
    manifest = read_manifest(tiny_data)
    rendered = {
        name: replace(shape, sha256=sha256_file(meshes / shape.source))
        for name, shape in manifest.shapes.items()
    }
    assert measure(replace(manifest, shapes=rendered)).section.facts["changed_meshes"] == 0
    last = max(rendered)
    shapes = rendered | {last: replace(rendered[last], sha256="0" * 64)}
    section = measure(replace(manifest, shapes=shapes)).section
    assert (section.facts["changed_meshes"], section.facts["excluded_meshes"]) == (1, 0)
    assert section.details["changed_meshes"] == [rendered[last].source]


def test_meshes_are_turned_as_they_were_rendered(
    measure, meshes: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """The same boxes with z up, in a data set that says so, give the same numbers."""
    manifest = read_manifest(tiny_data)
    expected = measure().section.metrics
    for index, name in enumerate(SHAPES):
        # y up becomes z up; the front, +z, becomes -y.
        write_box(tmp_path / "turned" / f"{name}.glb", (1.0, 2.0, 1.0 + index))
    turned = replace(manifest, settings={**manifest.settings, "axes": ["z", "-y"]})
    found = measure(turned, tmp_path / "turned").section.metrics
    assert found["cd_mmd_x1000"].value == pytest.approx(expected["cd_mmd_x1000"].value, rel=0.05)
    wrong = measure(manifest, tmp_path / "turned").section.metrics
    assert wrong["cd_mmd_x1000"].value != pytest.approx(expected["cd_mmd_x1000"].value, rel=0.05)


def test_a_zip_of_meshes(checkpoint: Path, tiny_data: Path, meshes: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "meshes.zip", "w") as archive:
        for file in meshes.iterdir():
            archive.write(file, file.name)
    params = write_params(tmp_path / "params.yaml", tiny_config(1))
    for folder, out in ((meshes, tmp_path / "a"), (tmp_path / "meshes.zip", tmp_path / "b")):
        assert main([*arguments(checkpoint, tiny_data, folder, out), "--config", str(params)]) == 0
    assert (tmp_path / "a" / "metrics.json").read_bytes() == (tmp_path / "b" / "metrics.json").read_bytes()


def test_bad_input_is_named(checkpoint: Path, tiny_data: Path, meshes: Path, tmp_path: Path, capsys) -> None:
    manifest = read_manifest(tiny_data)
    no_split, unrendered = tmp_path / "no_split", tmp_path / "unrendered"
    for folder, splits in (
        (no_split, {"train": SHAPES}),
        (unrendered, {"train": SHAPES[:1], "val": ["ghost"]}),
    ):
        folder.mkdir()
        write_manifest(folder, replace(manifest, splits=splits))
    params = write_params(tmp_path / "params.yaml", tiny_config(1))
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text(
        params.read_text().replace("thresholds: []", "thresholds: [{metric: fid3d, max: 1.0}]")
    )
    few = tmp_path / "few.yaml"
    few.write_text(params.read_text().replace("min_samples: 1", "min_samples: 3"))
    for values, options, expected in (
        ((checkpoint, no_split, meshes), [], "no val split; render again with a larger --val-fraction"),
        ((checkpoint, unrendered, meshes), [], "ghost, which was not rendered"),
        ((checkpoint, tmp_path / "nothing", meshes), [], "manifest.json does not exist"),
        ((tmp_path, tiny_data, meshes), [], "no checkpoint here"),
        ((checkpoint, tiny_data, meshes), ["--weights", "none.pt"], "none.pt do not exist"),
        ((checkpoint, tiny_data, meshes), ["--production", "none.json"], "none.json cannot be read"),
        ((checkpoint, tiny_data, meshes), ["--config", str(unknown)], "fid3d; did you mean fid_3d"),
        ((checkpoint, tiny_data, meshes), ["--config", str(few)], "2 samples are too few: at least 3"),
        ((checkpoint, tiny_data, meshes), ["--device", "gpu"], "--device gpu"),
        ((checkpoint, tiny_data, meshes), ["--out", str(params)], "params.yaml is no folder"),
    ):
        assert cli.main(["evaluate", *arguments(*values, tmp_path / "out"), *options]) == 2, expected
        message = capsys.readouterr().err
        assert expected in message and message.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_the_light_field_distance_can_be_left_out_and_its_descriptors_are_kept(
    measure, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_it = measure(distances=("cd", "lfd")).section
    assert with_it.metrics["lfd_mmd"].value > 0 and with_it.controls["train"]["lfd_mmd"].value > 0
    assert list((cache / "shapes").rglob("*-lfd-*.npz"))
    # The meshes are not read again, except those that are pictured.
    from components.evaluate import shapes

    def unread(self: object, shape_id: str) -> None:
        raise AssertionError(f"{shape_id} is read")

    monkeypatch.setattr(
        shapes.ShapeReader, "_load", lambda self, files: [unread(self, f.shape_id) for f in files]
    )
    again = measure(distances=("cd", "lfd")).section
    assert flat(again) == flat(with_it)
    without = measure().section
    assert not [name for name in without.metrics if name.startswith("lfd")]
    assert without.metrics["cd_mmd_x1000"] == with_it.metrics["cd_mmd_x1000"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU with nvdiffrast")
def test_a_gpu_measures_what_the_processor_measures(measure, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"inception": str(tmp_path / "network.pt"), "distances": ("cd", "lfd")}
    slow, fast = (measure(device=device, **settings).section for device in ("cpu", "cuda"))
    assert slow.metrics.keys() == fast.metrics.keys() and slow.controls.keys() == fast.controls.keys()
    for name in ("cd_mmd_x1000", "lfd_mmd", "jsd", "fid_ori", "fid_3d", "triangles_median"):
        assert fast.metrics[name].value == pytest.approx(slow.metrics[name].value, rel=0.1, abs=1e-3), name
    for name in ("cd_mmd_x1000", "fid_ori"):
        control = fast.controls["train"][name].value
        assert control == pytest.approx(slow.controls["train"][name].value, rel=0.02), name
