"""Our rasteriser against what nvdiffrast computed on a GPU (data/nvdiffrast.npz, see record_nvdiffrast.py).

Shape legend: B images, V packed vertices, H W image size
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from get3d_model.rendering.cpu import CpuRasterizer
from tests.get3d_model.rendering.agreement_scenes import Scene, scenes
from tests.get3d_model.rendering.record_nvdiffrast import (
    Recording,
    allowed_by_image,
    from_arrays,
    main,
    record,
    with_neighbours,
)

FILE = Path(__file__).parent / "data" / "nvdiffrast.npz"
NAMES = [scene.name for scene in scenes()]
CPU = torch.device("cpu")
# nvdiffrast's method; our search beyond the visible triangle goes further than it on purpose.
OURS = CpuRasterizer(threads=1, silhouette_steps=0)
TOLERANCE = 1e-4
# Of the largest gradient of an array. Measured: 1.0e-5. nvdiffrast's damping of short edges and small triangles
# makes up to 1.1e-3 here, and more the smaller the triangles.
GRADIENT_TOLERANCE = 1e-4
# Half the diagonal of a cell of nvdiffrast's vertex grid, in pixels, and 2 % for float32.
SNAPPED_EDGE_PX = 1.02 * np.sqrt(2) / 32


def disagreements(scene: Scene, theirs: Recording) -> list[str]:
    """What our rasteriser does otherwise than the recording, in words; empty when they agree."""
    ours = record(scene, OURS, CPU, rast=theirs.rast_BHW4)
    found = coverage(scene, ours.rast_BHW4[..., 3], theirs.rast_BHW4[..., 3])
    drawn_alike_BHW = ours.rast_BHW4[..., 3] == theirs.rast_BHW4[..., 3]
    for name, channels in (("barycentrics", slice(0, 2)), ("depth", slice(2, 3))):
        difference = np.abs(ours.rast_BHW4[..., channels] - theirs.rast_BHW4[..., channels])
        found += within(name, difference[drawn_alike_BHW], TOLERANCE)
    for name in ("out_BHWC", "aa_delta_BHW3"):
        found += within(name, np.abs(getattr(ours, name) - getattr(theirs, name)), TOLERANCE)
    for field in dataclasses.fields(Recording):
        if field.name.startswith("grad_"):
            expected = getattr(theirs, field.name)
            difference = np.abs(getattr(ours, field.name) - expected)
            found += within(field.name, difference / np.abs(expected).max(), GRADIENT_TOLERANCE)
    return found


def coverage(scene: Scene, ours_BHW: np.ndarray, theirs_BHW: np.ndarray) -> list[str]:
    """Both may show only what is allowed, which on all but the edges is one triangle, or nothing."""
    found = []
    for image, allowed in enumerate(allowed_by_image(scene, SNAPPED_EDGE_PX)):
        first = scene.ranges_B2[image, 0]
        for name, drawn_HW in (("ours", ours_BHW[image]), ("theirs", theirs_BHW[image])):
            id_HW = np.where(drawn_HW > 0, drawn_HW - first, 0)
            wrong = int(allowed.violations_HW(id_HW).sum())
            if wrong:
                found.append(f"coverage: image {image}, {name}: {wrong} pixels away from all edges")
    return found


def within(name: str, difference: np.ndarray, tolerance: float) -> list[str]:
    worst = float(difference.max(initial=0.0))
    # Not `worst > tolerance`: a NaN is a disagreement.
    if worst <= tolerance:
        return []
    count = int((~(difference <= tolerance)).sum())
    place = tuple(int(i) for i in np.unravel_index(np.argmax(difference), difference.shape))
    return [f"{name}: {worst:.3g} > {tolerance:g} at {place}, {count} of {difference.size} values"]


def recorded(name: str) -> tuple[Scene, Recording]:
    with np.load(FILE) as arrays:
        assert json.loads(str(arrays["header"]))["backend"] == "nvdiffrast"
        return from_arrays(arrays, name)


def ids_drawn(scene: Scene) -> np.ndarray:
    """By our rasteriser, BHW."""
    faces, ranges = torch.from_numpy(scene.faces_F3), torch.from_numpy(scene.ranges_B2)
    return OURS.rasterize(torch.from_numpy(scene.pos_V4), faces, ranges, scene.resolution)[..., 3].numpy()


@pytest.mark.parametrize("name", NAMES)
def test_cpu_rasteriser_agrees_with_nvdiffrast(name: str) -> None:
    scene, theirs = recorded(name)
    built = next(s for s in scenes() if s.name == name)
    np.testing.assert_array_equal(scene.faces_F3, built.faces_F3, "record the changed scene again")
    np.testing.assert_allclose(scene.pos_V4, built.pos_V4, atol=1e-6, err_msg="record the scene again")
    assert (theirs.rast_BHW4[..., 3] > 0).mean() > 0.05
    assert np.count_nonzero(theirs.aa_delta_BHW3) > 30
    assert disagreements(scene, theirs) == []


def test_coverage_differs_by_the_rounding_of_vertices_only() -> None:
    """With vertices on nvdiffrast's grid of 1/16 pixel ours draws its picture; on none or another it does not."""
    differ, pixels = {grid: 0 for grid in (None, 8, 16, 32)}, 0
    for name in NAMES:
        scene, theirs = recorded(name)
        if scene.pos_V4[:, 3].min() > 0:
            pixels += theirs.rast_BHW4[..., 3].size
            for grid in differ:
                moved = scene if grid is None else snapped(scene, grid)
                differ[grid] += int((ids_drawn(moved) != theirs.rast_BHW4[..., 3]).sum())
    assert differ[None] < 0.004 * pixels
    assert differ[16] < 0.0006 * pixels
    assert differ[16] * 5 < min(differ[grid] for grid in (None, 8, 32)), differ


def test_scenes_leave_little_in_doubt_and_ask_for_every_gradient() -> None:
    for scene in scenes():
        sure_BHW = np.stack([allowed.sure_HW for allowed in allowed_by_image(scene)])
        assert sure_BHW.mean() > 0.95, scene.name
        assert with_neighbours(sure_BHW).mean() > 0.8, scene.name
        own = record(scene, OURS, CPU)
        for field in dataclasses.fields(own):
            assert np.abs(getattr(own, field.name)).max() > 0, (scene.name, field.name)


def snapped(scene: Scene, steps: int) -> Scene:
    """Projected vertices moved to a grid of `steps` points per pixel, as a rasteriser in fixed point does."""
    half = np.array([scene.resolution[1], scene.resolution[0]]) / 2
    w_V1 = scene.pos_V4[:, 3:].astype(np.float64)
    grid_V2 = np.rint(scene.pos_V4[:, :2] / w_V1 * half * steps) / steps
    pos_V4 = np.concatenate([grid_V2 / half * w_V1, scene.pos_V4[:, 2:]], axis=1).astype(np.float32)
    return dataclasses.replace(scene, pos_V4=pos_V4)


@pytest.mark.parametrize(("steps", "allowed"), [(16, True), (3, False)])
def test_edges_may_move_by_a_subpixel_step_and_not_by_more(steps: int, allowed: bool) -> None:
    complaints = []
    for scene in scenes():
        if scene.pos_V4[:, 3].min() > 0:
            moved = snapped(scene, steps)
            ids, exact = ids_drawn(moved), ids_drawn(scene)
            assert (ids != exact).any(), f"{scene.name}: no edge passes near a pixel centre"
            complaints += coverage(scene, exact, ids)
    assert (complaints == []) == allowed, complaints


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Recording]:
    """Our own rasteriser in the place of nvdiffrast, through the file."""
    path = tmp_path_factory.mktemp("recording") / "own.npz"
    main([str(path), "--backend", "cpu"])
    assert path.stat().st_size < 1_000_000
    with np.load(path) as arrays:
        assert arrays["scenes"].tolist() == [scene.name for scene in scenes()]
        return from_arrays(arrays, "batch")


def test_a_recording_of_our_own_agrees(own: tuple[Scene, Recording]) -> None:
    assert disagreements(*own) == []


def add(amount: float, channel: int | slice) -> Callable[[np.ndarray], None]:
    """Adds to one covered pixel of a rast buffer, well inside its triangle."""

    def change(rast_BHW4: np.ndarray) -> None:
        inner_BHW = (rast_BHW4[..., :2].min(-1) > 0.2) & (rast_BHW4[..., :2].sum(-1) < 0.8)
        image, row, column = np.argwhere(inner_BHW)[len(np.argwhere(inner_BHW)) // 2]
        rast_BHW4[image, row, column, channel] += amount

    return change


def scale_largest(factor: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array.reshape(-1)[np.abs(array).argmax()] *= factor

    return change


@pytest.mark.parametrize(
    ("field", "change", "complaint"),
    [
        ("rast_BHW4", add(1.0, 3), "coverage: image .*, theirs"),
        ("rast_BHW4", add(2e-4, 1), "barycentrics"),
        ("rast_BHW4", add(2e-4, 2), "depth"),
        ("rast_BHW4", add(np.nan, 0), "barycentrics"),
        ("out_BHWC", scale_largest(1.0003), "out_BHWC"),
        ("aa_delta_BHW3", scale_largest(1.001), "aa_delta_BHW3"),
        *(
            (f.name, scale_largest(1.002), f.name)
            for f in dataclasses.fields(Recording)
            if f.name[:5] == "grad_"
        ),
    ],
)
def test_a_difference_is_found(
    own: tuple[Scene, Recording], field: str, change: Callable[[np.ndarray], None], complaint: str
) -> None:
    scene, recording = own
    changed = getattr(recording, field).copy()
    change(changed)
    found = disagreements(scene, dataclasses.replace(recording, **{field: changed}))
    assert any(re.match(complaint, line) for line in found), found
