"""`report.html` of an evaluation: one file with everything in it. What the template shows is put together here.

Shape legend: H W pixels
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from components.evaluate.catalogue import CATALOGUE, OTHER_NETWORK, entry, show
from components.evaluate.gate import Verdict
from components.evaluate.results import CONTROLS, Section, protocols
from components.evaluate.sheets import Pair, Sheets
from components.report.page_parts import Figure, jpeg_figure, page_environment
from get3d_model.metrics.bootstrap import Interval

TEMPLATE = "evaluation.html.j2"
# Of what could not be measured.
EXCLUDED_SHOWN = 20
# Samples whose nearest training members are listed: 100 bytes each.
NEAREST_SHOWN = 2000
# Held-out shapes, below which the page warns.
FEW = 20
SAMPLES = "Samples"
HEADINGS = {"train": "Training shapes", "self": "Held-out shapes"}


@dataclass(frozen=True)
class Cell:
    """A number as text, and its interval. heading: of its column."""

    heading: str
    value: str
    interval: str


@dataclass(frozen=True)
class Row:
    """A line of the table. note: why there is no number, or nothing."""

    name: str
    title: str
    cells: list[Cell]
    note: str
    reading: str


@dataclass(frozen=True)
class Compared:
    """A number beside that of another program, as text."""

    title: str
    ours: str
    theirs: str
    difference: str


@dataclass(frozen=True)
class Titles:
    """What the page is about."""

    model: str
    kimg: float
    checkpoint_sha256: str
    confidence: float


def evaluation_html(
    titles: Titles,
    section: Section,
    verdict: Verdict,
    sheets: Sheets,
    curves: list[tuple[str, str]],
    viewer: str = "",
) -> str:
    """The page. curves: (explanation, SVG). viewer: HTML of the interactive viewer, trusted; none: no such section."""
    controls = [control for control in CONTROLS if control in section.controls]
    shown = section.excluded[:EXCLUDED_SHOWN]
    return (
        page_environment(Path(__file__).parent)
        .get_template(TEMPLATE)
        .render(
            titles=titles,
            percent=f"{titles.confidence:.0%}",
            verdict=verdict,
            groups=metric_groups(section),
            headings=[SAMPLES, *(HEADINGS[control] for control in controls)],
            control_meanings=[(HEADINGS[control], CONTROLS[control]) for control in controls],
            samples=[_figure(picture, f"seed {seed}") for seed, picture in sheets.samples],
            shape_pairs=[_pair(pair) for pair in sheets.shape_pairs],
            picture_pairs=[_pair(pair) for pair in sheets.picture_pairs],
            neighbors=[_neighbor(row) for row in section.details.get("nearest_training", [])[:NEAREST_SHOWN]],
            neighbors_count=len(section.details.get("nearest_training", [])),
            curves=[(text, Markup(svg)) for text, svg in curves],
            viewer=Markup(viewer),
            settings=[
                (
                    "What others must share",
                    "Numbers are comparable when these agree; metrics.json has their hashes, with and without those of pictures.",
                    sorted({**section.settings, **protocols(section)}.items()),
                ),
                (
                    "This run",
                    "",
                    sorted((k, v) for k, v in section.facts.items() if k not in section.settings),
                ),
            ],
            notices=[n for n in (_few(section), _changed(section), _other_network(section)) if n],
            opinion_source=next((opinion.source for opinion in section.second.values()), ""),
            opinions=second_opinions(section),
            excluded=shown,
            excluded_count=len(section.excluded),
        )
    )


def metric_groups(section: Section) -> list[tuple[str, list[Row]]]:
    """The table, by groups in the catalogue's order; metrics that it lacks come last."""
    present = {*section.metrics, *section.unavailable}
    names = [name for name in CATALOGUE if name in present] + sorted(present - CATALOGUE.keys())
    groups: dict[str, list[Row]] = {}
    for name in names:
        controls = [(HEADINGS[c], section.controls[c]) for c in CONTROLS if c in section.controls]
        columns = [(SAMPLES, section.metrics), *controls]
        metric = entry(name)
        rows = groups.setdefault(metric.group, [])
        note = section.unavailable.get(name, "")
        # The way to get one is the way to get all.
        if rows and note and note in (section.unavailable.get(row.name, "") for row in rows):
            note = "unavailable, as above"
        row = Row(
            name,
            metric.title,
            [_cell(heading, name, column.get(name)) for heading, column in columns],
            note,
            metric.reading,
        )
        rows.append(row)
    return list(groups.items())


def second_opinions(section: Section) -> list[Compared]:
    """Those that have a value."""
    rows = []
    for name, opinion in sorted(section.second.items()):
        if not math.isfinite(opinion.value):
            continue
        ours = section.metrics[name].value
        chance = f" ± {opinion.standard_error:.1g}" if opinion.standard_error else ""
        rows.append(
            Compared(
                entry(name).title,
                f"{ours:.6g}",
                f"{opinion.value:.6g}{chance}",
                f"{opinion.value - ours:+.1e}".replace("-", "−"),
            )
        )
    return rows


def _few(section: Section) -> str:
    """A warning where a handful of shapes decides."""
    references = section.facts.get("references")
    if not isinstance(references, int) or references >= FEW:
        return ""
    return (
        f"Only {references} held-out shapes: one of them counts for {1 / references:.0%} of the coverage, and the "
        "intervals themselves are rough."
    )


def _changed(section: Section) -> str:
    """A warning where the pictures are of other meshes than those that were measured."""
    changed = section.facts.get("changed_meshes", 0)
    if not changed:
        return ""
    return (
        f"{changed} mesh files have changed since the data set was rendered from them: the model has learned from others "
        "than those it is compared with here. Render again."
    )


def _other_network(section: Section) -> str:
    """A warning where there are numbers that are easily taken for FID and KID."""
    sha256 = section.settings.get("inception_sha256")
    if sha256 is None or not any(name.startswith(OTHER_NETWORK) for name in section.metrics):
        return ""
    return (
        f"The features of pictures are of another network (SHA-256 {sha256[:12]}…) than the Inception-v3 of "
        "2015-12-05: their distances are not FID and KID, and have names of their own."
    )


def _cell(heading: str, name: str, interval: Interval | None) -> Cell:
    if interval is None:
        return Cell(heading, show(name, None), "")
    bounded = math.isfinite(interval.low) and math.isfinite(interval.high)
    return Cell(
        heading,
        show(name, interval.value),
        f"{show(name, interval.low)} to {show(name, interval.high)}" if bounded else "",
    )


def _figure(picture_HW3: np.ndarray, caption: str) -> Figure:
    return jpeg_figure(Image.fromarray(picture_HW3), caption)


def _neighbor(row: dict[str, Any]) -> list[str]:
    """Seed, nearest shape, its distance, nearest picture, its distance; a dash for what there is not."""
    cells = [str(row["seed"])]
    for kind in ("shape", "picture"):
        there = kind in row
        cells += [row[kind] if there else "–", f"{row[f'{kind}_distance']:.3g}" if there else "–"]
    return cells


def _pair(pair: Pair) -> tuple[Figure, Figure, str]:
    return (
        _figure(pair.sample_HW3, pair.sample),
        _figure(pair.nearest_HW3, pair.nearest),
        f"{pair.distance:.3g}",
    )
