"""Training curves as SVG that lives inside a page: text and axes take the page's colour and font."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Points per line; longer logs are averaged in bins.
MAX_POINTS = 240
# Stands for the page's text colour until the SVG is text that can be edited.
PAGE_COLOR = "#010203"
# Tell apart on white and on near-black, and under the common colour deficiencies (after Okabe and Ito).
BLUE, ORANGE, GREEN, PINK = "#2b7fc4", "#e08214", "#18997a", "#c9659b"


@dataclass(frozen=True)
class Line:
    """One curve: a key of the training log. factor: multiplies the values."""

    key: str
    label: str
    color: str
    factor: float = 1.0


def from_zero(axes: Axes, values: list[np.ndarray]) -> None:
    """Starts at 0; outliers, such as the compilation in the first step, may leave the picture."""
    together = np.concatenate(values)
    usual = 2.0 * max(float(np.percentile(v, 90)) for v in values)
    top = min(1.08 * float(together.max()), usual)
    axes.set_ylim(min(0.0, float(together.min())), top if top > 0 else 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def logarithmic(axes: Axes, values: list[np.ndarray]) -> None:
    """Powers of ten; values that are not positive have no place."""
    if any((v > 0).any() for v in values):
        axes.set_yscale("log")


def between(low: float, high: float) -> Callable[[Axes, list[np.ndarray]], None]:
    """A range known beforehand, with a little air."""

    def set_scale(axes: Axes, values: list[np.ndarray]) -> None:
        air = 0.03 * (high - low)
        axes.set_ylim(low - air, high + air)
        axes.set_yticks(np.linspace(low, high, 5))

    return set_scale


@dataclass(frozen=True)
class Panel:
    """One picture. set_scale: scales the value axis for the lines' values."""

    title: str
    explanation: str
    lines: tuple[Line, ...]
    set_scale: Callable[[Axes, list[np.ndarray]], None]


PANELS = (
    Panel(
        "Adversarial losses",
        "Generator against the two discriminators (colour, silhouette); neither side should run away.",
        (
            Line("loss/generator_rgb", "G colour", BLUE),
            Line("loss/generator_mask", "G silhouette", GREEN),
            Line("loss/discriminator_real", "D real", ORANGE),
            Line("loss/discriminator_fake", "D generated", PINK),
        ),
        from_zero,
    ),
    Panel(
        "Discriminator signs",
        "Mean sign of the verdicts: +1 is taken for real, -1 for generated. The closer real and generated "
        "come, the better the generator.",
        (
            Line("signs/real_rgb", "real, colour", BLUE),
            Line("signs/fake_rgb", "generated, colour", ORANGE),
            Line("signs/real_mask", "real, silhouette", GREEN),
            Line("signs/fake_mask", "generated, silhouette", PINK),
        ),
        between(-1.0, 1.0),
    ),
    Panel(
        "Distance to held-out views",
        "Sliced Wasserstein distance (SWD) between patches of generated and of held-out views, mean over the scales; "
        "0 for equal sets. Measured at every checkpoint, without the discriminators.",
        (Line("validation/swd", "SWD", GREEN),),
        from_zero,
    ),
    Panel(
        "Gradients",
        "Norms of the gradients, on a logarithmic scale; they should neither die nor explode.",
        (
            Line("gradients/generator_norm", "G", BLUE),
            Line("gradients/discriminator_norm", "D", ORANGE),
        ),
        logarithmic,
    ),
    Panel(
        "Speed",
        "Seconds per thousand images. The first steps also compile kernels.",
        (Line("sec_per_kimg", "sec/kimg", BLUE),),
        from_zero,
    ),
    Panel(
        "Triangles per shape",
        "Of the surfaces extracted during training.",
        (Line("shapes/triangles", "triangles", BLUE),),
        from_zero,
    ),
    Panel(
        "Empty shapes",
        "Share of fields without a surface, in percent; should fall to 0.",
        (Line("shapes/empty_fraction", "empty", ORANGE, 100.0),),
        between(0.0, 100.0),
    ),
    Panel(
        "Regularisers",
        "SDF regulariser and R1 penalty, unweighted, on a logarithmic scale.",
        (Line("loss/sdf_regularizer", "SDF", BLUE), Line("loss/r1", "R1", ORANGE)),
        logarithmic,
    ),
)


def curve_svg(panel: Panel, log: list[dict[str, float]]) -> str:
    """`panel` as an inline SVG element; the same log gives the same text.

    Empty when the log has none of its keys.
    """
    found = [(line, *series(log, line.key)) for line in panel.lines]
    found = [(line, kimg, values * line.factor) for line, kimg, values in found if len(values)]
    if not found:
        return ""
    with matplotlib.rc_context(svg_style(panel.title)):
        figure = Figure(figsize=(5.2, 2.5), layout="constrained")
        axes = figure.add_subplot()
        for line, kimg, values in found:
            # A single record is a point, not a line.
            axes.plot(
                kimg,
                values,
                color=line.color,
                linewidth=1.6,
                label=line.label,
                marker="o" if len(kimg) == 1 else "",
            )
        panel.set_scale(axes, [values for _, _, values in found])
        axes.set_xlabel("kimg")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(color=PAGE_COLOR, alpha=0.12, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if len(found) > 1:
            figure.legend(
                loc="outside upper left",
                ncols=len(found),
                frameon=False,
                fontsize=8,
                handlelength=1.2,
                columnspacing=1.0,
            )
        return inline_svg(figure, f"{panel.title} over training")


def series(log: list[dict[str, float]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(kimg, value) of the records that have `key`, averaged in at most MAX_POINTS bins."""
    records = [
        (record["kimg"], record[key]) for record in log if key in record and math.isfinite(record[key])
    ]
    points_N2 = np.array(records, np.float64).reshape(-1, 2)
    if len(points_N2) > MAX_POINTS:
        points_N2 = np.array([part.mean(axis=0) for part in np.array_split(points_N2, MAX_POINTS)])
    return points_N2[:, 0], points_N2[:, 1]


def svg_style(salt: str) -> dict[str, Any]:
    """Settings of matplotlib for pictures inside a page. salt: one per picture of a page; ids depend on it alone."""
    colored = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
        "font.size": 9.5,
        **dict.fromkeys(colored, PAGE_COLOR),
    }


def inline_svg(figure: Figure, label: str) -> str:
    """The <svg> element alone, without what a stand-alone file needs; sized by the page. label: for screen readers.

    Call it under the settings of `svg_style`.
    """
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # The style rule would apply to the whole page; names of groups would repeat in every panel.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r' (width|height)="[^"]*pt"', "", svg, count=2)
    svg = svg.replace(PAGE_COLOR, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
