"""The interactive viewer of the page: the samples that fit into it, as GLBs beside the studio's script."""

from __future__ import annotations

from collections.abc import Mapping

from get3d_model.mesh_io import mesh_bytes
from get3d_model.types import TexturedMesh
from serving.studio.bundle import CarriedMesh, carried_viewer

# A page that can still be sent around: base64 adds a third to this, and the script 0.7 MB.
MAX_BYTES = 3_000_000
MAX_MESHES = 8


def viewer_html(meshes: Mapping[str, TexturedMesh], max_bytes: int = MAX_BYTES) -> str:
    """HTML of the viewer with the first meshes (by seed) whose GLBs take at most `max_bytes` together, but with one at
    least; nothing where there is no mesh."""
    carried: list[CarriedMesh] = []
    left = max_bytes
    for seed, mesh in list(meshes.items())[:MAX_MESHES]:
        # JPEG: of a size with the page's pictures, a third of the PNG that `get3d generate` writes.
        glb = mesh_bytes(mesh, "glb", "jpeg")
        if carried and len(glb) > left:
            break
        carried.append(CarriedMesh(f"seed {seed}", f"seed{seed}.glb", glb))
        left -= len(glb)
    return carried_viewer(carried) if carried else ""
