"""The studio as users have it: `get3d studio` in front of a real Triton server with the pretrained generator, clicked
through in a real Chromium. The server asks for a token, which the page never sees."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from components.export.main import export
from serving.access import ServerAccess
from serving.server import TritonServer
from tests.browser import canvas_pixels, chromium, covered, main_colour, opened

pytestmark = pytest.mark.e2e

WEIGHTS = "get3d_model/pretrained/vehicles_256.safetensors"
TOKEN = "studio-0123456789abcdef"


@pytest.fixture(scope="module")
def repository(repository_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    export(repository_root / WEIGHTS, folder, onnx=False)
    return folder


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository, access=ServerAccess(token=TOKEN)) as running:
        yield running


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "studio", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.fixture
def studio(server: TritonServer, token_file: Path) -> Iterator[str]:
    """The address of the page."""
    process = start("--url", server.grpc_url, "--token-file", str(token_file), "--port", "0")
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + process.stderr.read()
        yield found[0]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout.read() == "stopped\n" and process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def find(page: Any, name: str) -> Any:
    return page.locator(f'[data-g3="{name}"]')


def settled(page: Any) -> np.ndarray:
    """The picture, after whatever was wished for has come."""
    # Longer than a slider has to rest.
    page.wait_for_timeout(400)
    page.wait_for_selector('main[aria-busy="false"]')
    assert find(page, "error").is_hidden(), find(page, "error").inner_text()
    return canvas_pixels(page)


def downloaded(page: Any, folder: Path) -> trimesh.Trimesh:
    with page.expect_download() as started:
        find(page, "download").click()
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    return trimesh.load(path, force="mesh")


def triangles(page: Any) -> int:
    return int(find(page, "facts").get_attribute("data-triangles"))


def test_played_with(browser: Any, studio: str, tmp_path: Path) -> None:
    with opened(browser, studio, accept_downloads=True) as page:
        page.wait_for_selector("[data-g3=facts][data-triangles]")
        assert TOKEN not in page.content()
        seed0 = settled(page)
        assert 0.05 < covered(seed0) < 0.8
        mesh = downloaded(page, tmp_path)
        assert len(mesh.faces) == triangles(page) > 1000
        assert mesh.visual.material.baseColorTexture.size == (1024, 1024)
        stages = find(page, "times").inner_text()
        assert "networks" in stages and "extraction" in stages and "encode" in stages

        # The texture of another seed: the same outline, other colours.
        find(page, "linked-A").uncheck()
        find(page, "texture-A").fill("11")
        swapped = settled(page)
        assert (swapped != seed0).any(axis=-1).mean() > 0.03
        other = downloaded(page, tmp_path)
        np.testing.assert_allclose(np.sort(other.vertices, 0), np.sort(mesh.vertices, 0), atol=1e-6)
        find(page, "swap-A").click()
        settled(page)
        assert not np.array_equal(downloaded(page, tmp_path).bounds, mesh.bounds)

        # Half-way to another shape, and with the average one at truncation 0.
        find(page, "blend").check()
        settled(page)
        half = downloaded(page, tmp_path)
        find(page, "share").fill("1")
        settled(page)
        assert not np.array_equal(downloaded(page, tmp_path).bounds, half.bounds)
        find(page, "triangles").select_option("2000")
        settled(page)
        assert triangles(page) <= 2000 and "of " in find(page, "facts").inner_text()
        find(page, "psi").fill("0")
        average = settled(page)
        find(page, "geometry-A").fill("123456")
        np.testing.assert_array_equal(settled(page), average)

        find(page, "texture").click()
        find(page, "wireframe").click()
        assert (settled(page) != average).any(axis=-1).mean() > 0.03
        find(page, "wireframe").click()
        assert np.ptp(main_colour(settled(page))) < 40


def test_the_server_goes_and_comes_back(browser: Any, repository: Path) -> None:
    with TritonServer(repository) as first:
        ports = first.ports
        process = start("--url", first.grpc_url, "--port", "0", "--timeout", "8")
        try:
            page_url = re.search(r"http://\S+", process.stdout.readline())[0]
            with opened(browser, page_url) as page:
                page.wait_for_selector("[data-g3=facts][data-triangles]")
                first.stop()
                find(page, "random").click()
                find(page, "error").wait_for(state="visible")
                assert "is not reachable" in find(page, "error").inner_text()
                with TritonServer(repository, ports):
                    find(page, "random").click()
                    find(page, "error").wait_for(state="hidden")
                    assert covered(settled(page)) > 0.03
        finally:
            process.terminate()
            process.wait()


def test_what_is_wrong_is_said_before_the_page_opens(server: TritonServer, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("another-0123456789abcdef")
    for arguments, reason in (
        (["--url", "127.0.0.1:1"], "no server answers at 127.0.0.1:1"),
        (["--url", server.grpc_url, "--token-file", str(wrong)], "refuses calls without its token"),
    ):
        process = start(*arguments, "--port", "0")
        _, told = process.communicate(timeout=60)
        assert process.returncode == 2 and told.count("\n") == 1 and reason in told
