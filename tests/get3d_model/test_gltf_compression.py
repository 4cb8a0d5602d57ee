"""Compressed and quantised glTF against the same mesh written plainly."""

import base64
import json

import DracoPy
import numpy as np
import pytest

from get3d_model.errors import InputError
from get3d_model.mesh_io import load_textured_mesh
from tests.get3d_model.test_mesh_io import colour_at, quarters
from tests.get3d_model.test_mesh_io_gltf import RED, SQUARE, SQUARE_UVS, write_gltf

TEXTURED = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}


def data_uri(content: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(content).decode()


def compressed(path, attributes_of_stream=("POSITION", "TEXCOORD_0"), damage: bool = False):
    """The square of `write_gltf` as exporters write it with Draco: accessors without data, an extension."""
    write_gltf(path, TEXTURED, quarters())
    document = json.loads(path.read_text())
    stream = DracoPy.encode(
        np.array(SQUARE, np.float64),
        np.array([[0, 1, 2], [0, 2, 3]], np.uint32),
        tex_coord=np.array(SQUARE_UVS, np.float64),
        quantization_bits=16,
    )
    types = {entry["attribute_type"]: entry["unique_id"] for entry in DracoPy.decode(stream).attributes}
    if damage:
        stream = stream[: len(stream) // 2]
    document["buffers"].append({"byteLength": len(stream), "uri": data_uri(stream)})
    document["bufferViews"].append({"buffer": 1, "byteLength": len(stream)})
    for accessor in document["accessors"]:
        del accessor["bufferView"]
    ids = {"POSITION": types[0], "TEXCOORD_0": types[3], "NORMAL": 99}
    document["meshes"][0]["primitives"][0]["extensions"] = {
        "KHR_draco_mesh_compression": {
            "bufferView": len(document["bufferViews"]) - 1,
            "attributes": {name: ids[name] for name in attributes_of_stream},
        }
    }
    for kind in ("extensionsUsed", "extensionsRequired"):
        document[kind] = ["KHR_draco_mesh_compression"]
    path.write_text(json.dumps(document))
    return path


def test_draco(tmp_path) -> None:
    plain = load_textured_mesh(write_gltf(tmp_path / "plain.gltf", TEXTURED, quarters()))
    mesh = load_textured_mesh(compressed(tmp_path / "draco.gltf"))
    assert len(mesh.faces_F3) == 2
    for point in ((0.25, 0.25, 0), (0.75, 0.25, 0), (0.25, 0.75, 0), (0.75, 0.75, 0)):
        np.testing.assert_array_equal(colour_at(mesh, point), colour_at(plain, point))
    order = np.lexsort(mesh.vertices_V3.T)
    np.testing.assert_allclose(mesh.vertices_V3[order], sorted(SQUARE, key=lambda p: p[::-1]), atol=1e-4)


@pytest.mark.parametrize("arguments, words", [({"damage": True}, "cannot be decoded"), ({}, "lacks NORMAL")])
def test_damaged_draco_is_one_clear_line(tmp_path, arguments, words) -> None:
    names = ("POSITION", "TEXCOORD_0") if arguments else ("POSITION", "NORMAL")
    with pytest.raises(InputError, match=words) as caught:
        load_textured_mesh(compressed(tmp_path / "mesh.gltf", names, **arguments))
    assert "\n" not in str(caught.value)


def test_quantised_vertices_and_normalised_texture_coordinates(tmp_path) -> None:
    """As gltfpack writes them without compression: padded rows, the scale in the node."""
    path = write_gltf(
        tmp_path / "mesh.gltf", TEXTURED, quarters(), nodes=[{"mesh": 0, "scale": [2 / 1000] * 3}]
    )
    document = json.loads(path.read_text())
    positions = np.zeros((4, 4), "<i2")
    positions[:, :3] = np.array(SQUARE) * 1000
    uvs = np.round(np.array(SQUARE_UVS) * 65535).astype("<u2")
    start = 0
    content = b""
    for number, (array, code) in enumerate(((positions, 5122), (uvs, 5123))):
        start = len(content)
        content += array.tobytes()
        document["bufferViews"][number] = {
            "buffer": 1,
            "byteOffset": start,
            "byteLength": array.nbytes,
            "byteStride": array.strides[0],
        }
        document["accessors"][number] |= {"componentType": code, "normalized": code == 5123}
    document["buffers"].append({"byteLength": len(content), "uri": data_uri(content)})
    document["extensionsRequired"] = document["extensionsUsed"] = ["KHR_mesh_quantization"]
    path.write_text(json.dumps(document))
    mesh = load_textured_mesh(path)
    plain = load_textured_mesh(write_gltf(tmp_path / "plain.gltf", TEXTURED, quarters()))
    np.testing.assert_allclose(np.ptp(mesh.vertices_V3, axis=0), [2, 2, 0], atol=1e-6)
    for x, y in ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75)):
        np.testing.assert_array_equal(colour_at(mesh, (2 * x, 2 * y, 0)), colour_at(plain, (x, y, 0)))


def test_black_that_glows_has_the_colour_of_its_light(tmp_path) -> None:
    surface = {"baseColorFactor": [0, 0, 0, 1]}
    plain = write_gltf(tmp_path / "a.gltf", {"pbrMetallicRoughness": surface, "emissiveFactor": [1, 0, 0]})
    np.testing.assert_array_equal(colour_at(load_textured_mesh(plain), (0.5, 0.5, 0)), RED)
    pictured = write_gltf(
        tmp_path / "b.gltf",
        {"pbrMetallicRoughness": surface, "emissiveFactor": [1, 1, 1], "emissiveTexture": {"index": 0}},
        quarters(),
    )
    expected = load_textured_mesh(write_gltf(tmp_path / "c.gltf", TEXTURED, quarters()))
    found = load_textured_mesh(pictured)
    for point in ((0.25, 0.25, 0), (0.75, 0.75, 0)):
        np.testing.assert_array_equal(colour_at(found, point), colour_at(expected, point))
