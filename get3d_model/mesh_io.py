"""Mesh files in and out: GLB, glTF, OBJ, PLY. The only module of the library that uses trimesh.

A file may hold several nodes, transforms, materials and textures; what comes out is one mesh with one
base-colour texture, and every surface is opaque. Of glTF's alpha modes, MASK is cut out along the cutoff;
BLEND is cut out where the picture's alpha is below half of its highest value, and a constant opacity is
disregarded (glass is opaque); OPAQUE, OBJ and PLY disregard alpha altogether.

Shape legend: V vertices, F faces, H W texture height and width
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals

from get3d_model.errors import InputError
from get3d_model.files import write_bytes_atomic
from get3d_model.gltf import BaseColour, ScenePart, colored_glb_bytes, glb_bytes, open_gltf
from get3d_model.gltf_surface import cut_out, transformed, wrapped
from get3d_model.image_codec import DEFAULT_IMAGE
from get3d_model.mesh_topology import (
    MeshTopology,
    component_count,
    euler_characteristic,
    is_watertight,
    merge_vertices,
    mesh_topology,
    sample_surface,
)
from get3d_model.obj_ply import (
    ObjMaterial,
    check_ply,
    colored_ply_bytes,
    obj_files,
    open_obj,
    ply_bytes,
)
from get3d_model.png import fast_png
from get3d_model.texture_atlas import SurfacePart, linear_to_srgb, merge_parts, srgb_to_linear
from get3d_model.types import ColoredMesh, TexturedMesh

__all__ = [
    "MeshTopology",
    "ScenePart",
    "component_count",
    "euler_characteristic",
    "is_watertight",
    "load_textured_mesh",
    "merge_vertices",
    "mesh_bytes",
    "mesh_topology",
    "normalize",
    "sample_surface",
    "save_mesh",
    "save_scene",
]

# sRGB; the colour of a surface for which the file says nothing.
NEUTRAL_GREY = (0.78, 0.78, 0.78)
WHITE = (1.0, 1.0, 1.0)
# Farther out a 32-bit number overflows when it is squared.
FARTHEST = 1e18


class _Materials:
    """Answers trimesh's OBJ reader with material names only; the colours come from `open_obj`."""

    def __init__(self, names: list[str]) -> None:
        self._text = "".join(f"newmtl {name}\nKd 1 1 1\n" for name in names).encode()

    def get(self, name: str) -> bytes:
        return self._text

    __getitem__ = get


def _read_scene(path: Path, **options: Any) -> trimesh.Scene:
    try:
        return trimesh.load_scene(process=False, **options)
    except Exception as error:  # the readers raise whatever a damaged file makes happen in them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: cannot be read, it may be damaged ({reason[:200]}); export it again"
        ) from error


def _instances(scene: trimesh.Scene) -> Iterator[tuple[trimesh.Trimesh, np.ndarray, np.ndarray]]:
    """Every shown copy of every triangle mesh with its world-space vertices and outward faces.

    The order depends on the file alone; trimesh's node names are partly random.
    """
    order = {name: index for index, name in enumerate(scene.geometry)}
    shown = [scene.graph[node] for node in scene.graph.nodes_geometry]
    for transform_44, name in sorted(shown, key=lambda item: (order[item[1]], item[0].ravel().tolist())):
        mesh = scene.geometry[name]
        if isinstance(mesh, trimesh.Trimesh) and len(mesh.faces):
            identity = np.array_equal(transform_44, np.eye(4))
            vertices_V3 = np.asarray(mesh.vertices)
            if not identity:
                vertices_V3 = vertices_V3 @ transform_44[:3, :3].T + transform_44[:3, 3]
            mirrored = np.linalg.det(transform_44[:3, :3]) < 0
            faces_F3 = np.asarray(mesh.faces)
            yield mesh, vertices_V3, faces_F3[:, ::-1] if mirrored else faces_F3


def _checked(path: Path, part: SurfacePart) -> SurfacePart:
    """Refuses what would poison everything later; drops vertices that no face uses."""
    vertices, faces_F3 = len(part.vertices_V3), part.faces_F3
    if faces_F3.min() < 0 or faces_F3.max() >= vertices:
        worst = faces_F3.min() if faces_F3.min() < 0 else faces_F3.max()
        raise InputError(f"{path}: has the face index {worst}, but only {vertices} vertices; export it again")
    used_U = np.unique(faces_F3)
    if len(used_U) < vertices:
        index_V = np.zeros(vertices, dtype=np.int64)
        index_V[used_U] = np.arange(len(used_U))
        part = SurfacePart(
            part.vertices_V3[used_U],
            index_V[faces_F3],
            None if part.uvs_V2 is None else part.uvs_V2[used_U],
            part.image_HW3,
            part.factor_3,
            None if part.colours_V3 is None else part.colours_V3[used_U],
        )
    if not np.isfinite(part.vertices_V3).all():
        raise InputError(f"{path}: has vertices that are NaN or infinite; repair the mesh")
    if np.abs(part.vertices_V3).max() > FARTHEST:
        raise InputError(f"{path}: has vertices farther than {FARTHEST:g} from the origin; repair the mesh")
    if part.uvs_V2 is not None and not np.isfinite(part.uvs_V2).all():
        raise InputError(f"{path}: has texture coordinates that are NaN or infinite; repair the mesh")
    return part


def _open_image(path: Path, image: Image.Image | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """A picture as HW3 uint8 and its alpha as HW uint8, None when it has none; 16-bit greys are scaled."""
    try:
        if isinstance(image, Path):
            image = Image.open(image)
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
        alpha_HW = None
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            alpha_HW = np.asarray(image.convert("RGBA"))[..., 3]
        return np.asarray(image.convert("RGB")), alpha_HW
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: one of its textures cannot be decoded ({error}); save the picture again"
        ) from error


def _decode(path: Path, image: Image.Image | Path) -> np.ndarray:
    return _open_image(path, image)[0]


def _uvs(mesh: trimesh.Trimesh) -> np.ndarray | None:
    uvs_V2 = mesh.visual.uv if isinstance(mesh.visual, TextureVisuals) else None
    return None if uvs_V2 is None or len(uvs_V2) != len(mesh.vertices) else np.asarray(uvs_V2)[:, :2]


def _vertex_colours(mesh: trimesh.Trimesh) -> np.ndarray | None:
    """Colours stored at vertices in [0, 1] as they stand in the file, V3, or None."""
    if isinstance(mesh.visual, ColorVisuals):
        return mesh.visual.vertex_colors[:, :3] / 255.0 if mesh.visual.kind == "vertex" else None
    colours = mesh.visual.vertex_attributes.get("color")
    if colours is None:
        return None
    whole = np.iinfo(colours.dtype).max if np.issubdtype(colours.dtype, np.integer) else 1.0
    return np.asarray(colours, dtype=np.float64)[:, :3] / whole


def _gltf_parts(path: Path, root: Path | None, notes: list[str]) -> tuple[list[SurfacePart], dict[str, Any]]:
    opened = open_gltf(path)
    resolver = trimesh.resolvers.FilePathResolver(str(path.parent))
    content = io.BytesIO(opened.content)
    scene = _read_scene(path, file_obj=content, file_type=opened.suffix, resolver=resolver)
    parts = []
    for mesh, vertices_V3, faces_F3 in _instances(scene):
        uvs_V2, colours_V3 = _uvs(mesh), _vertex_colours(mesh)
        # glTF's vertex colours are linear.
        colours_V3 = None if colours_V3 is None else linear_to_srgb(colours_V3.clip(0.0, 1.0))
        factor_3 = tuple(srgb_to_linear(NEUTRAL_GREY) if colours_V3 is None else WHITE)
        image_HW3, alpha_HW, base = None, None, BaseColour()
        if isinstance(mesh.visual, TextureVisuals):
            base = opened.base_colours[int(mesh.visual.material.name)]
            factor_3 = base.factor_3
            if base.textured:
                if mesh.visual.material.baseColorTexture is None:
                    raise InputError(f"{path}: a base-colour texture cannot be decoded; use PNG or JPEG")
                image_HW3, alpha_HW = _open_image(path, mesh.visual.material.baseColorTexture)
                if uvs_V2 is not None:
                    layers = [image_HW3] if alpha_HW is None else [image_HW3, alpha_HW]
                    uvs_V2, layers = wrapped(base, transformed(base, uvs_V2), layers)
                    image_HW3, alpha_HW = layers[0], None if alpha_HW is None else layers[1]
        part = SurfacePart(vertices_V3, faces_F3, uvs_V2, image_HW3, factor_3, colours_V3)
        part = cut_out(base, _checked(path, part), alpha_HW)
        parts += [] if part is None else [part]
    return parts, opened.extras


def _obj_parts(path: Path, root: Path | None, notes: list[str]) -> tuple[list[SurfacePart], dict[str, Any]]:
    opened = open_obj(path, root)
    materials = opened.references.materials
    notes += opened.references.notes
    scene = _read_scene(
        path, file_obj=io.BytesIO(opened.content), file_type="obj", resolver=_Materials(list(materials))
    )
    images: dict[Path, np.ndarray] = {}
    parts = []
    for mesh, vertices_V3, faces_F3 in _instances(scene):
        colours_V3, grey = _vertex_colours(mesh), ObjMaterial(NEUTRAL_GREY, None)
        name = mesh.visual.material.name if isinstance(mesh.visual, TextureVisuals) else None
        material = materials.get(name, ObjMaterial(WHITE, None) if colours_V3 is not None else grey)
        image_HW3, factor_3 = None, tuple(srgb_to_linear(np.clip(material.colour_3, 0.0, 1.0)))
        uvs_V2 = _uvs(mesh)
        if material.image is not None and uvs_V2 is None:
            notes.append(f"surfaces of material '{name}' have no texture coordinates; its Kd is used")
        elif material.image is not None:
            if material.image not in images:
                images[material.image] = _decode(path, material.image)
            image_HW3, factor_3 = images[material.image], WHITE
            if (material.scale_2, material.offset_2) != ((1.0, 1.0), (0.0, 0.0)):
                uvs_V2 = uvs_V2 * material.scale_2 + material.offset_2
        parts.append(SurfacePart(vertices_V3, faces_F3, uvs_V2, image_HW3, factor_3, colours_V3))
    return parts, {}


def _ply_parts(path: Path, root: Path | None, notes: list[str]) -> tuple[list[SurfacePart], dict[str, Any]]:
    check_ply(path)
    parts = []
    for mesh, vertices_V3, faces_F3 in _instances(_read_scene(path, file_obj=str(path), file_type="ply")):
        colours_V3, uvs_V2, image_HW3 = _vertex_colours(mesh), _uvs(mesh), None
        if isinstance(mesh.visual, ColorVisuals) and mesh.visual.kind == "face":
            colours_V3 = np.repeat(mesh.visual.face_colors[:, :3] / 255.0, 3, axis=0)
            vertices_V3, faces_F3 = (
                vertices_V3[faces_F3].reshape(-1, 3),
                np.arange(3 * len(faces_F3)).reshape(-1, 3),
            )
        picture = getattr(getattr(mesh.visual, "material", None), "image", None)
        if picture is not None and uvs_V2 is not None:
            image_HW3 = _decode(path, picture)
        factor_3 = (
            WHITE if image_HW3 is not None or colours_V3 is not None else tuple(srgb_to_linear(NEUTRAL_GREY))
        )
        parts.append(SurfacePart(vertices_V3, faces_F3, uvs_V2, image_HW3, factor_3, colours_V3))
    return parts, {}


_Reader = Callable[[Path, Path | None, list[str]], tuple[list[SurfacePart], dict[str, Any]]]
_READERS: dict[str, _Reader] = {
    ".glb": _gltf_parts,
    ".gltf": _gltf_parts,
    ".obj": _obj_parts,
    ".ply": _ply_parts,
}


def load_textured_mesh(path: Path, root: Path | None = None, notes: list[str] | None = None) -> TexturedMesh:
    """Reads a mesh file and merges everything it shows into one mesh with one base-colour texture.

    Several materials are packed into an atlas; a single textured material keeps its picture and uvs; vertex
    colours become texels; a surface without any colour is light grey. glTF's colour factors are linear, MTL's
    and PLY's are taken as sRGB.
    root: an OBJ file may name files in this folder, with `..` on the way (None: its own folder, as for the
    other formats). notes: gets a line for every library, material or picture of an OBJ that is missing.
    Raises InputError, naming the file and the reason, for a missing, forbidden or damaged file, an unsupported suffix or
    feature, no triangles, NaN or infinite vertices, bad face indices, a file named by a glTF or
    PLY that is missing or outside the mesh's folder, and a mesh without extent.
    """
    path = Path(path)
    if path.suffix.lower() not in _READERS:
        raise InputError(
            f"{path}: meshes are read from {', '.join(_READERS)}, not from '{path.suffix}'; convert it"
        )
    if not path.is_file():
        raise InputError(f"{path}: there is no such mesh file; check the path")
    try:
        parts, extras = _READERS[path.suffix.lower()](path, root, [] if notes is None else notes)
    except OSError as error:
        # One file without access, or on a bad sector, is trouble of that file alone.
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check access to it") from error
    if not parts:
        raise InputError(f"{path}: contains no triangles; export it as a triangle mesh")
    parts = [_checked(path, part) for part in parts]
    try:
        mesh = merge_parts(parts)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not np.ptp(mesh.vertices_V3, axis=0).max() > 0.0:
        raise InputError(f"{path}: all its vertices are at one point; a mesh needs an extent")
    return replace(mesh, extras=extras)


def normalize(mesh: TexturedMesh, longest_side: float = 0.8) -> TexturedMesh:
    """Moves the centre of the bounding box to the origin and scales its longest side to `longest_side`."""
    vertices_V3 = mesh.vertices_V3.astype(np.float64)
    low_3, high_3 = vertices_V3.min(axis=0), vertices_V3.max(axis=0)
    longest = float((high_3 - low_3).max())
    if not longest > 0.0:
        raise InputError("cannot normalise a mesh whose vertices are all at one point")
    scaled_V3 = (vertices_V3 - (low_3 + high_3) / 2.0) * (longest_side / longest)
    return replace(mesh, vertices_V3=scaled_V3.astype(np.float32))


def _obj_zip(mesh: TexturedMesh) -> bytes:
    files: dict[str, str | bytes] = {**obj_files(mesh, "mesh"), "mesh.png": fast_png(mesh.texture_HW3)}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            # A fixed date, so that the same mesh gives the same bytes.
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, content, compress_type=zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _colored_glb(mesh: ColoredMesh) -> bytes:
    # 256 values: a table is much faster than the power of every vertex.
    linear_256 = srgb_to_linear(np.arange(256) / 255.0)
    return colored_glb_bytes(mesh, linear_256[mesh.colors_V3])


_WRITERS: dict[str, Callable[[TexturedMesh], bytes]] = {
    "glb": lambda mesh: glb_bytes([ScenePart("mesh", mesh)], mesh.extras),
    "obj": _obj_zip,
    "ply": ply_bytes,
}
_COLORED_WRITERS: dict[str, Callable[[ColoredMesh], bytes]] = {
    "glb": _colored_glb,
    "ply": colored_ply_bytes,
}


def mesh_bytes(
    mesh: TexturedMesh | ColoredMesh, file_format: str, image_format: str = DEFAULT_IMAGE
) -> bytes:
    """The mesh as "glb", as "obj" (a zip of .obj, .mtl and .png) or as "ply" (vertex colours).

    image_format: how a GLB stores its texture, "png" or "jpeg". A mesh with vertex colours can be a GLB or a PLY.
    The same mesh gives the same bytes. Raises InputError for another format.
    """
    if isinstance(mesh, ColoredMesh):
        if file_format not in _COLORED_WRITERS:
            raise InputError(
                f"a mesh with vertex colours cannot be written as '{file_format}'; "
                f"choose one of {', '.join(_COLORED_WRITERS)}"
            )
        return _COLORED_WRITERS[file_format](mesh)
    if file_format not in _WRITERS:
        raise InputError(
            f"mesh format '{file_format}' cannot be written; choose one of {', '.join(_WRITERS)}"
        )
    if file_format == "glb" and image_format != DEFAULT_IMAGE:
        return glb_bytes([ScenePart("mesh", mesh)], mesh.extras, image_format)
    return _WRITERS[file_format](mesh)


def save_mesh(mesh: TexturedMesh | ColoredMesh, path: Path, image_format: str = DEFAULT_IMAGE) -> None:
    """Writes .glb, .obj (with .mtl and .png beside it) or .ply, each file atomically; see `mesh_bytes`."""
    path = Path(path)
    if path.suffix.lower() != ".obj" or isinstance(mesh, ColoredMesh):
        write_bytes_atomic(path, mesh_bytes(mesh, path.suffix.lower()[1:], image_format))
        return
    # What the .obj refers to stands before it does.
    write_bytes_atomic(path.with_suffix(".png"), fast_png(mesh.texture_HW3))
    texts = obj_files(mesh, path.stem)
    write_bytes_atomic(path.with_suffix(".mtl"), texts[f"{path.stem}.mtl"].encode())
    write_bytes_atomic(path, texts[f"{path.stem}.obj"].encode())


def save_scene(parts: list[ScenePart], path: Path, extras: dict[str, Any] | None = None) -> None:
    """Writes a .glb scene with one material and texture per part, atomically; equal input, equal bytes."""
    if Path(path).suffix.lower() != ".glb":
        raise InputError(f"{path}: scenes are written as .glb; change the suffix")
    write_bytes_atomic(path, glb_bytes(parts, extras or {}))
