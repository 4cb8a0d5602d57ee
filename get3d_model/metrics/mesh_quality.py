"""What is wrong with a mesh as a mesh: holes, edges of many faces, faces through each other, wasted texture; and how
such facts are distributed over a set.

Shape legend: V vertices, F faces, E edges, N sampled faces, M meshes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numba
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from get3d_model.mesh_topology import MeshTopology, merge_vertices, mesh_topology
from get3d_model.types import Mesh, TexturedMesh

# Faces that are tested for intersections: a share of 1 % is then known to about 0.5 %.
SAMPLED_FACES = 500
_TEXEL_GRID = 512
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class MeshQuality:
    """topology: see `mesh_topology`; all zeros for an empty mesh.
    nonmanifold_edges: welded edges with more than two faces. nonmanifold_vertices: welded vertices where several fans
    of faces meet in nothing but the vertex.
    self_intersection_share: of up to 500 faces at random, those that pass through another face with which they share
    no vertex (faces that lie in one plane are not found); nan without faces.
    texture_utilisation: share of the texture that some face shows; nan without a texture, and where no face has an
    area in it (flat colours).
    """

    topology: MeshTopology
    nonmanifold_edges: int
    nonmanifold_vertices: int
    self_intersection_share: float
    texture_utilisation: float

    @property
    def empty(self) -> bool:
        return self.topology.faces == 0

    @property
    def manifold(self) -> bool:
        """No edge with more than two faces, no vertex with several fans (a boundary is allowed)."""
        return not self.empty and self.nonmanifold_edges == 0 and self.nonmanifold_vertices == 0


# Facts of one mesh, by the names of `quality_arrays`: those that are shares of meshes with a surface, and numbers.
SHARES = {
    "watertight": lambda q: q.topology.watertight,
    "manifold": lambda q: q.manifold,
    "winding_consistent": lambda q: q.topology.winding_consistent,
    "single_component": lambda q: q.topology.components == 1,
    "self_intersecting": lambda q: q.self_intersection_share > 0,
}
NUMBERS = {
    "triangles": lambda q: q.topology.faces,
    "components": lambda q: q.topology.components,
    "euler_characteristic": lambda q: q.topology.euler_characteristic,
    "boundary_edges": lambda q: q.topology.boundary_edges,
    "nonmanifold_edges": lambda q: q.nonmanifold_edges,
    "degenerate_faces": lambda q: q.topology.degenerate_faces,
    "self_intersection_share": lambda q: q.self_intersection_share,
    "texture_utilisation": lambda q: q.texture_utilisation,
}


def measure_quality(mesh: Mesh | TexturedMesh, seed: int = 0) -> MeshQuality:
    """All facts of one mesh; the same mesh and seed give the same. A mesh without faces is a result, not an error."""
    topology = mesh_topology(mesh)
    if topology.faces == 0:
        return MeshQuality(topology, 0, 0, float("nan"), float("nan"))
    welded = merge_vertices(mesh)
    edges, vertices = _nonmanifold(welded)
    return MeshQuality(
        topology=topology,
        nonmanifold_edges=edges,
        nonmanifold_vertices=vertices,
        self_intersection_share=self_intersection_share(welded, seed),
        texture_utilisation=texture_utilisation(mesh) if isinstance(mesh, TexturedMesh) else float("nan"),
    )


def quality_arrays(qualities: Sequence[MeshQuality]) -> dict[str, np.ndarray]:
    """Every fact of every mesh, M float64, for intervals: `empty` of all; the others nan where the mesh is empty or
    the fact has no meaning."""

    def column(value) -> np.ndarray:
        return np.array([np.nan if q.empty else float(value(q)) for q in qualities], dtype=np.float64)

    facts = {name: column(value) for name, value in (SHARES | NUMBERS).items()}
    return {"empty": np.array([float(q.empty) for q in qualities]), **facts}


def mesh_quality(qualities: Sequence[MeshQuality]) -> dict[str, float]:
    """Flat numbers: `empty_fraction` of all; `*_fraction`, `*_median`, `*_p05` and `*_p95` of the meshes with a
    surface (nan when all are empty)."""
    arrays = quality_arrays(qualities)
    result = {"empty_fraction": float(arrays.pop("empty").mean()) if len(qualities) else float("nan")}
    for name, values in arrays.items():
        known = values[~np.isnan(values)]
        if name in SHARES:
            result[f"{name}_fraction"] = float(known.mean()) if len(known) else float("nan")
            continue
        for suffix, q in (("median", 0.5), ("p05", 0.05), ("p95", 0.95)):
            result[f"{name}_{suffix}"] = float(np.quantile(known, q)) if len(known) else float("nan")
    return result


def quality_distributions(
    qualities: Sequence[MeshQuality], bins: int = 20
) -> dict[str, dict[str, list[float]]]:
    """For every number: its quantiles and a histogram over the meshes that have it; JSON-able.

    quantiles: at QUANTILES. edges (bins + 1) and counts (bins): integers that fit get a bin each.
    """
    return fact_distributions(quality_arrays(qualities), bins)


def fact_distributions(facts: Mapping[str, np.ndarray], bins: int = 20) -> dict[str, dict[str, list[float]]]:
    """As `quality_distributions`, of arrays as `quality_arrays` gives them."""
    result = {}
    for name, values in facts.items():
        known = values[~np.isnan(values)]
        if name not in NUMBERS or not len(known):
            continue
        low, high = known.min(), known.max()
        whole = bool((known == np.round(known)).all())
        few = whole and high - low < bins
        edges = np.arange(low, high + 2) - 0.5 if few else np.histogram_bin_edges(known, bins)
        counts, _ = np.histogram(known, edges)
        result[name] = {
            "quantiles": np.quantile(known, QUANTILES).tolist(),
            "edges": edges.tolist(),
            "counts": counts.tolist(),
        }
    return result


def _nonmanifold(welded: Mesh) -> tuple[int, int]:
    """Edges with more than two faces; vertices whose faces fall apart into several fans (the surplus fans)."""
    faces = len(welded.faces_F3)
    corner_F3 = np.arange(3 * faces).reshape(-1, 3)
    # Every edge of every face, with the two corners of that face at its ends, in the order of the vertices.
    tail_E, head_E = (welded.faces_F3[:, k].T.reshape(-1).astype(np.int64) for k in ([0, 1, 2], [1, 2, 0]))
    tail_corner_E, head_corner_E = (corner_F3[:, k].T.reshape(-1) for k in ([0, 1, 2], [1, 2, 0]))
    swap_E = tail_E > head_E
    low_E, high_E = np.where(swap_E, head_E, tail_E), np.where(swap_E, tail_E, head_E)
    low_corner_E = np.where(swap_E, head_corner_E, tail_corner_E)
    high_corner_E = np.where(swap_E, tail_corner_E, head_corner_E)
    order = np.lexsort((high_E, low_E))
    same = (np.diff(low_E[order]) == 0) & (np.diff(high_E[order]) == 0)
    one, other = order[:-1][same], order[1:][same]
    # Corners of neighbouring faces at a common vertex belong to one fan.
    first = np.concatenate([low_corner_E[one], high_corner_E[one]])
    second = np.concatenate([low_corner_E[other], high_corner_E[other]])
    graph = coo_matrix((np.ones(len(first), bool), (first, second)), shape=(3 * faces, 3 * faces))
    fans = connected_components(graph, directed=False)[0]
    _, count_E = np.unique(low_E * len(welded.vertices_V3) + high_E, return_counts=True)
    return int((count_E > 2).sum()), int(fans - len(welded.vertices_V3))


def self_intersection_share(welded: Mesh, seed: int = 0, sampled_faces: int = SAMPLED_FACES) -> float:
    """See `MeshQuality`. welded: vertices at equal positions are one."""
    faces = len(welded.faces_F3)
    chosen_N = np.arange(faces)
    if faces > sampled_faces:
        chosen_N = np.sort(np.random.default_rng(seed).choice(faces, sampled_faces, replace=False))
    corners_F33 = welded.vertices_V3.astype(np.float64)[welded.faces_F3]
    low_F3, high_F3 = corners_F33.min(axis=1), corners_F33.max(axis=1)
    hit_N = np.zeros(len(chosen_N), np.bool_)
    _intersections(chosen_N, welded.faces_F3, corners_F33, low_F3, high_F3, hit_N)
    return float(hit_N.mean())


@numba.njit(nogil=True, cache=True)
def _intersections(chosen_N, faces_F3, corners_F33, low_F3, high_F3, hit_N):
    for n in range(len(chosen_N)):
        f = chosen_N[n]
        for g in range(len(faces_F3)):
            if (
                low_F3[f, 0] > high_F3[g, 0] or low_F3[g, 0] > high_F3[f, 0]
                or low_F3[f, 1] > high_F3[g, 1] or low_F3[g, 1] > high_F3[f, 1]
                or low_F3[f, 2] > high_F3[g, 2] or low_F3[g, 2] > high_F3[f, 2]
            ):  # fmt: skip
                continue
            shared = False
            for i in range(3):
                for j in range(3):
                    shared = shared or faces_F3[f, i] == faces_F3[g, j]
            if shared:
                continue
            for i in range(3):
                j = (i + 1) % 3
                if _pierces(corners_F33[f, i], corners_F33[f, j], corners_F33[g]) or _pierces(
                    corners_F33[g, i], corners_F33[g, j], corners_F33[f]
                ):
                    hit_N[n] = True
            if hit_N[n]:
                break


@numba.njit(nogil=True, cache=True)
def _volume(a, b, c, d):
    """Six times the signed volume of a tetrahedron."""
    x0, y0, z0 = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    x1, y1, z1 = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    x2, y2, z2 = d[0] - a[0], d[1] - a[1], d[2] - a[2]
    return x0 * (y1 * z2 - z1 * y2) - y0 * (x1 * z2 - z1 * x2) + z0 * (x1 * y2 - y1 * x2)


@numba.njit(nogil=True, cache=True)
def _pierces(p, q, triangle_33):
    """Whether the segment's ends lie strictly on either side of the triangle, and the line between passes inside."""
    a, b, c = triangle_33[0], triangle_33[1], triangle_33[2]
    if not _volume(a, b, c, p) * _volume(a, b, c, q) < 0.0:
        return False
    one, two, three = _volume(p, q, a, b), _volume(p, q, b, c), _volume(p, q, c, a)
    return (one > 0 and two > 0 and three > 0) or (one < 0 and two < 0 and three < 0)


def texture_utilisation(mesh: TexturedMesh) -> float:
    """Share of the texture's area that faces cover, on a grid of 512 x 512. A face that reaches beyond the texture
    counts where it is repeated from, by whole tiles; beyond that tile it is cut off. nan where no face has an area."""
    from get3d_model.rendering.cpu.mask import orthographic_masks, unpacked

    uvs_F32 = mesh.uvs_V2.astype(np.float64)[mesh.faces_F3]
    one_F2, other_F2 = uvs_F32[:, 1] - uvs_F32[:, 0], uvs_F32[:, 2] - uvs_F32[:, 0]
    area = np.abs(one_F2[:, 0] * other_F2[:, 1] - one_F2[:, 1] * other_F2[:, 0]).sum() / 2
    # Less than a texel of the largest texture, in all.
    if not area > 1e-8:
        return float("nan")
    uvs_F32 = uvs_F32 - np.floor(uvs_F32.mean(axis=1, keepdims=True))
    corners = np.concatenate([uvs_F32 * 2 - 1, np.zeros_like(uvs_F32[..., :1])], axis=2).reshape(-1, 3)
    faces_F3 = np.arange(len(corners)).reshape(-1, 3)
    return float(
        unpacked(orthographic_masks(corners, faces_F3, np.eye(3)[None], _TEXEL_GRID, threads=1)).mean()
    )
