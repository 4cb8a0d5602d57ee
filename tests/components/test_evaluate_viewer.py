"""The viewer of the evaluation's report: what goes in, and the page clicked through from a file in a real Chromium."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from components.evaluate.gate import Verdict
from components.evaluate.page import Titles, evaluation_html
from components.evaluate.results import Section
from components.evaluate.sheets import Sheets
from components.evaluate.viewer import MAX_MESHES, viewer_html
from get3d_model.types import TexturedMesh
from tests.browser import canvas_pixels, chromium, covered, main_colour, opened

COLOURS = {"3": (220, 60, 30), "8": (40, 90, 200)}


def ball(colour_3: tuple[int, int, int], subdivisions: int = 2) -> TexturedMesh:
    mesh = trimesh.creation.icosphere(subdivisions, 0.4)
    vertices_V3 = mesh.vertices.astype(np.float32)
    texture_HW3 = np.full((16, 16, 3), colour_3, np.uint8)
    uvs_V2 = np.full((len(vertices_V3), 2), 0.5, np.float32)
    return TexturedMesh(vertices_V3, mesh.faces.astype(np.int32), uvs_V2, texture_HW3)


def carried(html: str) -> list[dict[str, str]]:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])


def test_as_many_as_fit() -> None:
    meshes = {str(seed): ball((seed, 0, 0)) for seed in range(MAX_MESHES + 3)}
    samples = carried(viewer_html(meshes))
    assert [sample["name"] for sample in samples] == [f"seed {seed}" for seed in range(MAX_MESHES)]
    size = len(samples[0]["glb"]) * 3 // 4
    assert len(carried(viewer_html(meshes, max_bytes=3 * size + size // 2))) == 3
    assert len(carried(viewer_html(meshes, max_bytes=10))) == 1, "one is always there"
    assert viewer_html({}) == ""


def test_clicked_through_from_a_file(tmp_path: Path) -> None:
    page_file = tmp_path / "report.html"
    viewer = viewer_html({"3": ball(COLOURS["3"]), "8": ball(COLOURS["8"], 3)})
    sheets = Sheets([("3", np.zeros((8, 8, 3), np.uint8))], {}, [], [])
    page_file.write_text(
        evaluation_html(
            Titles("balls", 1.0, "a" * 64, 0.9), Section(), Verdict("promote", [], {}), sheets, [], viewer
        )
    )
    address = page_file.as_uri()
    with chromium() as browser, opened(browser, address, accept_downloads=True, offline=True) as page:
        facts = page.locator('[data-g3="facts"]')
        facts.get_by_text("320 triangles, 162 vertices").wait_for()
        first = canvas_pixels(page)
        assert 0.05 < covered(first) < 0.9
        # JPEG moves colours a little.
        np.testing.assert_allclose(main_colour(first), COLOURS["3"], atol=4)
        page.get_by_role("button", name="seed 8").click()
        facts.get_by_text("1,280 triangles").wait_for()
        second = canvas_pixels(page)
        np.testing.assert_allclose(main_colour(second), COLOURS["8"], atol=4)
        page.locator('[data-g3="wireframe"]').click()
        assert (canvas_pixels(page) != second).any(axis=-1).mean() > 0.01
        page.locator('[data-g3="wireframe"]').click()
        page.locator('[data-g3="texture"]').click()
        clay = canvas_pixels(page)
        np.testing.assert_array_equal(clay[..., 3] > 127, second[..., 3] > 127)
        assert np.ptp(main_colour(clay)) < 40
        wheel_belongs_to_the_page_until_a_click(page)
        with page.expect_download() as started:
            page.locator('[data-g3="download"]').click()
        assert started.value.suggested_filename == "seed8.glb"
        started.value.save_as(tmp_path / "mesh.glb")
        assert len(trimesh.load(tmp_path / "mesh.glb", force="mesh").faces) == 1280


def wheel_belongs_to_the_page_until_a_click(page: Any) -> None:
    canvas = page.locator("canvas")
    canvas.scroll_into_view_if_needed()
    canvas.hover()
    before, top = canvas_pixels(page), page.evaluate("() => scrollY")
    page.mouse.wheel(0, -100)
    page.wait_for_function(f"() => scrollY < {top}")
    np.testing.assert_array_equal(canvas_pixels(page), before)
    canvas.click()
    clicked, top = canvas_pixels(page), page.evaluate("() => scrollY")
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(200)
    assert page.evaluate("() => scrollY") == top
    assert covered(canvas_pixels(page)) > 1.05 * covered(clicked), "nearer"
