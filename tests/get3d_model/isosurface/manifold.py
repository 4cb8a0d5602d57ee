"""Facts about a face array, by vertex index (nothing is welded)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def edge_face_counts(faces_F3: np.ndarray) -> np.ndarray:
    """Faces at each undirected edge."""
    directed = directed_edges(faces_F3)
    return np.unique(np.sort(directed, axis=1), axis=0, return_counts=True)[1]


def directed_edges(faces_F3: np.ndarray) -> np.ndarray:
    return faces_F3[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)


def is_closed_oriented_manifold(faces_F3: np.ndarray) -> bool:
    """Every edge has two faces that run along it in opposite directions; the faces of a vertex form one fan."""
    directed = directed_edges(faces_F3)
    if not (edge_face_counts(faces_F3) == 2).all() or len(np.unique(directed, axis=0)) != len(directed):
        return False
    return fans_per_vertex(faces_F3).max() == 1


def fans_per_vertex(faces_F3: np.ndarray) -> np.ndarray:
    """Edge-connected groups of faces around each vertex that has faces."""
    faces = faces_F3.astype(np.int64)
    # A node per (vertex, neighbour); a face joins the two neighbours that it has at each of its vertices.
    size = int(faces.max()) + 1
    at, one, two = (np.concatenate([faces[:, (k + shift) % 3] for k in range(3)]) for shift in range(3))
    nodes, index = np.unique(np.concatenate([at * size + one, at * size + two]), return_inverse=True)
    first, second = np.split(index.reshape(-1), 2)
    graph = coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(len(nodes),) * 2)
    group = connected_components(graph, directed=False)[1]
    vertex_group = np.unique(np.stack([nodes // size, group], axis=1), axis=0)
    return np.unique(vertex_group[:, 0], return_counts=True)[1]
