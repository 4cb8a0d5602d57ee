"""Comparing our arrays with the reference arrays, one line each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.parity.cases import Arrays, NotImplementedCase, camera_case, discriminator_case, generator_case
from tests.parity.matching import TOLERANCE, match_vertices


@dataclass(frozen=True)
class Line:
    """One compared array; `error` is None where the case is not implemented."""

    case: str
    array: str
    error: float | None
    note: str = ""

    @property
    def failed(self) -> bool:
        return self.error is not None and not self.error <= TOLERANCE

    def __str__(self) -> str:
        value = "not implemented" if self.error is None else f"{self.error:.3e}"
        return f"{self.case} {self.array} {value}" + (f"  {self.note}" if self.note else "")


def relative_error(ours: np.ndarray, expected: np.ndarray) -> tuple[float, str]:
    """Largest absolute difference over the expected array's RMS."""
    if ours.shape != expected.shape:
        return float("inf"), f"shape {ours.shape}, expected {expected.shape}"
    if not expected.size:
        return 0.0, ""
    ours, expected = ours.astype(np.float64), expected.astype(np.float64)
    difference = np.abs(ours - expected).max()
    rms = np.sqrt(np.square(expected).mean())
    if not np.isfinite(difference):
        return float("inf"), "not finite"
    return float(difference / rms if rms > 0 else difference), ""


def oriented_triangles(faces_F3: np.ndarray) -> set[tuple[int, int, int]]:
    """Each triangle rotated so that its smallest index comes first: orientation is kept."""
    first = faces_F3.argmin(axis=1)
    rows = np.arange(len(faces_F3))
    rolled = np.stack([faces_F3[rows, (first + k) % 3] for k in range(3)], axis=1)
    return {tuple(row) for row in rolled.tolist()}


def compare_mesh(
    case: str, index: str, verts: np.ndarray, faces: np.ndarray, ref_verts: np.ndarray, ref_faces: np.ndarray
) -> list[Line]:
    """Vertices as a set (their order is free), faces as a set of oriented triangles after matching vertices."""
    if verts.shape != ref_verts.shape:
        note = f"shape {verts.shape}, expected {ref_verts.shape}"
        return [
            Line(case, f"verts{index}", float("inf"), note),
            Line(case, f"faces{index}", float("inf"), note),
        ]
    if not len(ref_verts):
        return [
            Line(case, f"verts{index}", 0.0),
            Line(case, f"faces{index}", float(len(faces) != len(ref_faces))),
        ]
    match = match_vertices(verts, ref_verts)
    error, note = relative_error(verts, ref_verts[match])
    lines = [Line(case, f"verts{index}", error, note)]
    if len(np.unique(match)) != len(match):
        return [*lines, Line(case, f"faces{index}", float("inf"), "vertices do not match one to one")]
    ours, expected = oriented_triangles(match[faces]), oriented_triangles(ref_faces)
    wrong = len(ours ^ expected)
    note = f"{wrong} triangles differ" if wrong else ""
    return [*lines, Line(case, f"faces{index}", wrong / max(len(expected), 1), note)]


def compare_case(folder: Path, name: str) -> Iterator[Line]:
    """All lines of one NAME.json + NAME.npz."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
        expected: Arrays = {key: stored[key] for key in stored.files}
    case = json.loads((folder / f"{name}.json").read_text())
    try:
        if case["kind"] == "cameras":
            ours = camera_case(case, expected)
        elif case["kind"] == "discriminator":
            ours = discriminator_case(case, expected, name)
        elif case["kind"] == "generator":
            ours = generator_case(case, expected, name)
        else:
            raise NotImplementedCase(f"kind {case['kind']}")
    except NotImplementedCase as reason:
        yield from (Line(name, key, None, f"({reason})") for key in expected)
        return
    except (RuntimeError, ValueError, KeyError) as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        yield from (
            Line(name, key, float("inf"), f"{type(error).__name__}: {first_line}") for key in expected
        )
        return
    for key in expected:
        if key.startswith("faces") and f"verts{key[5:]}" in expected:
            continue
        if key not in ours:
            yield Line(name, key, float("inf"), "missing from our side")
        elif key.startswith("verts") and f"faces{key[5:]}" in expected:
            index = key[5:]
            yield from compare_mesh(
                name, index, ours[key], ours[f"faces{index}"], expected[key], expected[f"faces{index}"]
            )
        else:
            yield Line(name, key, *relative_error(np.asarray(ours[key]), expected[key]))
