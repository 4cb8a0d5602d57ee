"""How values are distributed, as cumulative shares: rows for `dvc plots`, and pictures in the page.

Shape legend: N values
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from components.report.curves import BLUE, GREEN, ORANGE, PAGE_COLOR, inline_svg, svg_style

# Points of a curve; more values are thinned to these shares.
POINTS = 100
PERCENT_STEP = 2


@dataclass(frozen=True)
class Distribution:
    """name: of the file in plots/. sets: values by the name of their set."""

    name: str
    title: str
    axis: str
    explanation: str
    sets: Mapping[str, np.ndarray]


def cumulative(values_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values in rising order, and the share of all that is at or below each; at most 100 of them."""
    ordered_N = np.sort(np.asarray(values_N, np.float64))
    share_N = np.arange(1, len(ordered_N) + 1) / len(ordered_N)
    if len(ordered_N) > POINTS:
        kept = np.unique(np.linspace(0, len(ordered_N) - 1, POINTS).round().astype(int))
        ordered_N, share_N = ordered_N[kept], share_N[kept]
    return ordered_N, share_N


def plot_rows(distribution: Distribution) -> list[dict[str, Any]]:
    """For `dvc plots`: the percentiles; x is `percent`, and every set has a column (spaces are underscores)."""
    percents = list(range(0, 101, PERCENT_STEP))
    columns = {
        name.replace(" ", "_"): np.percentile(np.asarray(values, np.float64), percents)
        for name, values in distribution.sets.items()
        if len(values)
    }
    return [
        {"percent": percent, **{name: float(values[i]) for name, values in columns.items()}}
        for i, percent in enumerate(percents)
    ]


def distribution_svg(distribution: Distribution) -> str:
    """The curves as an inline SVG element in the page's colours; empty without values. Equal values, equal text."""
    sets = {name: values for name, values in distribution.sets.items() if len(values)}
    if not sets:
        return ""
    with matplotlib.rc_context(svg_style(distribution.name)):
        figure = Figure(figsize=(5.2, 2.6), layout="constrained")
        axes = figure.add_subplot()
        for (name, values), color in zip(sets.items(), (BLUE, ORANGE, GREEN), strict=False):
            x, share = cumulative(values)
            axes.step(
                x, share * 100, where="post", color=color, linewidth=1.6, label=f"{name} ({len(values)})"
            )
        axes.set_title(distribution.title, fontsize=10, loc="left")
        axes.set_xlabel(distribution.axis)
        axes.set_ylabel("% at or below")
        axes.set_ylim(-2, 102)
        axes.grid(color=PAGE_COLOR, alpha=0.12, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        return inline_svg(figure, distribution.title)
