"""The cases of dual marching cubes, derived from the geometry of one cube.

Source: Nielson 2004, "Dual Marching Cubes"; Shen et al. 2023, "Flexible Isosurface Extraction for
Gradient-Based Mesh Optimization" (FlexiCubes); Wenger 2013, "Isosurfaces: Geometry, Topology, and Algorithms",
for the ambiguous cases.

How a case follows from the signs of a cube's corners:
- The surface crosses every cube edge whose ends differ in sign, and meets a cube face in segments that join two
  crossed edges. A face has none, two or four crossed edges. Two crossings are joined. Four crossings (two
  inside corners on one diagonal, two outside corners on the other) are ambiguous; we join the two crossings next
  to the same outside corner, so the inside corners stay connected across the face. Both cubes at the face decide
  alike, so their segments meet.
- The segments close to loops. Each loop is the rim of one patch of surface, and every patch gets one dual vertex.
- A mesh edge joins the dual vertices of two neighbouring cubes and borders one quad for every crossed edge
  of the common face that both dual vertices own. If all four crossings of an ambiguous face belong to one
  patch in both cubes, that mesh edge borders four quads: not manifold. The derivation finds 36 such cases, each
  with one ambiguous face (two symmetry classes, C16 and C19 of Nielson). Where two of them meet at their ambiguous
  faces, both cubes join that face the other way, which splits either patch in two. The patches of a case
  with the other choice are those of the complementary case, 255 - code, so the same table serves.

Corner k of a cube lies at (k & 1, k >> 1 & 1, k >> 2 & 1); face 2 a + s is orthogonal to axis a on side s;
bit k of a case's code is set where corner k is inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The two corners of each edge, lower coordinate first. The order is that of the 12 beta weights in published
# checkpoints, read off the reference meshes.
CUBE_EDGES = (
    (0, 1), (1, 5), (4, 5), (0, 4),
    (2, 3), (3, 7), (6, 7), (2, 6),
    (0, 2), (1, 3), (5, 7), (4, 6),
)  # fmt: skip
# The most patches of any case and the most edges of any patch; `dual_tables` fails where a case has more.
MAX_PATCHES = 4
MAX_PATCH_EDGES = 7


@dataclass(frozen=True)
class DualTables:
    """Everything a case code decides.

    patch_count_256: dual vertices of the case.
    patch_of_edge_256x12: the patch that a crossed edge belongs to, -1 for the others.
    patch_edges_256x4x7: the edges of each patch, ascending, padded with the first.
    patch_size_256x4: how many they are, 0 for a patch that the case does not have.
    problem_face_256: the ambiguous face that lies in one patch entirely, or -1.
    """

    patch_count_256: np.ndarray
    patch_of_edge_256x12: np.ndarray
    patch_edges_256x4x7: np.ndarray
    patch_size_256x4: np.ndarray
    problem_face_256: np.ndarray


def face_corners(face: int) -> list[int]:
    """The four corners of a face."""
    axis, side = divmod(face, 2)
    return [corner for corner in range(8) if corner >> axis & 1 == side]


def case_patches(code: int) -> tuple[list[list[int]], list[int]]:
    """(the edges of each patch, the ambiguous faces whose four crossings lie in one patch)."""
    crossed = [e for e, (a, b) in enumerate(CUBE_EDGES) if (code >> a & 1) != (code >> b & 1)]
    loop_of = {edge: edge for edge in crossed}

    def join(first: int, second: int) -> None:
        old, new = loop_of[first], loop_of[second]
        for edge, loop in loop_of.items():
            if loop == old:
                loop_of[edge] = new

    ambiguous: list[tuple[int, list[int]]] = []
    for face in range(6):
        corners = face_corners(face)
        on_face = [e for e in crossed if set(CUBE_EDGES[e]) <= set(corners)]
        if len(on_face) == 2:
            join(*on_face)
        elif len(on_face) == 4:
            ambiguous.append((face, on_face))
            for corner in corners:
                if not code >> corner & 1:
                    join(*(e for e in on_face if corner in CUBE_EDGES[e]))
    loops = sorted(set(loop_of.values()), key=lambda loop: min(e for e in crossed if loop_of[e] == loop))
    patches = [[e for e in crossed if loop_of[e] == loop] for loop in loops]
    problems = [face for face, on_face in ambiguous if len({loop_of[e] for e in on_face}) == 1]
    return patches, problems


def dual_tables() -> DualTables:
    """The tables of all 256 cases."""
    patch_count = np.zeros(256, dtype=np.int64)
    patch_of_edge = np.full((256, 12), -1, dtype=np.int64)
    patch_edges = np.zeros((256, MAX_PATCHES, MAX_PATCH_EDGES), dtype=np.int64)
    patch_size = np.zeros((256, MAX_PATCHES), dtype=np.int64)
    problem_face = np.full(256, -1, dtype=np.int64)
    for code in range(256):
        patches, problems = case_patches(code)
        patch_count[code] = len(patches)
        for patch, edges in enumerate(patches):
            patch_of_edge[code, edges] = patch
            patch_edges[code, patch] = edges + edges[:1] * (MAX_PATCH_EDGES - len(edges))
            patch_size[code, patch] = len(edges)
        if problems:
            (problem_face[code],) = problems
    return DualTables(patch_count, patch_of_edge, patch_edges, patch_size, problem_face)


def quad_edges() -> np.ndarray:
    """3x4: the local edge that four cubes around a grid edge along each axis call their own.

    The cubes stand counter-clockwise about the axis: the one on the upper side along both other axes (b, c)
    first, then lower in b, lower in both, lower in c. Axes run cyclically: (axis, b, c) is right-handed.
    """
    edge_of = {pair: edge for edge, pair in enumerate(CUBE_EDGES)}
    table = np.zeros((3, 4), dtype=np.int64)
    for axis in range(3):
        b, c = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        # A cube below the edge holds it on its upper side.
        for place, low in enumerate((0, b, b | c, c)):
            table[axis, place] = edge_of[(low, low | 1 << axis)]
    return table
