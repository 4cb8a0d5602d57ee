"""`report.html`: one file with everything in it. What the template shows is put together here.

Shape legend: H W pixels
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from markupsafe import Markup
from PIL import Image

from components.evaluate.catalogue import CATALOGUE, percent, whole
from components.report.curves import PANELS, curve_svg
from components.report.inputs import RunInputs, finite, training_seconds
from components.report.page_parts import Figure, jpeg_figure, page_environment, png_figure
from get3d_model.config import config_to_dict
from get3d_model.errors import InputError
from get3d_model.version import package_version

TEMPLATE = "report.html.j2"
# Wider pictures are scaled down; those that had to be are photographs to a codec, not pixels.
GRID_WIDTH = 1024
GRIDS_SHOWN = 5
NO_VALUE = "–"


@dataclass(frozen=True)
class MetricRow:
    """One line of the table. control: the same measure of training meshes, or NO_VALUE."""

    name: str
    value: str
    control: str
    reading: str


def report_html(inputs: RunInputs, sheet_HW3: np.ndarray, credits_text: str) -> str:
    """The page. Raises InputError for an image grid that cannot be read."""
    identity = inputs.sampler.identity
    svgs = [(panel, curve_svg(panel, inputs.log)) for panel in PANELS]
    return (
        page_environment(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            name=inputs.config.name,
            sheet=png_figure(sheet_HW3, "Contact sheet"),
            facts=_facts(inputs),
            curves=[(panel, Markup(svg)) for panel, svg in svgs if svg],
            metric_rows=metric_rows(inputs.metrics, inputs.unavailable),
            measured=_measured(inputs.metrics),
            grids=_grids(inputs),
            data_rows=_data_rows(inputs),
            rejected=inputs.rejected,
            changed_settings=inputs.changed_settings,
            model_rows=[
                ("Model", identity.name),
                ("Trained on", f"{identity.kimg:g} kimg"),
                ("Checkpoint SHA-256", identity.sha256),
                ("Python", platform.python_version()),
                ("torch", torch.__version__),
                ("get3d-pipeline", package_version()),
            ],
            config_yaml=yaml.safe_dump(config_to_dict(inputs.config), sort_keys=False),
            credits_text=credits_text,
            credit_files=inputs.credit_files,
        )
    )


def metric_rows(metrics: dict[str, Any], unavailable: dict[str, str]) -> list[MetricRow]:
    """The table of `metrics.json`; measures that are not there are left out, null is shown as a dash with the reason,
    where `unavailable` has one by the measure's name, in the place of how to read it."""
    references = metrics.get("references")
    coarse = (
        f" One held-out shape counts for {1 / references:.0%} here."
        if finite(references) and references < 20
        else ""
    )
    return [
        MetricRow(
            metric.title,
            _show(metrics[name], metric.show),
            _show(metrics.get(f"train_{name}"), metric.show),
            unavailable[name]
            if name in unavailable and not finite(metrics[name])
            else metric.reading + (coarse if name == "cd_cov" else ""),
        )
        for name, metric in CATALOGUE.items()
        if name in metrics
    ]


def _measured(metrics: dict[str, Any]) -> str:
    """How the samples were measured, as a sentence or two."""
    missing = [
        key for key in ("samples", "truncation_psi", "references", "surface_points") if key not in metrics
    ]
    if missing:
        raise InputError(f"the metrics lack {', '.join(missing)}; run `get3d evaluate` again")
    held_out = f"{metrics['references']} held-out shape{'' if metrics['references'] == 1 else 's'}"
    text = (
        f"{metrics['samples']} samples at truncation psi {metrics['truncation_psi']:g} against {held_out}, "
        f"{metrics['surface_points']} surface points each."
    )
    if metrics.get("train_control"):
        text += (
            f" The control scores {metrics['train_control']} training meshes in the place of the samples: "
            "what good looks like on this data set."
        )
    return text


def _show(value: Any, show: Any) -> str:
    return show(value) if finite(value) else NO_VALUE


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _facts(inputs: RunInputs) -> list[tuple[str, str]]:
    """The few numbers at the top: (value, what it is)."""
    metrics = inputs.metrics
    return [
        (f"{len(inputs.manifest.splits['train'])}", "training shapes"),
        (f"{inputs.sampler.identity.kimg:g}", "thousand images seen"),
        (duration(training_seconds(inputs.log)), "of training"),
        (_show(metrics.get("cd_cov"), percent), "coverage of held-out shapes"),
        (_show(metrics.get("watertight_fraction"), percent), "watertight samples"),
        (_show(metrics.get("triangles_median"), whole), "triangles per sample"),
    ]


def _data_rows(inputs: RunInputs) -> list[tuple[str, str]]:
    manifest = inputs.manifest
    shapes = len(manifest.shapes)
    splits = ", ".join(f"{name} {len(ids)}" for name, ids in sorted(manifest.splits.items()))
    rows = [
        ("Shapes", f"{shapes}"),
        ("Splits", splits),
        ("Views", f"{manifest.views_per_shape} per shape, {shapes * manifest.views_per_shape:,} in all"),
        ("Resolution", f"{manifest.resolution} × {manifest.resolution} pixels, RGBA"),
        ("Renderer", manifest.renderer_version),
        ("Set aside", f"{len(inputs.rejected)}" if inputs.rejected else "none"),
    ]
    return [("Category", manifest.category), *rows] if manifest.category else rows


def _grids(inputs: RunInputs) -> list[Figure]:
    """Real images, then the first, some middle and the last generated grid."""
    grids = inputs.grids
    picked = sorted(set(np.linspace(0, len(grids) - 1, GRIDS_SHOWN).round().astype(int).tolist()))
    figures = [_grid_figure(inputs.reals_grid, "Real: training views")]
    return figures + [_grid_figure(grids[i][1], f"Generated at {grids[i][0]:g} kimg") for i in picked]


def _grid_figure(path: Path, caption: str) -> Figure:
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); delete it, or train again") from None
    if picture.width > GRID_WIDTH:
        size = (GRID_WIDTH, max(1, round(picture.height * GRID_WIDTH / picture.width)))
        return jpeg_figure(picture.resize(size, Image.Resampling.LANCZOS), caption)
    return png_figure(np.asarray(picture), caption)
