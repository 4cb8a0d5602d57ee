"""The studio's page in a real Chromium, in front of a stand-in for the model; tests/e2e/test_studio.py has the real one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from get3d_model.mesh_io import load_textured_mesh
from serving.client import ServiceError
from serving.codec import SampleRequest
from tests.browser import canvas_pixels, chromium, covered, main_colour, opened
from tests.components.deploy_helpers import box
from tests.serving.studio_fakes import PSI, FakeClient, studio

WAIT_S = 30.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def find(page: Any, name: str) -> Any:
    return page.locator(f'[data-g3="{name}"]')


def box_colour(number: int, folder: Path) -> list[int]:
    """As the file says, read by our own reader."""
    path = folder / f"box{number}.glb"
    path.write_bytes(box(number))
    return load_textured_mesh(path).texture_HW3[0, 0].tolist()


def test_clicked_through(browser: Any, tmp_path: Path) -> None:
    client = FakeClient()

    def sampled(page: Any, **expected: Any) -> None:
        """The last request that was sent has these fields, its answer is on the page, and nothing is under way."""
        wanted = SampleRequest(file_format="glb", **expected)
        wait_for(lambda: client.requests[-1:] == [wanted], f"{wanted} not among {client.requests}")
        page.wait_for_selector('main[aria-busy="false"]')
        assert find(page, "error").is_hidden()

    with studio(client) as server, opened(browser, server.url, accept_downloads=True) as page:
        page.wait_for_selector("[data-g3=facts][data-triangles='8']")
        sampled(page, seed=0)
        assert "Watertight\nno" in find(page, "facts").inner_text()
        assert "extraction" in find(page, "times").inner_text()
        assert find(page, "server").inner_text() == "triton.example:8001 · get3d 12 · 480 kimg"
        assert float(find(page, "psi").input_value()) == PSI, "the slider stands where the model's default is"
        # A mesh has appeared, in its own colour.
        first = canvas_pixels(page)
        assert 0.05 < covered(first) < 0.9
        np.testing.assert_allclose(main_colour(first), box_colour(0, tmp_path), atol=2)

        find(page, "geometry-A").fill("5")
        sampled(page, seed=5)
        np.testing.assert_allclose(main_colour(canvas_pixels(page)), box_colour(5, tmp_path), atol=2)
        find(page, "linked-A").uncheck()
        find(page, "texture-A").fill("9")
        sampled(page, seed=5, seed_tex=9)
        find(page, "swap-A").click()
        sampled(page, seed=9, seed_tex=5)
        find(page, "psi").fill("0.4")
        sampled(page, seed=9, seed_tex=5, truncation_psi=0.4)
        find(page, "blend").check()
        find(page, "share").fill("0.25")
        mixed = {"seed": (9, 7), "seed_tex": (5, 7), "weights": (0.75, 0.25), "truncation_psi": 0.4}
        sampled(page, **mixed)
        find(page, "texture-size").select_option("256")
        find(page, "triangles").select_option("2000")
        sampled(page, **mixed, texture_resolution=256, target_triangles=2000)

        with page.expect_download() as started:
            find(page, "download").click()
        assert started.value.suggested_filename == "seed9-7-texture5-7-share25.glb"
        started.value.save_as(tmp_path / "mesh.glb")
        assert (tmp_path / "mesh.glb").read_bytes() == box(16)
        assert len(trimesh.load(tmp_path / "mesh.glb", force="mesh").faces) == 8

        look_around(page)
        assert find(page, "class").is_hidden()

        client.failure = ServiceError("triton.example:8001 is not reachable\n(details)", "UNAVAILABLE")
        find(page, "random").click()
        find(page, "error").wait_for(state="visible")
        assert find(page, "error").inner_text() == "triton.example:8001 is not reachable (details)"
        assert covered(canvas_pixels(page)) > 0.05, "the last mesh stays"
        client.failure = None
        count = len(client.requests)
        find(page, "random").click()
        find(page, "error").wait_for(state="hidden")
        assert len(client.requests) > count and len(set(client.requests[-1].seed)) == 2


def look_around(page: Any) -> None:
    """Wireframe, texture, orbit and reset change what is seen as they should."""
    # The camera stays where it was for earlier meshes until it is asked to fit this one.
    find(page, "reset").click()
    before = canvas_pixels(page)
    find(page, "wireframe").click()
    lined = canvas_pixels(page)
    assert covered(lined) == pytest.approx(covered(before), abs=0.02)
    assert (lined != before).any(axis=-1).mean() > 0.001
    find(page, "wireframe").click()
    np.testing.assert_array_equal(canvas_pixels(page), before)
    find(page, "texture").click()
    clay = canvas_pixels(page)
    np.testing.assert_array_equal(clay[..., 3] > 127, before[..., 3] > 127)
    assert np.ptp(main_colour(clay)) < 40, "clay is grey, with a tinge of warmth"
    find(page, "texture").click()
    frame = page.locator("canvas").bounding_box()
    middle = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 120, middle[1] + 20, steps=4)
    page.mouse.up()
    turned = canvas_pixels(page)
    assert ((turned[..., 3] > 127) != (before[..., 3] > 127)).mean() > 0.01
    page.locator("canvas").press("ArrowLeft")
    assert (canvas_pixels(page) != turned).any()
    find(page, "reset").click()
    np.testing.assert_array_equal(canvas_pixels(page), before)


def test_only_the_newest_wish_waits(browser: Any) -> None:
    client = FakeClient()
    with studio(client) as server, opened(browser, server.url) as page:
        page.wait_for_selector("[data-g3=facts][data-triangles]")
        client.gate.clear()
        for seed in range(1, 12):
            find(page, "geometry-A").fill(str(seed))
        wait_for(lambda: len(client.requests) > 1, "no request for the new seeds")
        find(page, "geometry-A").fill("77")
        # Longer than a slider has to rest: the wish is known, and waits.
        page.wait_for_timeout(300)
        client.gate.set()
        wait_for(lambda: client.requests[-1].seed == 77, "the newest wish")
        page.wait_for_selector('main[aria-busy="false"]')
        assert len(client.requests) <= 4


def test_small_and_dark_with_classes(browser: Any) -> None:
    viewport = {"width": 360, "height": 740}
    client = FakeClient(class_name="bus")
    with (
        studio(client) as server,
        opened(browser, server.url, viewport=viewport, color_scheme="dark") as page,
    ):
        page.wait_for_selector("[data-g3=facts][data-triangles]")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
        background = page.evaluate("() => getComputedStyle(document.querySelector('main')).backgroundColor")
        assert max(int(part) for part in background[4:-1].split(",")) < 60
        assert covered(canvas_pixels(page)) > 0.05
        assert "Class\nbus" in find(page, "facts").inner_text()
        find(page, "class").fill(" van ")
        find(page, "class").press("Enter")
        wait_for(
            lambda: client.requests[-1] == SampleRequest(0, class_name="van", file_format="glb"), "class"
        )
