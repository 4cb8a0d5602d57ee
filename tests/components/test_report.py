"""The report of a run with a random model: a page that stands alone, and inputs that fit together."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from components.report.contact_sheet import WIDTH
from components.report.curves import MAX_POINTS, PANELS, curve_svg, series
from components.report.inputs import Sample, read_log, training_seconds
from components.report.page import NO_VALUE, duration, metric_rows
from get3d_model.config import config_to_dict
from get3d_model.data.manifest import Manifest, SourceMesh, write_manifest
from get3d_model.errors import InputError
from get3d_model.files import sha256_file, write_json_atomic
from get3d_model.image_grid import save_image
from get3d_model.inference import Sampler
from get3d_model.mesh_io import save_mesh
from pipelines import cli
from tests.components.test_generate import coloured_box
from tests.serving.tiny import CONFIG, write_checkpoint

VOID = {"meta", "link", "img", "br", "hr", "input"}
CREDITS = "Boxes by <Nobody> & sons, CC0"
BAD_NAME = "<script>alert(1)</script>.glb"


def make_run(root: Path) -> None:
    """All that a report reads, as the steps of the pipeline write it, around a random model."""
    checkpoint = write_checkpoint(root / "train")
    sha256 = sha256_file(checkpoint)
    (root / "params.yaml").write_text(yaml.safe_dump(config_to_dict(CONFIG)))
    for index in range(3):
        save_mesh(coloured_box((0.1, 0.1 + 0.02 * index, 0.3)), root / "meshes" / f"box{index}.glb")
    manifest = Manifest(
        resolution=16,
        views_per_shape=4,
        category=None,
        settings={"scale": 0.8},
        renderer_version="raster-1",
        shapes={f"box{index}": SourceMesh(f"box{index}.glb", "0" * 64) for index in range(3)},
        splits={"train": ["box0", "box1"], "val": ["box2"]},
        shards=[],
        index=None,
    )
    write_manifest(root / "rendered", manifest)
    rejected = {"bad": {"file": BAD_NAME, "reason": "contains no triangles"}}
    write_json_atomic(root / "rendered" / "rejected.json", rejected)
    records = [
        {
            "step": step,
            "kimg": step * 0.1,
            "sec_per_kimg": 20.0,
            "loss/generator_rgb": 1.0 / step,
            "signs/real_rgb": 0.5,
        }
        for step in range(1, 6)
    ]
    lines = [json.dumps(record) for record in records]
    (root / "train" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    grey = np.full((32, 64, 3), 120, np.uint8)
    for name in ("reals", "fakes_000000000", "fakes_000000200", "fakes_000000500"):
        save_image(grey, root / "train" / "images" / f"{name}.png")
    metrics = {
        "checkpoint_sha256": sha256, "cd_cov": 0.25, "cd_mmd_x1000": 12.34, "train_cd_cov": 0.5,
        "train_cd_mmd_x1000": 1.5, "train_control": 2, "references": 4, "samples": 8, "surface_points": 64,
        "truncation_psi": 1.0, "watertight_fraction": 0.875,
    }  # fmt: skip
    write_json_atomic(root / "evaluation" / "metrics.json", metrics)
    samples = []
    for seed, mesh in enumerate(Sampler.load(checkpoint).generate([0, 1], 0.7, 64)):
        save_mesh(mesh, root / "samples" / f"seed{seed:04d}.glb")
        samples.append(
            {"file": f"seed{seed:04d}.glb", "seed": seed, "truncation_psi": 0.7, "empty": False,
             "checkpoint_sha256": sha256}
        )  # fmt: skip
    write_json_atomic(root / "samples" / "samples.json", samples)


def command(root: Path) -> list[str]:
    """As the demo job calls it."""
    words = [
        "report",
        "--config",
        "params.yaml",
        "--data",
        "rendered",
        "--meshes",
        "meshes",
        "--training",
        "train",
    ]
    words += ["--metrics", "evaluation/metrics.json", "--samples", "samples", "--out", "outputs"]
    return [word if word == "report" or word.startswith("--") else str(root / word) for word in words]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    make_run(root)
    (root / "SOURCES.md").write_text("where the boxes are from")
    assert cli.main([*command(root), "--credits", CREDITS]) == 0
    return root


class Page(HTMLParser):
    """Collects tags, attributes and text; refuses tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self) -> list[Image.Image]:
        uris = [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]
        pictures = []
        for uri in uris:
            header, content = uri.split(",", 1)
            assert re.fullmatch(r"data:image/(png|jpeg);base64", header)
            pictures.append(Image.open(io.BytesIO(base64.b64decode(content, validate=True))).convert("RGB"))
        return pictures


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return (run / "outputs" / "report.html").read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_page_refers_to_nothing_outside(page: Page, html: str) -> None:
    references = [
        v for _, name, v in page.attributes if name in ("src", "href", "xlink:href", "srcset", "data")
    ]
    assert references and all(value.startswith(("data:image/", "#")) for value in references)
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert "<script" not in html


def test_references_inside_the_curves_are_unique(page: Page) -> None:
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert ids and len(ids) == len(set(ids))
    used = {value[1:] for _, name, value in page.attributes if name == "xlink:href"}
    assert used <= set(ids)


def test_page_holds_the_contact_sheet_and_the_grids(page: Page, run: Path) -> None:
    pictures = page.images()
    assert len(pictures) == 1 + 1 + 3
    with Image.open(run / "outputs" / "contact_sheet.png") as sheet:
        assert sheet.size[0] == WIDTH
        np.testing.assert_array_equal(np.asarray(pictures[0]), np.asarray(sheet))
    assert {picture.size for picture in pictures[1:]} == {(64, 32)}


def test_page_says_what_the_run_was(page: Page, run: Path) -> None:
    expected = [sha256_file(next((run / "train").glob("*.safetensors"))), "25.0%", "50.0%", "12.3", "87.5%"]
    expected += ["train 2, val 1", "contains no triangles", "tri_plane_resolution: 16", "10 s", "SOURCES.md"]
    for words in expected:
        assert words in page.text, words


def test_names_and_credits_are_shown_as_text(page: Page) -> None:
    assert BAD_NAME in page.text and CREDITS in page.text


def test_contact_sheet_draws_real_meshes_samples_and_interpolation(run: Path) -> None:
    with Image.open(run / "outputs" / "contact_sheet.png") as sheet:
        picture = np.asarray(sheet).astype(int)
    assert (picture[0] == 255).all() and (picture[-1] == 255).all()
    colourful = np.ptp(picture, axis=2) > 40
    rows = np.flatnonzero(colourful.any(axis=1))
    # Pictures in four rows (meshes, samples from two sides, interpolation) with white between them.
    assert 1 + int((np.diff(rows) > 20).sum()) == 4
    # The red front of the boxes, darkened by the light: the first row only.
    red = (picture[..., 0] > 120) & (picture[..., 1:].max(axis=2) < 40)
    assert red[: rows[np.flatnonzero(np.diff(rows) > 20)[0]] + 1].sum() > 500


def test_the_same_run_gives_the_same_page(run: Path, html: str, tmp_path: Path) -> None:
    again = [*command(run)[:-1], str(tmp_path), "--credits", CREDITS]
    assert cli.main(again) == 0
    assert (tmp_path / "report.html").read_text() == html


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def rewrite(name: str, key: str, value: object) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        content = json.loads((root / name).read_text())
        (content[0] if isinstance(content, list) else content)[key] = value
        (root / name).write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("damage", "named", "fix"),
    [
        (remove("params.yaml"), "params.yaml", "preset"),
        (remove("rendered/manifest.json"), "rendered/manifest.json", "get3d render"),
        (remove("meshes/box0.glb"), "meshes/box0.glb", "--meshes"),
        (remove("train/generator_ema.safetensors"), "train", "no checkpoint"),
        (remove("train/metrics.jsonl"), "train/metrics.jsonl", "get3d train"),
        (remove("train/images/reals.png"), "train/images/reals.png", "get3d train"),
        (remove("evaluation/metrics.json"), "evaluation/metrics.json", "get3d evaluate"),
        (remove("samples/samples.json"), "samples/samples.json", "get3d sample"),
        (remove("samples/seed0001.glb"), "samples/seed0001.glb", "get3d sample"),
        (rewrite("evaluation/metrics.json", "checkpoint_sha256", "f" * 64), "metrics.json", "evaluate again"),
        (rewrite("samples/samples.json", "checkpoint_sha256", "f" * 64), "samples.json", "sample again"),
        (rewrite("samples/samples.json", "seed", "two"), "samples/samples.json", "get3d sample"),
        (rewrite("rendered/rejected.json", "bad", 3), "rendered/rejected.json", "render"),
    ],
)
def test_missing_or_foreign_input_is_named_with_the_fix(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    named: str,
    fix: str,
) -> None:
    root = tmp_path / "run"
    shutil.copytree(run, root, ignore=shutil.ignore_patterns("outputs"))
    damage(root)
    assert cli.main(command(root)) == 2
    message = capsys.readouterr().err.strip()
    assert str(root / named) in message or f"/{named}" in message
    assert fix in message and "\n" not in message
    assert not (root / "outputs").exists()


def test_settings_changed_after_training_are_named(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(run, root, ignore=shutil.ignore_patterns("outputs"))
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["training"]["r1_gamma"] = 7.0
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    assert cli.main(command(root)) == 0
    text = Page((root / "outputs" / "report.html").read_text()).text
    assert "has changed since this model was trained, in training.r1_gamma." in text


def test_log_forgives_a_half_written_last_line_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "kimg": 0.5}\n{"step": 2, "ki')
    assert read_log(path) == [{"step": 1, "kimg": 0.5}]
    path.write_text('{"step": 1, "ki\n{"step": 2, "kimg": 1.0}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 1 is damaged"):
        read_log(path)


def test_training_time_adds_up_over_records() -> None:
    log = [{"kimg": 0.5, "sec_per_kimg": 100.0}, {"kimg": 2.0, "sec_per_kimg": 10.0}]
    assert training_seconds(log) == pytest.approx(0.5 * 100 + 1.5 * 10)


@pytest.mark.parametrize(("seconds", "text"), [(12.4, "12 s"), (600, "10 min"), (12000, "3 h 20 min")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_series_skips_missing_values_and_averages_long_logs() -> None:
    log = [
        {"kimg": float(i), "a": float(i)} | ({"b": 1.0} if i % 16 == 0 else {})
        for i in range(10 * MAX_POINTS)
    ]
    kimg, values = series(log, "a")
    assert len(kimg) == MAX_POINTS
    np.testing.assert_allclose(values, kimg)
    assert values[0] == pytest.approx(4.5)
    assert len(series(log, "b")[0]) == 10 * MAX_POINTS // 16
    assert len(series(log, "absent")[0]) == 0


def test_a_panel_without_records_is_left_out() -> None:
    assert curve_svg(PANELS[0], [{"kimg": 0.1}]) == ""


def test_metric_without_a_value_is_a_dash() -> None:
    rows = {row.name: row for row in metric_rows({"cd_cov": 0.0, "cd_mmd_x1000": None, "references": 5}, {})}
    assert rows["Coverage (COV), Chamfer"].value == "0%"
    assert "20%" in rows["Coverage (COV), Chamfer"].reading
    assert rows["Minimum matching distance (MMD) × 1000, Chamfer"].value == NO_VALUE
    assert len(rows) == 2


def test_a_metric_that_could_not_be_measured_says_why() -> None:
    why = "unavailable: the weights are not there"
    (missing,) = metric_rows({"fid_ori": None, "references": 50}, {"fid_ori": why})
    assert (missing.value, missing.reading) == (NO_VALUE, why)
    (measured,) = metric_rows({"fid_ori": 12.5, "references": 50}, {"fid_ori": why})
    assert measured.value != NO_VALUE and measured.reading != why


def test_interpolation_goes_between_samples_with_a_surface() -> None:
    from components.report.bands import interpolation_ends

    samples = [Sample(Path("a.glb"), seed, 0.7, empty) for seed, empty in ((3, True), (4, False), (6, False))]
    assert [end.seed for end in interpolation_ends(samples)] == [4, 6]
    assert [end.seed for end in interpolation_ends(samples[:1])] == [3, 4]
