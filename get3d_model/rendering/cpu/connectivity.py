"""Which triangles share an edge, from vertex indices, by hashing.

Half-edge h = 3 * face + k runs from corner k to corner k + 1 of its face. `ring_E` links the half-edges of
one undirected edge in a circle: ring[h] == h on a boundary, ring[ring[h]] == h on a manifold edge, a longer
circle where more than two triangles meet.

Shape legend: F faces, E = 3 F half-edges.
"""

from __future__ import annotations

import numpy as np

from get3d_model.jit import kernel
from get3d_model.parallel_for import parallel_for


def edge_rings(faces_F3: np.ndarray, vertices: int, threads: int) -> np.ndarray:
    """ring_E, int32, for indices in [0, vertices). The result does not depend on the number of threads."""
    half_edges = 3 * len(faces_F3)
    ring_E = np.arange(half_edges, dtype=np.int32)
    # Each unit owns the edges whose lower vertex lies in its run of the vertices, and a table for them. All
    # units read all faces, which is cheap: the meshes of a batch lie one after the other.
    units = min(threads, 8) if half_edges > 4096 else 1
    # About two buckets per edge of a closed mesh.
    log_buckets = max(4, (half_edges // units).bit_length())
    heads = np.full((units, 1 << log_buckets), -1, np.int32)
    chain_E = np.empty(half_edges, np.int32)
    parallel_for(_ring_kernel, units, threads, faces_F3, vertices, log_buckets, heads, chain_E, ring_E)
    return ring_E


@kernel
def _ring_kernel(first_unit, end_unit, faces_F3, vertices, log_buckets, heads, chain_E, ring_E):
    shift = np.uint64(64 - log_buckets)
    units = len(heads)
    for unit in range(first_unit, end_unit):
        first_vertex = vertices * unit // units
        end_vertex = vertices * (unit + 1) // units
        for face in range(len(faces_F3)):
            for corner in range(3):
                a = faces_F3[face, corner]
                b = faces_F3[face, 0 if corner == 2 else corner + 1]
                low = min(a, b)
                if low < first_vertex or low >= end_vertex:
                    continue
                high = max(a, b)
                # Fibonacci hashing of the pair (Knuth, TAOCP 3, section 6.4).
                key = (np.uint64(low) << np.uint64(32)) | np.uint64(high)
                key = (key ^ (key >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
                bucket = np.int64(key >> shift)
                half_edge = np.int32(3 * face + corner)
                other = heads[unit, bucket]
                while other >= 0:
                    c = faces_F3[other // 3, other % 3]
                    d = faces_F3[other // 3, (other % 3 + 1) % 3]
                    if min(c, d) == low and max(c, d) == high:
                        break
                    other = chain_E[other]
                if other >= 0:
                    ring_E[half_edge] = ring_E[other]
                    ring_E[other] = half_edge
                else:
                    chain_E[half_edge] = heads[unit, bucket]
                    heads[unit, bucket] = half_edge
