"""What each metric is called, which way is better, and how to read it: for the page, the gate and the printed table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

LOWER, HIGHER = "lower", "higher"


def percent(value: float) -> str:
    return f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def three(value: float) -> str:
    return f"{value:.3g}"


def whole(value: float) -> str:
    return f"{value:,.0f}"


@dataclass(frozen=True)
class Entry:
    """A metric. better: LOWER, HIGHER, or the value that is best. show: a finite value as text."""

    title: str
    group: str
    better: str | float | None
    show: Callable[[float], str]
    reading: str

    def badness(self, value: float) -> float:
        """What should be small; nan for metrics without a better and a worse."""
        if self.better is None:
            return math.nan
        if self.better == LOWER:
            return value
        return -value if self.better == HIGHER else abs(value - float(self.better))


IMAGES, GEOMETRY, QUALITY, MEMORY = "Pictures", "Shapes", "Meshes", "Memory"

CATALOGUE: dict[str, Entry] = {
    "fid_ori": Entry(
        "FID-Ori", IMAGES, LOWER, three,
        "Fréchet distance of Inception features: pictures of the generator against real ones. Lower is better; its "
        "level depends on the number of pictures, so compare equal counts only.",
    ),
    "fid_3d": Entry(
        "FID-3D", IMAGES, LOWER, three,
        "The same for renders of the extracted textured meshes, which is what users get.",
    ),
    "kid_ori_x1000": Entry(
        "KID-Ori × 1000", IMAGES, LOWER, three,
        "Kernel distance of the same features; does not depend on the number of pictures. 0 for equal distributions.",
    ),
    "kid_3d_x1000": Entry("KID-3D × 1000", IMAGES, LOWER, three, "The same for renders of the meshes."),
    "cd_cov": Entry(
        "Coverage (COV), Chamfer", GEOMETRY, HIGHER, percent,
        "Held-out shapes that are the nearest to some sample. Higher is more variety.",
    ),
    "cd_mmd_x1000": Entry(
        "Minimum matching distance (MMD) × 1000, Chamfer", GEOMETRY, LOWER, three,
        "Mean distance from a held-out shape to its closest sample. Lower is more faithful.",
    ),
    "cd_1nna": Entry(
        "1-NN accuracy (1-NNA), Chamfer", GEOMETRY, 0.5, percent,
        "How often the nearest neighbour tells samples and held-out shapes apart. 50% is best: they cannot be told "
        "apart.",
    ),
    "lfd_cov": Entry(
        "Coverage (COV), light field", GEOMETRY, HIGHER, percent,
        "As above, with the Light Field Distance, which compares silhouettes from all around.",
    ),
    "lfd_mmd": Entry(
        "Minimum matching distance (MMD), light field", GEOMETRY, LOWER, whole,
        "Mean Light Field Distance from a held-out shape to its closest sample.",
    ),
    "lfd_1nna": Entry("1-NN accuracy (1-NNA), light field", GEOMETRY, 0.5, percent, "As above. 50% is best."),
    "jsd": Entry(
        "Jensen-Shannon divergence (JSD)", GEOMETRY, LOWER, three,
        "Between where in space the points of samples and of held-out shapes are; 0 for equal occupation.",
    ),
    "watertight_fraction": Entry(
        "Watertight", QUALITY, HIGHER, percent,
        "Of the samples with a surface, those where it is closed. 100% is the aim.",
    ),
    "manifold_fraction": Entry(
        "Manifold", QUALITY, HIGHER, percent,
        "Of the samples with a surface, those where no edge has more than two faces and no vertex several fans.",
    ),
    "self_intersecting_fraction": Entry(
        "Self-intersecting", QUALITY, LOWER, percent,
        "Of the samples with a surface, those where one of 500 faces passes through another.",
    ),
    "single_component_fraction": Entry(
        "In one piece", QUALITY, HIGHER, percent,
        "Of the samples with a surface, those without floating parts. Higher is better.",
    ),
    "components_median": Entry("Pieces, median", QUALITY, LOWER, three, "Connected parts of a sample. 1 is the aim."),
    "empty_fraction": Entry(
        "Empty", QUALITY, LOWER, percent, "Samples whose field has no surface at all. 0% is the aim."
    ),
    "triangles_median": Entry(
        "Triangles, median", QUALITY, None, whole, "Size of a sample; set by model.tet_res."
    ),
    "degenerate_faces_median": Entry(
        "Degenerate triangles, median", QUALITY, LOWER, whole, "Triangles without an area. 0 is the aim."
    ),
    "euler_characteristic_median": Entry(
        "Euler characteristic, median", QUALITY, None, three,
        "Vertices less edges plus faces: 2 for a sphere, 2 less for every handle, 2 more for every further part.",
    ),
    "self_intersection_share_median": Entry(
        "Faces through others, median", QUALITY, LOWER, percent,
        "Of 500 random faces of a sample, those that pass through another. 0% is the aim.",
    ),
    "texture_utilisation_median": Entry(
        "Texture in use, median", QUALITY, HIGHER, percent,
        "Share of the texture that faces show, of the samples pictured below.",
    ),
    "memorization_shape": Entry(
        "Copies of training shapes", MEMORY, 0.5, percent,
        "How often a sample is nearer to a training shape than a held-out shape is. 50%: no nearer than new shapes "
        "are; near 100%: copies; near 0%: farther from everything known.",
    ),
    "memorization_image": Entry(
        "Copies of training pictures", MEMORY, 0.5, percent,
        "The same for pictures, by their pixels at 32 × 32.",
    ),
    "memorization_shape_distance_median": Entry(
        "Distance to the nearest training shape, median", MEMORY, None, three,
        "Chamfer distance. Far below that of held-out shapes means copies.",
    ),
    "memorization_image_distance_median": Entry(
        "Distance to the nearest training picture, median", MEMORY, None, three,
        "Root mean square difference of pixel values from 0 to 1.",
    ),
}  # fmt: skip


# Before the names of FID and KID where they are not of the network whose numbers others publish.
OTHER_NETWORK = "other_network_"


def known(name: str) -> bool:
    """Whether there is such a metric."""
    return name in CATALOGUE or entry(name).group == IMAGES


def entry(name: str) -> Entry:
    """The metric's entry; one made up from its name where the catalogue has none."""
    published = CATALOGUE.get(name.removeprefix(OTHER_NETWORK))
    if name.startswith(OTHER_NETWORK) and published is not None and published.group == IMAGES:
        return replace(
            published,
            title=f"{published.title}, another network",
            reading="As above, of the features of a network that is not the one others use.",
        )
    return CATALOGUE.get(name) or Entry(name.replace("_", " "), "Other", None, three, "")


def show(name: str, value: float | None) -> str:
    """`value` as the page shows it, a dash for what is no number."""
    return entry(name).show(value) if value is not None and math.isfinite(value) else "–"
