"""Turns meshes whose files use other axes: ours have y up and look along +z.

Shape legend: V vertices
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from get3d_model.errors import InputError
from get3d_model.types import TexturedMesh

AXES = ("x", "y", "z", "-x", "-y", "-z")
# Where the front points unless told: what Blender's exporters write for z, and the same turned over.
_USUAL_FRONT = {"y": "z", "-y": "z", "z": "-y", "-z": "y", "x": "z", "-x": "z"}


def _vector(axis: str) -> np.ndarray:
    vector_3 = np.zeros(3)
    vector_3["xyz".index(axis[-1])] = -1.0 if axis.startswith("-") else 1.0
    return vector_3


@dataclass(frozen=True)
class Axes:
    """Which axes of a mesh file point up and to the front (None: the usual one for `up`)."""

    up: str = "y"
    front: str | None = None

    def __post_init__(self) -> None:
        for option, axis in (("--up", self.up), ("--front", self.front)):
            if axis is not None and axis not in AXES:
                raise InputError(f"{option} must be one of {', '.join(AXES)}, not {axis!r}")
        if self.front is not None and self.front[-1] == self.up[-1]:
            raise InputError(f"--front {self.front} and --up {self.up} are on one line; choose another front")

    def describe(self) -> list[str]:
        return [self.up, self.front or _USUAL_FRONT[self.up]]

    @property
    def usual(self) -> bool:
        """Whether nothing is to be turned."""
        return self.describe() == ["y", "z"]

    @property
    def rotation_33(self) -> np.ndarray:
        """Takes `up` to +y and `front` to +z; a proper rotation."""
        up, front = (_vector(axis) for axis in self.describe())
        return np.stack([np.cross(up, front), up, front])

    def turn(self, mesh: TexturedMesh) -> TexturedMesh:
        """The mesh in our axes; the same object when nothing is to be turned."""
        if self.usual:
            return mesh
        # Entries are 0 and 1, so this is exact. Adding 0 takes the sign off zeros.
        return replace(mesh, vertices_V3=mesh.vertices_V3 @ self.rotation_33.T.astype(np.float32) + 0.0)


OUR_AXES = Axes()
