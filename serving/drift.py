"""Drift: whether what a server samples, and its pictures, are still those of the model that was exported.

An export samples meshes with the model's own defaults, renders each, and records, for every statistic, the edges that
cut them into bins of about equal size. The served model counts into the same bins what it samples with those defaults,
whatever the seeds; it renders every RENDER_EVERY-th of them. Prometheus has both and makes of them the population
stability index (PSI) over any window and any number of replicas: sum over bins of (actual - expected)
ln(actual / expected) (Siddiqi, Credit Risk Scorecards, 2006). Below 0.1 nothing has changed; 0.25 and more is another
population.

    <version>/drift.json    edges and counts by statistic

Shape legend: V vertices, F triangles, P sampled vertices, K bins, H picture height, W picture width
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from get3d_model.errors import InputError
from get3d_model.files import write_json_atomic
from monitoring.metrics import DRIFT_BINS, RENDER_STATISTICS, STATISTICS
from serving.recent import Recent

if TYPE_CHECKING:
    from get3d_model.inference import Sampler, Shapes
    from get3d_model.types import Mesh
    from serving.codec import SampleRequest

DRIFT_FILE = "drift.json"
DEFAULT_SAMPLES = 128
"""With 5 bins and 200 served meshes the PSI of an unchanged model is 0.05 on average, and 0.25 practically never."""
MIN_SAMPLES = 4 * len(DRIFT_BINS)
COLOUR_POINTS = 256
RENDER_EVERY = 4
"""Of the meshes that are counted one in so many is rendered, too: a picture costs about as much as all else here."""
RENDER_RESOLUTION = 64
RENDER_AZIMUTH_DEG, RENDER_ELEVATION_DEG = 30.0, 18.0
"""The same for all, so that pictures differ by what they show."""
PROBE_SEED = 0
"""What liveness probes and the warm-up ask for."""
REMEMBERED_SEEDS = 4096
DIGITS = 9
"""Of an edge; the last bits differ from machine to machine."""
CountBin = Callable[[str, str], None]


@dataclass(frozen=True)
class DriftReference:
    """truncation_psi: of the samples. edges: by statistic, ascending, one less than bins. counts: by statistic."""

    truncation_psi: float
    edges: dict[str, list[float]]
    counts: dict[str, list[int]]

    def shares(self, statistic: str) -> list[float]:
        """Of each bin, none of them 0 (half a mesh is added to each bin)."""
        counts_K = np.asarray(self.counts[statistic], dtype=np.float64) + 0.5
        return (counts_K / counts_K.sum()).tolist()

    def bin_of(self, statistic: str, value: float) -> str:
        """A value equal to an edge belongs below it."""
        return DRIFT_BINS[int(np.searchsorted(self.edges[statistic], round_digits(value), side="left"))]


def round_digits(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def statistics_of(mesh: Mesh, colors_P3: np.ndarray) -> dict[str, float]:
    """The MESH_STATISTICS of one mesh before decimation. colors_P3: uint8 colours at some of its vertices.

    Area and volume are in world units; volume is signed, and of a mesh with holes only a number. Values that are not
    finite are left out.
    """
    vertices_V3 = mesh.vertices_V3.astype(np.float64)
    corners_F33 = vertices_V3[mesh.faces_F3]
    normals_F3 = np.cross(corners_F33[:, 1] - corners_F33[:, 0], corners_F33[:, 2] - corners_F33[:, 0])
    extents_3 = np.ptp(vertices_V3, axis=0) if len(vertices_V3) else np.zeros(3)
    colors_P3 = colors_P3.astype(np.float64) / 255.0
    if not len(colors_P3):
        colors_P3 = np.zeros((1, 3))
    values = {
        "triangles": float(len(mesh.faces_F3)),
        "area": float(np.linalg.norm(normals_F3, axis=1).sum() / 2.0),
        "volume": float(np.einsum("fi,fi->", corners_F33[:, 0], normals_F3) / 6.0),
        **{f"extent_{axis}": float(value) for axis, value in zip("xyz", extents_3, strict=True)},
        "brightness": float(colors_P3.mean()),
        "saturation": float(np.ptp(colors_P3, axis=1).mean()),
    }
    return {name: value for name, value in values.items() if np.isfinite(value)}


def measured(sampler: Sampler, shapes: Shapes, index: int, mesh: Mesh, threads: int = 1) -> dict[str, float]:
    """As `statistics_of`, of shape `index`, with the texture field read at some of its vertices."""
    import torch

    from get3d_model.rendering.texture_bake import to_bytes

    chosen = np.linspace(0, max(0, len(mesh.vertices_V3) - 1), COLOUR_POINTS).astype(np.int64)
    points_P3 = mesh.vertices_V3[chosen] if len(mesh.vertices_V3) else np.zeros((0, 3), np.float32)
    colors_P3 = np.zeros((0, 3), np.uint8)
    if len(points_P3):
        points = torch.from_numpy(np.ascontiguousarray(points_P3)).to(sampler.device)
        colors_P3 = to_bytes(sampler.point_colors(shapes, index, points, threads))
    return statistics_of(mesh, colors_P3)


def statistics_of_picture(rgba_HW4: np.ndarray) -> dict[str, float]:
    """The RENDER_STATISTICS of one picture, uint8, alpha its silhouette; all from 0 to 1.

    Share of the picture that the silhouette covers; and in it mean brightness, mean saturation (largest less smallest
    channel) and the standard deviation of the brightness. Where nothing is seen, only the first.
    """
    rgba_HW4 = rgba_HW4.astype(np.float64) / 255.0
    covered_HW = rgba_HW4[..., 3]
    values = {"render_silhouette": float(covered_HW.mean())}
    if covered_HW.sum() < 1.0:
        return values
    brightness_HW, saturation_HW = rgba_HW4[..., :3].mean(axis=2), np.ptp(rgba_HW4[..., :3], axis=2)
    mean = np.average(brightness_HW, weights=covered_HW)
    variance = np.average((brightness_HW - mean) ** 2, weights=covered_HW)
    return values | {
        "render_brightness": float(mean),
        "render_saturation": float(np.average(saturation_HW, weights=covered_HW)),
        "render_contrast": math.sqrt(variance),
    }


def rendered(sampler: Sampler, shapes: Shapes) -> dict[str, float]:
    """As `statistics_of_picture`, of a batch of one shape; nothing where the sampler has no rasteriser."""
    from get3d_model.cameras import turntable

    if sampler.rasterizer is None:
        return {}
    orbit = sampler.config.cameras.orbit
    camera = turntable(
        1,
        math.radians(90.0 - RENDER_ELEVATION_DEG),
        math.radians(RENDER_AZIMUTH_DEG),
        orbit.radius,
        math.radians(orbit.field_of_view_deg),
    ).to(sampler.device)
    return statistics_of_picture(sampler.picture(shapes, camera, RENDER_RESOLUTION)[0])


def check_samples(name: str, samples: int, otherwise: str = "") -> None:
    """Raises InputError for fewer than say anything about the bins. otherwise: what else the option may be."""
    if samples < MIN_SAMPLES:
        raise InputError(f"{name} must be {otherwise}{MIN_SAMPLES} or more, not {samples}")


def make_reference(values: list[dict[str, float]], truncation_psi: float) -> DriftReference:
    """values: the statistics of each sampled mesh. Raises InputError for too few."""
    bins = len(DRIFT_BINS)
    check_samples("a drift reference's samples", len(values))
    edges, counts = {}, {}
    for name in STATISTICS:
        column = np.array([round_digits(v[name]) for v in values if name in v])
        if not len(column):
            continue
        quantiles = np.quantile(column, np.arange(1, bins) / bins)
        edges[name] = [round_digits(edge) for edge in quantiles]
        places = np.searchsorted(edges[name], column, side="left")
        counts[name] = np.bincount(places, minlength=bins).tolist()
    return DriftReference(truncation_psi, edges, counts)


def sample_reference(sampler: Sampler, samples: int, truncation_psi: float) -> DriftReference:
    """Samples with seeds 0, 1, ...; classes, where the model has them, are those that the seeds draw."""
    import torch

    values = []
    for seed in range(samples):
        with torch.no_grad():
            shapes = sampler.shapes(sampler.styles([seed], truncation_psi))
            mesh = shapes.meshes.to_host()[0]
            values.append(measured(sampler, shapes, 0, mesh) | rendered(sampler, shapes))
    return make_reference(values, truncation_psi)


def write_drift(folder: Path, reference: DriftReference) -> None:
    write_json_atomic(Path(folder) / DRIFT_FILE, asdict(reference))


def read_drift(folder: Path) -> DriftReference | None:
    """None for a version that was exported without. Raises InputError for a damaged file."""
    path = Path(folder) / DRIFT_FILE
    try:
        reference = DriftReference(**json.loads(path.read_text()))
        for name, edges in reference.edges.items():
            if name not in STATISTICS or len(edges) != len(DRIFT_BINS) - 1 or edges != sorted(edges):
                raise ValueError(f"edges of {name}")
            if len(reference.counts[name]) != len(DRIFT_BINS) or min(reference.counts[name]) < 0:
                raise ValueError(f"counts of {name}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not a drift reference ({error}); export the model again") from None
    return reference


def psi(expected: list[float], counts: list[float]) -> float:
    """The population stability index, as the recording rule computes it: half a mesh is added to each bin."""
    actual_K = np.asarray(counts, dtype=np.float64) + 0.5
    actual_K /= actual_K.sum()
    expected_K = np.asarray(expected)
    return float(((actual_K - expected_K) * np.log(actual_K / expected_K)).sum())


class DriftCounter:
    """Counts served meshes into the reference's bins. count: called with (statistic, bin), from any thread.

    A seed counts once among the last REMEMBERED_SEEDS: who asks for the same mesh all the time is no other population.
    PROBE_SEED never counts.
    """

    def __init__(self, reference: DriftReference, count: CountBin) -> None:
        self.reference, self._count = reference, count
        self._seeds = Recent(REMEMBERED_SEEDS)
        self._renders = bool(reference.edges.keys() & set(RENDER_STATISTICS))
        self._seen = 0
        self._lock = threading.Lock()

    def wants(self, request: SampleRequest) -> bool:
        """Whether the model's defaults make it, and it is new; other requests differ without any drift."""
        other_texture = not (request.seed_tex is request.z_tex is request.w_tex is None)
        if request.truncation_psi != self.reference.truncation_psi or request.class_name is not None:
            return False
        seed = request.seed
        if other_texture or not isinstance(seed, int) or seed == PROBE_SEED:
            return False
        return self._seeds.is_new(seed)

    def wants_render(self) -> bool:
        """Whether the mesh that `wants` has just let through is one of those that are rendered."""
        with self._lock:
            self._seen += 1
            return self._renders and self._seen % RENDER_EVERY == 0

    def see(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            if name in self.reference.edges:
                self._count(name, self.reference.bin_of(name, value))
