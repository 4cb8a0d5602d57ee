"""Fewer triangles, by quadric edge collapse (Garland & Heckbert 1997) in the library fast-simplification.

Shape legend: V vertices, F faces
"""

from __future__ import annotations

import numpy as np

from get3d_model.types import Mesh


def decimated(mesh: Mesh, target_triangles: int) -> Mesh:
    """At most about `target_triangles` triangles; a mesh that has no more stays as it is.

    Connected vertices only are merged, so a mesh that cannot be reduced further keeps more. The same mesh gives the
    same result.
    """
    if len(mesh.faces_F3) <= target_triangles:
        return mesh
    # Here and not above: a machine that only trains or measures does without it.
    import fast_simplification

    vertices_V3, faces_F3 = fast_simplification.simplify(
        np.ascontiguousarray(mesh.vertices_V3, np.float32),
        np.ascontiguousarray(mesh.faces_F3, np.int32),
        target_count=target_triangles,
    )
    return Mesh(np.ascontiguousarray(vertices_V3, np.float32), np.ascontiguousarray(faces_F3, np.int32))
