"""glTF as people have it, written by hand: texture transforms, alpha modes, instances, old extensions."""

import base64
import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from get3d_model.alpha_cut import cut_below
from get3d_model.errors import InputError
from get3d_model.mesh_io import load_textured_mesh
from tests.get3d_model.test_mesh_io import colour_at, quarters

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# In glTF (0, 0) is the picture's top left.
SQUARE = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
SQUARE_UVS = [[0, 1], [1, 1], [1, 0], [0, 0]]


def png_uri(picture: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def write_gltf(path, material, picture=None, uvs=SQUARE_UVS, attributes=None, nodes=None, sampler=None):
    """A unit square in the plane z = 0 with one material."""
    arrays = {"POSITION": SQUARE, "TEXCOORD_0": uvs, **(attributes or {})}
    content, views, accessors = b"", [], []
    for values in arrays.values():
        array = np.array(values, dtype="<f4")
        views.append({"buffer": 0, "byteOffset": len(content), "byteLength": array.nbytes})
        entry = {"bufferView": len(views) - 1, "componentType": 5126, "count": len(array)}
        accessors.append(entry | {"type": f"VEC{array.shape[1]}"})
        content += array.tobytes()
    indices = np.array([0, 1, 2, 0, 2, 3], dtype="<u2")
    views.append({"buffer": 0, "byteOffset": len(content), "byteLength": indices.nbytes})
    accessors.append({"bufferView": len(views) - 1, "componentType": 5123, "count": 6, "type": "SCALAR"})
    content += indices.tobytes()
    uri = "data:application/octet-stream;base64," + base64.b64encode(content).decode()
    primitive = {"attributes": {name: i for i, name in enumerate(arrays)}, "indices": len(arrays)}
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": list(range(len(nodes or [0])))}],
        "nodes": nodes or [{"mesh": 0}],
        "meshes": [{"primitives": [primitive | ({} if material is None else {"material": 0})]}],
        "materials": [material or {}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(content), "uri": uri}],
    }
    if picture is not None:
        document |= {"images": [{"uri": png_uri(picture)}], "samplers": [sampler or {}]}
        document["textures"] = [{"source": 0, "sampler": 0}]
    path.write_text(json.dumps(document))
    return path


def textured(factor=(1, 1, 1, 1), **texture) -> dict:
    return {"pbrMetallicRoughness": {"baseColorFactor": factor, "baseColorTexture": {"index": 0} | texture}}


def transform(**values) -> dict:
    return {"extensions": {"KHR_texture_transform": values}}


def corner_colours(mesh) -> list[tuple[int, ...]]:
    """Bottom left, bottom right, top right, top left."""
    points = [(0.2, 0.3, 0), (0.8, 0.3, 0), (0.8, 0.7, 0), (0.2, 0.7, 0)]
    return [tuple(colour_at(mesh, point).tolist()) for point in points]


def area(mesh) -> float:
    a, b, c = mesh.vertices_V3[mesh.faces_F3].astype(np.float64).swapaxes(0, 1)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def normals_z(mesh) -> np.ndarray:
    a, b, c = mesh.vertices_V3[mesh.faces_F3].astype(np.float64).swapaxes(0, 1)
    return np.cross(b - a, c - a)[:, 2]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [BLUE, WHITE, GREEN, RED]),
        ({"offset": [0.5, 0.0]}, [WHITE, BLUE, RED, GREEN]),
        ({"scale": [0.5, 0.5], "offset": [0.5, 0.5]}, [WHITE] * 4),
        # The uvs turn counter-clockwise by 90 degrees, so the picture clockwise: its left edge becomes the top.
        ({"rotation": math.pi / 2, "offset": [0.0, 1.0]}, [WHITE, GREEN, RED, BLUE]),
    ],
)
def test_texture_transform(tmp_path, values, expected):
    mesh = load_textured_mesh(write_gltf(tmp_path / "a.gltf", textured(**transform(**values)), quarters()))
    assert corner_colours(mesh) == expected


def test_mirrored_repeat(tmp_path):
    uvs = np.array(SQUARE_UVS) * 2
    mesh = load_textured_mesh(
        write_gltf(tmp_path / "a.gltf", textured(), quarters(), uvs, sampler={"wrapS": 33648, "wrapT": 33648})
    )
    # Four copies, each the mirror image of its neighbours: the same quarter meets itself in the middle.
    assert colour_at(mesh, (0.1, 0.9, 0)).tolist() == list(RED)
    assert [
        tuple(colour_at(mesh, (0.5 + x, 0.5 + y, 0)).tolist()) for x in (-0.1, 0.1) for y in (-0.1, 0.1)
    ] == [WHITE] * 4
    assert colour_at(mesh, (0.9, 0.1, 0)).tolist() == list(RED)
    assert colour_at(mesh, (0.9, 0.6, 0)).tolist() == list(BLUE)


def test_second_uv_set(tmp_path):
    path = write_gltf(
        tmp_path / "a.gltf",
        textured(texCoord=1),
        quarters(),
        uvs=np.zeros((4, 2)),
        attributes={"TEXCOORD_1": SQUARE_UVS},
    )
    assert corner_colours(load_textured_mesh(path)) == [BLUE, WHITE, GREEN, RED]
    path = write_gltf(tmp_path / "b.gltf", textured(texCoord=1), quarters())
    with pytest.raises(InputError, match="UV set 1"):
        load_textured_mesh(path)


def test_vertex_colours_times_factor_times_texture(tmp_path):
    material = textured((1, 0.5, 1, 1))
    grey = np.full((4, 4, 3), 188, np.uint8)  # linear 0.503
    path = write_gltf(tmp_path / "a.gltf", material, grey, attributes={"COLOR_0": [[0.5, 1, 0, 1]] * 4})
    # sRGB of 0.503 x (0.5, 0.5, 0) by the formula of IEC 61966-2-1.
    half = 255 * (1.055 * (((188 / 255 + 0.055) / 1.055) ** 2.4 / 2) ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(colour_at(load_textured_mesh(path), (0.3, 0.4, 0)), [half, half, 0], atol=1.1)


def disc(size: int = 64) -> np.ndarray:
    """A red picture, opaque within a circle of 0.4 picture sides, alpha 51 (0.2) outside."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    picture = np.zeros((size, size, 4), np.uint8)
    picture[..., 0], picture[..., 3] = 255, np.where(np.hypot(x, y) < 0.4, 255, 51)
    return picture


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ({"alphaMode": "MASK"}, math.pi * 0.16),
        ({"alphaMode": "MASK", "alphaCutoff": 0.1}, 1.0),
        ({"alphaMode": "BLEND"}, math.pi * 0.16),
        ({"alphaMode": "OPAQUE"}, 1.0),
        ({}, 1.0),
    ],
)
def test_alpha_modes_cut_the_picture_out(tmp_path, mode, expected):
    mesh = load_textured_mesh(write_gltf(tmp_path / "a.gltf", textured() | mode, disc()))
    assert area(mesh) == pytest.approx(expected, abs=0.01)
    assert (normals_z(mesh) > 0).all()


def test_constant_opacity(tmp_path):
    def load(alpha, mode, picture=None, **more):
        material = textured((1, 0, 0, alpha)) if picture is not None else {}
        material = material or {"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, alpha]}}
        return load_textured_mesh(
            write_gltf(tmp_path / "a.gltf", material | {"alphaMode": mode} | more, picture)
        )

    # Glass is opaque, whether its opacity stands in the factor or evenly in the picture.
    assert area(load(0.2, "BLEND")) == pytest.approx(1.0)
    faint = disc()
    faint[..., 3] = 40
    assert area(load(1.0, "BLEND", faint)) == pytest.approx(1.0)
    assert area(load(0.6, "MASK")) == pytest.approx(1.0)
    for alpha, mode in ((0.4, "MASK"), (0.0, "BLEND")):
        with pytest.raises(InputError, match="no triangles"):
            load(alpha, mode)
    # 0.8 of the picture's alpha: the disc stays below a cutoff of 0.9.
    with pytest.raises(InputError, match="no triangles"):
        load(0.8, "MASK", disc(), alphaCutoff=0.9)


def test_cutting_keeps_attributes_linear_and_stays_in_bounds():
    random = np.random.default_rng(0)
    corners = random.random((5, 3, 6))
    alpha = random.integers(0, 256, (16, 16), dtype=np.uint8)
    kept = cut_below(corners, alpha, 0.5)
    assert len(kept) > 5
    # Every corner made is a convex combination of one face's corners, in all attributes at once.
    for point in kept.reshape(-1, 6)[:: max(1, len(kept) // 40)]:
        best = min(
            np.abs(np.linalg.lstsq(np.vstack([face.T, np.ones(3)]), np.append(point, 1), rcond=None)[1]).sum()
            for face in corners
        )
        assert best < 1e-18


def test_small_holes_are_found_and_repeats_are_cut_alike():
    alpha = np.full((256, 256), 255, np.uint8)
    alpha[100:104, 37:41] = 0
    card = np.array([[0, 0, 0, 0, 0], [1, 0, 0, 1, 0], [1, 1, 0, 1, 1], [0, 1, 0, 0, 1]], dtype=np.float64)

    def hole(repeats: float, shift: float) -> float:
        corners = card.copy()
        corners[:, 3:] = corners[:, 3:] * repeats + shift
        a, b, c = cut_below(corners[[[0, 1, 2], [0, 2, 3]]], alpha, 0.5)[..., :3].swapaxes(0, 1)
        return 1.0 - np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2

    # Bilinear opacity crosses a half on the edges and rounds the corners by ln(2) / 2 - 1 / 4 of a texel each.
    expected = (16 - 4 * (math.log(2) / 2 - 0.25)) / 256**2
    assert hole(1.0, 0.0) == pytest.approx(expected, rel=0.1)
    for repeats, shift in ((1.0, 0.37), (3.0, -1.2)):
        assert hole(repeats, shift) == pytest.approx(expected, rel=0.1)


def test_transparent_texels_do_not_colour_the_edge(tmp_path):
    picture = disc()
    picture[picture[..., 3] < 255] = (0, 255, 0, 0)
    mesh = load_textured_mesh(write_gltf(tmp_path / "a.gltf", textured() | {"alphaMode": "MASK"}, picture))
    assert (mesh.texture_HW3 == RED).all()


def test_instances_and_a_mirrored_node(tmp_path):
    nodes = [
        {"mesh": 0, "translation": [5, 0, 0]},
        {"mesh": 0, "scale": [-1, 1, 1]},
        {"children": [3], "scale": [2, 2, 2]},
        {"mesh": 0, "rotation": [0, 0, math.sqrt(0.5), math.sqrt(0.5)]},
    ]
    path = write_gltf(tmp_path / "a.gltf", textured(), quarters(), nodes=nodes)
    document = json.loads(path.read_text())
    document["scenes"][0]["nodes"] = [0, 1, 2]
    path.write_text(json.dumps(document))
    mesh = load_textured_mesh(path)
    assert area(mesh) == pytest.approx(1 + 1 + 4)
    # A mirrored node still faces the viewer: its winding is turned.
    assert (normals_z(mesh) > 0).all()
    np.testing.assert_allclose(
        [mesh.vertices_V3.min(0), mesh.vertices_V3.max(0)], [[-2, 0, 0], [6, 2, 0]], atol=1e-6
    )
    assert tuple(colour_at(mesh, (-0.2, 0.7, 0)).tolist()) in (RED, GREEN, BLUE, WHITE)


def test_unlit_and_specular_glossiness(tmp_path):
    unlit = textured() | {"extensions": {"KHR_materials_unlit": {}}}
    mesh = load_textured_mesh(write_gltf(tmp_path / "a.gltf", unlit, quarters()))
    assert corner_colours(mesh) == [BLUE, WHITE, GREEN, RED]
    glossy = {
        "diffuseTexture": {"index": 0},
        "diffuseFactor": [1, 1, 1, 1],
        "specularFactor": [0.9, 0.9, 0.9],
    }
    material = {"extensions": {"KHR_materials_pbrSpecularGlossiness": glossy}}
    mesh = load_textured_mesh(write_gltf(tmp_path / "b.gltf", material, quarters()))
    # The specular part must not bleed into the diffuse colour.
    assert corner_colours(mesh) == [BLUE, WHITE, GREEN, RED]
    glossy = {"diffuseFactor": [0, 1, 0, 1]}
    material = {"extensions": {"KHR_materials_pbrSpecularGlossiness": glossy}}
    mesh = load_textured_mesh(write_gltf(tmp_path / "c.gltf", material))
    assert corner_colours(mesh) == [GREEN] * 4
