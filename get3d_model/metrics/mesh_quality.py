"""A summary of the topology of generated meshes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from get3d_model.mesh_topology import MeshTopology


def mesh_quality(topologies: Sequence[MeshTopology]) -> dict[str, float]:
    """Flat numbers: shares over all meshes and medians over the non-empty ones (nan when all are empty)."""
    full = [t for t in topologies if t.faces > 0]

    def share(values: list[bool]) -> float:
        return float(np.mean(values)) if values else 0.0

    def median(values: list[int]) -> float:
        return float(np.median(values)) if values else float("nan")

    return {
        "empty_fraction": 1.0 - len(full) / len(topologies),
        "watertight_fraction": share([t.watertight for t in full]),
        "single_component_fraction": share([t.components == 1 for t in full]),
        "components_median": median([t.components for t in full]),
        "triangles_median": median([t.faces for t in full]),
        "degenerate_faces_median": median([t.degenerate_faces for t in full]),
    }
