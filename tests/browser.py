"""A real headless Chromium for the tests of pages, and what they look at."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

# WebGL by software: test machines have no display and often no GPU.
FLAGS = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
TIMEOUT_MS = 30_000


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's Browser; skips where there is none. Close it before asyncio is used: its own loop runs meanwhile."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium to test the page in: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are tested through playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A page at `url`. On leaving: nothing but that place was asked for anything, and no script failed."""
    # Pixels are drawn without a graphics card.
    page = browser.new_page(**{"viewport": {"width": 900, "height": 560}, **options})
    page.set_default_timeout(TIMEOUT_MS)
    asked: list[str] = []
    failures: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failures.append(str(error)))
    try:
        page.goto(url)
        yield page
        assert failures == []
        assert [address for address in asked if not address.startswith((url, "blob:", "data:"))] == []
    finally:
        page.close()


def canvas_pixels(page: Any) -> np.ndarray:
    """What the page's WebGL canvas shows, RGBA, uint8; the alpha of the background is 0."""
    # Two frames, so that what was asked for last is drawn.
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    address = page.evaluate("() => document.querySelector('canvas').toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA"))


def covered(pixels_HW4: np.ndarray) -> float:
    """The share of the picture in which there is something."""
    return float((pixels_HW4[..., 3] > 127).mean())


def main_colour(pixels_HW4: np.ndarray) -> list[int]:
    """The most frequent colour of what is there."""
    colours_P3 = pixels_HW4[pixels_HW4[..., 3] == 255][:, :3]
    values, counts = np.unique(colours_P3, axis=0, return_counts=True)
    return values[counts.argmax()].tolist()
