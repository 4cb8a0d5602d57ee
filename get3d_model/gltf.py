"""The glTF 2.0 container: opening a .glb or .gltf with its references checked, and writing a .glb.

Reading the geometry itself is `mesh_io`'s work; this module makes sure beforehand that nothing in the file
would be ignored silently. Source: Khronos glTF 2.0 specification.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from get3d_model.errors import InputError
from get3d_model.gltf_compression import decoded, needs_decoding
from get3d_model.image_codec import DEFAULT_IMAGE, IMAGE_TYPES, encode_image
from get3d_model.types import ColoredMesh, TexturedMesh

MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
FLOAT, UNSIGNED_INT, UNSIGNED_SHORT = 5126, 5125, 5123
ARRAY_BUFFER, ELEMENT_BUFFER = 34962, 34963
TRIANGLES, TRIANGLE_STRIP, TRIANGLE_FAN = 4, 5, 6
CLAMP_TO_EDGE, MIRRORED_REPEAT, REPEAT = 33071, 33648, 10497
# Extensions whose absence changes the geometry or the base colour, and which we cannot read.
UNREADABLE = {
    "EXT_meshopt_compression": "meshopt compression",
    "KHR_meshopt_compression": "meshopt compression",
    "KHR_texture_basisu": "Basis (KTX2) textures",
}


@dataclass(frozen=True)
class BaseColour:
    """What a material says about its base colour.

    factor_3: linear. textured: whether a picture multiplies it. scale_2, offset_2, rotation_rad: of
    KHR_texture_transform. wrap_2: the sampler's wrapping along u and v. alpha_mode: "OPAQUE", "MASK" or
    "BLEND". alpha: the factor's fourth number. cutoff: of "MASK".
    """

    factor_3: tuple[float, ...] = (1.0, 1.0, 1.0)
    textured: bool = False
    rotation_rad: float = 0.0
    alpha_mode: str = "OPAQUE"
    alpha: float = 1.0
    cutoff: float = 0.5
    scale_2: tuple[float, ...] = (1.0, 1.0)
    offset_2: tuple[float, ...] = (0.0, 0.0)
    wrap_2: tuple[int, int] = (REPEAT, REPEAT)


@dataclass(frozen=True)
class GltfFile:
    """An opened file: the bytes to hand to a reader, the materials' base colours, `asset.extras`.

    suffix: "glb" or "gltf", what `content` is: geometry that had to be decoded is always a GLB.
    Material i is renamed to str(i) in `content`, so that a reader's materials lead back to `base_colours`.
    """

    content: bytes
    suffix: str
    base_colours: tuple[BaseColour, ...]
    extras: dict[str, Any]


@dataclass(frozen=True)
class ScenePart:
    """One material of a scene to write: a mesh, shown once per transform.

    transforms: 44 float arrays, local to world, column vectors.
    """

    name: str
    mesh: TexturedMesh
    transforms: tuple[np.ndarray, ...] = field(default_factory=lambda: (np.eye(4),))
    metallic: float = 0.0
    roughness: float = 0.9


def inside_folder(folder: Path, reference: str, owner: Path) -> Path:
    """The file that `owner` names as `reference`; raises InputError unless it exists inside `folder`."""
    relative = Path(reference.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts or ":" in reference:
        raise InputError(
            f"{owner}: refers to '{reference}', which is not inside the mesh's own folder; move it there"
        )
    path = folder / relative
    if not path.is_file():
        raise InputError(
            f"{owner}: the file '{reference}' that it refers to does not exist; put it at {path}"
        )
    return path


def _split_glb(path: Path, content: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON document of a GLB and the bytes after its JSON chunk."""
    if len(content) < 20:
        raise InputError(f"{path}: is too short for a GLB file ({len(content)} bytes); export it again")
    magic, version, length = struct.unpack_from("<III", content)
    if magic != MAGIC:
        raise InputError(f"{path}: does not start like a GLB file; check its type")
    if version != 2:
        raise InputError(f"{path}: is glTF version {version}; only version 2 is supported")
    if length > len(content):
        raise InputError(f"{path}: is truncated ({len(content)} of {length} bytes); copy it again")
    size, kind = struct.unpack_from("<II", content, 12)
    if kind != JSON_CHUNK or 20 + size > len(content):
        raise InputError(f"{path}: has no valid JSON chunk; export it again")
    return _parse(path, content[20 : 20 + size]), content[20 + size : length]


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: its JSON is damaged ({error}); export it again") from error
    if not isinstance(document, dict) or "asset" not in document:
        raise InputError(f"{path}: is not a glTF document (no 'asset'); export it again")
    return document


def _join_glb(document: dict[str, Any], rest: bytes) -> bytes:
    text = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 4)
    header = struct.pack("<III", MAGIC, 2, 20 + len(text) + len(rest))
    return header + struct.pack("<II", len(text), JSON_CHUNK) + text + rest


def open_gltf(path: Path) -> GltfFile:
    """Reads a .glb or .gltf and checks everything that readers tend to skip in silence.

    Raises InputError for a damaged container, a missing or outside file, and features that cannot be read.
    """
    content = path.read_bytes()
    binary = path.suffix.lower() == ".glb"
    document, rest = _split_glb(path, content) if binary else (_parse(path, content), b"")
    try:
        materials = document.get("materials", [])
        colours = tuple(_base_colour(path, document, index) for index in range(len(materials)))
        _check(path, document)
        for index, material in enumerate(materials):
            material["name"] = str(index)
        extras = document["asset"].get("extras", {})
        if needs_decoding(document):
            document, chunk = decoded(path, document, rest[8:])
            rest, binary = struct.pack("<II", len(chunk), BINARY_CHUNK) + chunk, True
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its glTF structure is damaged ({error!r}); export it again") from error
    prepared = _join_glb(document, rest) if binary else json.dumps(document).encode()
    return GltfFile(
        prepared, "glb" if binary else "gltf", colours, extras if isinstance(extras, dict) else {}
    )


def _base_colour(path: Path, document: dict[str, Any], index: int) -> BaseColour:
    """What material `index` says; its document is changed so that a reader finds picture and uvs at once."""
    material = document["materials"][index]
    surface = material.get("pbrMetallicRoughness", {})
    extensions = material.pop("extensions", {})
    glossy = extensions.get("KHR_materials_pbrSpecularGlossiness")
    if glossy and not surface.keys() & {"baseColorTexture", "baseColorFactor"}:
        surface = {"baseColorFactor": glossy.get("diffuseFactor", [1.0] * 4)}
        surface |= {"baseColorTexture": glossy["diffuseTexture"]} if "diffuseTexture" in glossy else {}
        material["pbrMetallicRoughness"] = surface
    texture, factor_4 = surface.get("baseColorTexture"), [*surface.get("baseColorFactor", [1.0] * 4), 1.0]
    found = BaseColour(
        tuple(float(value) for value in factor_4[:3]),
        alpha_mode=str(material.get("alphaMode", "OPAQUE")),
        alpha=float(factor_4[3]),
        cutoff=float(material.get("alphaCutoff", 0.5)),
    )
    emission_3 = [float(value) for value in material.get("emissiveFactor", (0.0, 0.0, 0.0))]
    if max(found.factor_3) == 0.0 and max(emission_3) > 0.0:
        # Black that glows: what is seen of it is its own light, which then is its colour.
        found, texture = replace(found, factor_3=tuple(emission_3)), material.pop("emissiveTexture", None)
        surface.pop("baseColorTexture", None)
        if texture is not None:
            surface["baseColorTexture"] = texture
        material["pbrMetallicRoughness"] = surface
    if texture is None:
        return found
    transform = texture.get("extensions", {}).get("KHR_texture_transform", {})
    uv_set = int(transform.get("texCoord", texture.get("texCoord", 0)))
    if uv_set:
        _use_uv_set(path, document, index, uv_set)
        texture["texCoord"] = 0
    entry = document["textures"][texture["index"]]
    if "source" not in entry and "EXT_texture_webp" in entry.get("extensions", {}):
        entry["source"] = entry["extensions"]["EXT_texture_webp"]["source"]
    sampler = entry.get("sampler")
    settings = {} if sampler is None else document["samplers"][sampler]
    return replace(
        found,
        textured=True,
        rotation_rad=float(transform.get("rotation", 0.0)),
        scale_2=tuple(transform.get("scale", (1.0, 1.0))),
        offset_2=tuple(transform.get("offset", (0.0, 0.0))),
        wrap_2=(settings.get("wrapS", REPEAT), settings.get("wrapT", REPEAT)),
    )


def _use_uv_set(path: Path, document: dict[str, Any], material: int, uv_set: int) -> None:
    """Makes a later UV set the first one of every surface with this material: no other picture is read."""
    for mesh in document.get("meshes", []):
        for primitive in mesh["primitives"]:
            if primitive.get("material") == material:
                attributes = primitive["attributes"]
                if f"TEXCOORD_{uv_set}" not in attributes:
                    raise InputError(f"{path}: its base colour uses UV set {uv_set}, which is not there")
                attributes["TEXCOORD_0"] = attributes[f"TEXCOORD_{uv_set}"]


def _check(path: Path, document: dict[str, Any]) -> None:
    for extension in document.get("extensionsUsed", []) + document.get("extensionsRequired", []):
        if extension in UNREADABLE:
            raise InputError(f"{path}: uses {UNREADABLE[extension]} ({extension}); export it without")
    for entry in document.get("buffers", []) + document.get("images", []):
        uri = entry.get("uri")
        if uri is not None and not uri.startswith("data:"):
            # Readers take the name as it stands, so it is given to them decoded.
            entry["uri"] = inside_folder(path.parent, unquote(uri), path).relative_to(path.parent).as_posix()
    for accessor in document.get("accessors", []):
        if "sparse" in accessor:
            raise InputError(f"{path}: uses sparse accessors; export it without")
    for mesh in document.get("meshes", []):
        for primitive in mesh["primitives"]:
            if primitive.get("mode", TRIANGLES) == TRIANGLE_FAN:
                raise InputError(f"{path}: uses triangle fans; export it as triangles")


class _Binary:
    """The binary chunk being filled, with its views and accessors."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, content: bytes, target: int | None = None) -> int:
        self.content += b"\0" * (-len(self.content) % 4)
        entry = {"buffer": 0, "byteOffset": len(self.content), "byteLength": len(content)}
        self.views.append(entry if target is None else entry | {"target": target})
        self.content += content
        return len(self.views) - 1

    def accessor(
        self, array: np.ndarray, shape: str, component: int, target: int, normalized: bool = False
    ) -> int:
        entry = {"bufferView": self.view(array.tobytes(), target), "componentType": component, "type": shape}
        entry |= {"count": len(array), "min": array.min(axis=0).tolist(), "max": array.max(axis=0).tolist()}
        if normalized:
            entry["normalized"] = True
        self.accessors.append(entry)
        return len(self.accessors) - 1

    def faces(self, faces_F3: np.ndarray) -> int:
        indices = faces_F3.reshape(-1, 1).astype("<u4")
        return self.accessor(indices, "SCALAR", UNSIGNED_INT, ELEMENT_BUFFER)

    def positions(self, vertices_V3: np.ndarray) -> int:
        return self.accessor(vertices_V3.astype("<f4"), "VEC3", FLOAT, ARRAY_BUFFER)


def _document(extras: dict[str, Any]) -> dict[str, Any]:
    return {
        "asset": {"version": "2.0", "generator": "get3d-pipeline", "extras": extras},
        "scene": 0,
        "scenes": [{"nodes": []}],
        "nodes": [],
        "meshes": [],
        "materials": [],
    }


def _finished(document: dict[str, Any], binary: _Binary) -> bytes:
    content = bytes(binary.content) + b"\0" * (-len(binary.content) % 4)
    document |= {"bufferViews": binary.views, "accessors": binary.accessors}
    document["buffers"] = [{"byteLength": len(content)}]
    return _join_glb(document, struct.pack("<II", len(content), BINARY_CHUNK) + content)


def colored_glb_bytes(mesh: ColoredMesh, linear_V3: np.ndarray, roughness: float = 0.9) -> bytes:
    """A .glb with a colour at every vertex and no texture; the same input gives the same bytes.

    linear_V3: the mesh's colours as linear light in [0, 1], which is what COLOR_0 holds; stored with 16 bits.
    """
    document, binary = _document(mesh.extras), _Binary()
    if len(mesh.faces_F3):
        indices = binary.faces(mesh.faces_F3)
        # Four channels, because rows must be aligned to four bytes.
        colors_V4 = np.full((len(linear_V3), 4), 65535, "<u2")
        colors_V4[:, :3] = np.round(linear_V3 * 65535.0)
        attributes = {
            "POSITION": binary.positions(mesh.vertices_V3),
            "COLOR_0": binary.accessor(colors_V4, "VEC4", UNSIGNED_SHORT, ARRAY_BUFFER, normalized=True),
        }
        primitive = {"attributes": attributes, "indices": indices, "material": 0, "mode": TRIANGLES}
        document["meshes"].append({"name": "mesh", "primitives": [primitive]})
        surface = {"metallicFactor": 0.0, "roughnessFactor": roughness}
        document["materials"].append({"name": "mesh", "doubleSided": True, "pbrMetallicRoughness": surface})
        document["nodes"].append({"name": "mesh", "mesh": 0})
        document["scenes"][0]["nodes"].append(0)
    return _finished(document, binary)


def glb_bytes(parts: list[ScenePart], extras: dict[str, Any], image_format: str = DEFAULT_IMAGE) -> bytes:
    """A .glb with one mesh, material and texture per part; the same input gives the same bytes.

    Equal textures are stored once. `extras` goes to `asset.extras`. image_format: see `encode_image`.
    """
    binary = _Binary()
    images: dict[bytes, int] = {}
    document = _document(extras) | {
        "textures": [],
        "images": [],
        "samplers": [{"wrapS": REPEAT, "wrapT": REPEAT, "magFilter": 9729, "minFilter": 9987}],
    }
    for index, part in enumerate(parts):
        mesh = part.mesh
        # glTF puts (0, 0) at the top of the picture.
        uvs_V2 = np.stack([mesh.uvs_V2[:, 0], 1.0 - mesh.uvs_V2[:, 1]], axis=-1).astype("<f4")
        image = encode_image(mesh.texture_HW3, image_format)
        if image not in images:
            images[image] = len(images)
            entry = {"bufferView": binary.view(image), "mimeType": IMAGE_TYPES[image_format]}
            document["images"].append(entry)
            document["textures"].append({"sampler": 0, "source": images[image]})
        faces = binary.faces(mesh.faces_F3)
        attributes = {
            "POSITION": binary.positions(mesh.vertices_V3),
            "TEXCOORD_0": binary.accessor(uvs_V2, "VEC2", FLOAT, ARRAY_BUFFER),
        }
        primitive = {"attributes": attributes, "indices": faces, "material": index, "mode": TRIANGLES}
        document["meshes"].append({"name": part.name, "primitives": [primitive]})
        surface = {"baseColorTexture": {"index": images[image]}}
        surface |= {"metallicFactor": part.metallic, "roughnessFactor": part.roughness}
        document["materials"].append(
            {"name": part.name, "doubleSided": True, "pbrMetallicRoughness": surface}
        )
        for transform_44 in part.transforms:
            node: dict[str, Any] = {"name": part.name, "mesh": index}
            if not np.array_equal(transform_44, np.eye(4)):
                node["matrix"] = np.asarray(transform_44, dtype=np.float64).T.ravel().tolist()
            document["scenes"][0]["nodes"].append(len(document["nodes"]))
            document["nodes"].append(node)
    return _finished(document, binary)
