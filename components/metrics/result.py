"""A comparison as metrics.json (flat), as metrics_full.json, and as a table."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch

from components.metrics.compare import Comparison
from components.metrics.settings import MetricsSettings
from components.metrics.shapes import MeasuredShapes
from get3d_model.files import sha256_json
from get3d_model.metrics.lfd import VERSION

# At most so many excluded meshes are printed; metrics_full.json has all.
_PRINTED = 10

_TITLES = {
    "cd_cov": "Coverage (COV), Chamfer; higher is better",
    "cd_mmd_x1000": "Minimum matching distance (MMD) x 1000, Chamfer; lower",
    "cd_1nna": "1-NN accuracy, Chamfer; 0.5 is best",
    "lfd_cov": "Coverage (COV), light field; higher",
    "lfd_mmd": "Minimum matching distance (MMD), light field; lower",
    "lfd_1nna": "1-NN accuracy, light field; 0.5 is best",
    "jsd": "Jensen-Shannon divergence of occupied space; lower",
}
# Of the many numbers of quality, those that are printed.
_QUALITY = (
    "empty_fraction", "watertight_fraction", "manifold_fraction", "single_component_fraction",
    "self_intersecting_fraction", "triangles_median", "components_median", "degenerate_faces_median",
    "texture_utilisation_median",
)  # fmt: skip


def flat(
    found: Comparison, generated: MeasuredShapes, reference: MeasuredShapes, settings: MetricsSettings
) -> dict[str, Any]:
    """Numbers by name, null where there is none, those of the references with `self_`; with how many meshes were used
    and excluded, and the settings."""
    protocol = _protocol(settings)
    return {
        **{name: _number(interval.value) for name, interval in found.metrics.items()},
        **{name: _number(interval.value) for name, interval in found.quality.items()},
        **{f"self_{name}": _number(interval.value) for name, interval in found.control.items()},
        "generated": len(generated),
        "generated_excluded": len(generated.excluded),
        "reference": len(reference),
        "reference_excluded": len(reference.excluded),
        **{name: value for name, value in protocol.items() if not isinstance(value, list)},
        "protocol_sha256": sha256_json(protocol),
    }


def full(
    found: Comparison,
    generated: MeasuredShapes,
    reference: MeasuredShapes,
    settings: MetricsSettings,
    device: torch.device,
) -> dict[str, Any]:
    """With intervals, what was excluded and why, neighbours of every mesh, and distributions of the quality."""
    return {
        "intervals": {name: i.as_dict() for name, i in {**found.metrics, **found.quality}.items()},
        "control": {name: interval.as_dict() for name, interval in found.control.items()},
        "excluded": {
            name: [{"mesh": mesh, "reason": reason} for mesh, reason in shapes.excluded]
            for name, shapes in (("generated", generated), ("reference", reference))
        },
        "settings": {**asdict(settings), "distances": list(settings.distances), "device": device.type},
        **found.details,
    }


def table(
    found: Comparison, generated: MeasuredShapes, reference: MeasuredShapes, settings: MetricsSettings
) -> str:
    """For people: values with intervals and those of the references, quality, and what was left out."""
    rows = {_TITLES[name]: (name, interval) for name, interval in found.metrics.items()}
    rows |= {
        name.replace("_", " "): (name, found.quality[name]) for name in _QUALITY if name in found.quality
    }
    width = max(map(len, rows))
    lines = [
        f"{len(generated)} generated and {len(reference)} reference meshes; intervals of {settings.confidence:.0%} in "
        "brackets",
        f"references: what one half of {min(len(generated), len(reference))} of them scores against the other, and their "
        "own quality",
    ]
    for title, (name, interval) in rows.items():
        around = f"[{_shown(interval.low).strip()}, {_shown(interval.high).strip()}]"
        control = found.control.get(name)
        beside = f"  references {_shown(control.value).strip()}" if control else ""
        lines.append(f"{title:<{width}}  {_shown(interval.value)}  {around:<20}{beside}".rstrip())
    for label, shapes in (("generated", generated), ("reference", reference)):
        if shapes.excluded:
            lines.append(f"{label}: {len(shapes.excluded)} of {shapes.found} meshes excluded:")
            lines += [f"  {mesh}: {reason}" for mesh, reason in shapes.excluded[:_PRINTED]]
            if len(shapes.excluded) > _PRINTED:
                lines.append(f"  and {len(shapes.excluded) - _PRINTED} more; --out keeps all of them")
    return "\n".join(lines)


def _protocol(settings: MetricsSettings) -> dict[str, Any]:
    """What two results must share to be comparable (beside the references)."""
    protocol = {"lfd_version": VERSION, **settings.point_key(), "distances": list(settings.distances)}
    if "lfd" not in settings.distances:
        del protocol["lfd_version"]
    return protocol


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _shown(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:10,.0f}"
    return f"{value:10.4g}" if math.isfinite(value) else f"{'-':>10}"
