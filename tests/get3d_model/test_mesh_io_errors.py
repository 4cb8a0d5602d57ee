"""Damaged, empty and hostile mesh files are refused with one line that names the file and the reason."""

import json
import struct

import numpy as np
import pytest
import trimesh

from get3d_model.errors import InputError
from get3d_model.gltf import glb_bytes
from get3d_model.mesh_io import ScenePart, load_textured_mesh, normalize
from get3d_model.png import fast_png
from get3d_model.types import TexturedMesh

TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"
PNG = fast_png(np.full((4, 4, 3), 90, dtype=np.uint8))


def glb(vertices=((0, 0, 0), (1, 0, 0), (0, 1, 0)), faces=((0, 1, 2),)) -> bytes:
    mesh = TexturedMesh(
        np.array(vertices, dtype=np.float32),
        np.array(faces, dtype=np.int32),
        np.zeros((len(vertices), 2), dtype=np.float32),
        np.full((4, 4, 3), 90, dtype=np.uint8),
    )
    return glb_bytes([ScenePart("part", mesh)], {})


def edited(change) -> bytes:
    """The triangle's GLB with its JSON document changed."""
    content = glb()
    size = struct.unpack_from("<I", content, 12)[0]
    document = json.loads(content[20 : 20 + size])
    change(document)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    rest = content[20 + size :]
    return (
        struct.pack("<IIIII", 0x46546C67, 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest
    )


def external(document: dict, uri: str) -> None:
    document["images"] = [{"uri": uri}]


def lose_pixels(document: dict) -> None:
    document["bufferViews"][document["images"][0]["bufferView"]]["byteLength"] = 30


def base_texture(document: dict) -> dict:
    return document["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]


def compress_by_name(document) -> None:
    """Claims that a picture or whatever the first view holds is Draco data."""
    primitive = document["meshes"][0]["primitives"][0]
    names = {name: number for number, name in enumerate(primitive["attributes"])}
    primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": names}}


GLB_CASES = {
    "empty": (b"", "too short"),
    "short": (glb()[:12], "too short"),
    "truncated": (glb()[:-40], "truncated"),
    "not a glb": (b"v 0 0 0\n" * 10, "does not start like a GLB"),
    "old version": (glb()[:4] + struct.pack("<I", 1) + glb()[8:], "version 1"),
    "broken json": (glb()[:21] + b"{" + glb()[22:], "JSON is damaged"),
    "nan": (glb(vertices=((0, 0, float("nan")), (1, 0, 0), (0, 1, 0))), "JSON|NaN"),
    "face index": (glb(faces=((0, 1, 7),)), "face index 7, but only 3"),
    "no extent": (glb(vertices=((1, 1, 1),) * 3), "at one point"),
    "no geometry": (edited(lambda d: d["scenes"][0].update(nodes=[])), "no triangles"),
    "lines only": (edited(lambda d: d["meshes"][0]["primitives"][0].update(mode=0)), "no triangles"),
    "fan": (edited(lambda d: d["meshes"][0]["primitives"][0].update(mode=6)), "fans"),
    "no file": (edited(lambda d: external(d, "skin.png")), "'skin.png' that it refers to does not exist"),
    "outside": (edited(lambda d: external(d, "../skin.png")), "not inside the mesh's own folder"),
    "encoded outside": (edited(lambda d: external(d, "%2e%2e/skin.png")), "not inside the mesh's own folder"),
    "absolute": (edited(lambda d: external(d, "/etc/passwd")), "not inside the mesh's own folder"),
    "url": (edited(lambda d: external(d, "http://example.org/a.png")), "not inside the mesh's own folder"),
    "bad data uri": (edited(lambda d: external(d, "data:image/png;base64,AAAA")), "cannot be decoded"),
    "half a picture": (edited(lose_pixels), "cannot be decoded"),
    "meshopt": (
        edited(lambda d: d.update(extensionsUsed=["EXT_meshopt_compression"])),
        "meshopt compression",
    ),
    "draco": (edited(compress_by_name), "Draco data cannot be decoded"),
    "sparse": (edited(lambda d: d["accessors"][0].update(sparse={})), "sparse"),
    "integer uvs": (
        edited(lambda d: d["accessors"][2].update(componentType=5123, count=10**6)),
        "structure is damaged",
    ),
    "second uvs": (edited(lambda d: base_texture(d).update(texCoord=1)), "UV set 1, which is not there"),
    "no such texture": (edited(lambda d: base_texture(d).update(index=5)), "structure is damaged"),
    "no such accessor": (
        edited(lambda d: d["meshes"][0]["primitives"][0]["attributes"].update(POSITION=99)),
        "structure is damaged",
    ),
    "no uvs": (edited(lambda d: d["meshes"][0]["primitives"][0]["attributes"].pop("TEXCOORD_0")), "no UVs"),
}

OBJ_CASES = {
    "empty": ("", "no triangles|cannot be read"),
    "points": ("v 0 0 0\nv 1 0 0\n", "no triangles|cannot be read"),
    "face index": (TRIANGLE + "f 1 2 9\n", "line 7 has face index 9, but there are 3"),
    "index zero": (TRIANGLE + "f 0 1 2\n", "face index 0"),
    "uv index": (TRIANGLE + "f 1/1 2/2 3/9\n", "uv index 9, but there are 3"),
    "relative too far": (TRIANGLE + "f -4 -2 -1\n", "face index 0, but there are 3"),
    "half a face": (TRIANGLE + "f 1 2 3\nf 1 2", "line 8 is a face with 2 corners"),
    "letters": (TRIANGLE + "f 1 2 x\n", "'x', which is not a number"),
    "nan": ("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "NaN"),
    "infinite": ("v inf 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "infinite"),
    "too far": ("v 1e300 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", r"farther than 1e\+18"),
    "no extent": ("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "at one point"),
    "not a picture": ("mtllib text.mtl\n" + TRIANGLE + "usemtl a\nf 1/1 2/2 3/3\n", "cannot be decoded"),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "plain.mtl").write_text("newmtl a\nKd 1 0 0\n")
    (tmp_path / "text.mtl").write_text("newmtl a\nmap_Kd plain.mtl\n")
    (tmp_path / "skin.jpg").write_bytes(PNG)
    return tmp_path


def refuse(path, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        load_textured_mesh(path)
    assert str(path.parent) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("case", GLB_CASES)
def test_bad_glb(folder, case):
    content, reason = GLB_CASES[case]
    (folder / "mesh.glb").write_bytes(content)
    refuse(folder / "mesh.glb", reason)


def test_the_edited_glb_is_otherwise_fine(folder):
    (folder / "mesh.glb").write_bytes(edited(lambda d: external(d, "skin.jpg")))
    assert len(load_textured_mesh(folder / "mesh.glb").faces_F3) == 1


@pytest.mark.parametrize("case", OBJ_CASES)
def test_bad_obj(folder, case):
    content, reason = OBJ_CASES[case]
    (folder / "mesh.obj").write_text(content)
    refuse(folder / "mesh.obj", reason)


def ply(file_format: str) -> bytes:
    mesh = trimesh.creation.icosphere(subdivisions=1)
    return trimesh.exchange.ply.export_ply(mesh, encoding=file_format)


@pytest.mark.parametrize("file_format", ["ascii", "binary"])
def test_truncated_ply(folder, file_format):
    content = ply(file_format)
    (folder / "whole.ply").write_bytes(content)
    assert len(load_textured_mesh(folder / "whole.ply").faces_F3) == 80
    (folder / "mesh.ply").write_bytes(content[: len(content) * 3 // 4])
    refuse(folder / "mesh.ply", "truncated|cannot be read")


def test_bad_ply(folder):
    (folder / "mesh.ply").write_bytes(b"")
    refuse(folder / "mesh.ply", "no complete PLY header")
    head = ply("ascii").split(b"end_header")[0]
    (folder / "mesh.ply").write_bytes(head)
    refuse(folder / "mesh.ply", "no complete PLY header")
    (folder / "mesh.ply").write_bytes(
        ply("ascii").replace(b"ascii 1.0\n", b"ascii 1.0\ncomment TextureFile gone.png\n")
    )
    refuse(folder / "mesh.ply", "gone.png")
    (folder / "mesh.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 8\n"
    )
    refuse(folder / "mesh.ply", "face index 8")


def test_ply_without_faces(folder):
    (folder / "mesh.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
        "end_header\n0 0 0\n1 0 0\n"
    )
    refuse(folder / "mesh.ply", "no triangles|cannot be read")


def test_bad_gltf(folder):
    (folder / "mesh.gltf").write_text('{"asset": {"version": "2.0"')
    refuse(folder / "mesh.gltf", "JSON is damaged")
    (folder / "mesh.gltf").write_text("[1, 2]")
    refuse(folder / "mesh.gltf", "not a glTF document")
    document = {"asset": {"version": "2.0"}, "buffers": [{"uri": "gone.bin", "byteLength": 4}]}
    (folder / "mesh.gltf").write_text(json.dumps(document))
    refuse(folder / "mesh.gltf", "gone.bin")


def test_missing_file_and_suffix(folder):
    refuse(folder / "nothing.glb", "no such mesh file")
    (folder / "mesh.stl").write_bytes(b"solid")
    refuse(folder / "mesh.stl", "'.stl'; convert")


def test_normalize_needs_an_extent():
    points = np.ones((3, 3), dtype=np.float32)
    mesh = TexturedMesh(points, np.array([[0, 1, 2]]), points[:, :2], np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="one point"):
        normalize(mesh)


def test_random_damage_never_escapes_as_another_error(folder):
    """Whatever bytes are flipped, the reader either works or raises InputError."""
    random = np.random.default_rng(0)
    whole = {"glb": glb(), "ply": ply("binary"), "obj": (TRIANGLE + "f 1/1 2/2 3/3\n").encode()}
    refused = 0
    for suffix, content in whole.items():
        for _ in range(60):
            damaged = bytearray(content)
            for position in random.integers(0, len(content), 3):
                damaged[position] = random.integers(0, 256)
            (folder / f"mesh.{suffix}").write_bytes(damaged)
            try:
                load_textured_mesh(folder / f"mesh.{suffix}")
            except InputError:
                refused += 1
    assert refused > 40
