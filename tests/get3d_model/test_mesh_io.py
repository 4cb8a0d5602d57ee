"""Mesh files: round trips against trimesh, merging of materials, transforms and vertex colours."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from get3d_model import mesh_io
from get3d_model.errors import InputError
from get3d_model.png import fast_png
from get3d_model.types import TexturedMesh

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def quad(texture_HW3: np.ndarray, extras: dict | None = None) -> TexturedMesh:
    """A unit square in the plane z = 0, upright, the whole texture on it."""
    vertices_V3 = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=np.float32)
    faces_F3 = np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32)
    return TexturedMesh(vertices_V3, faces_F3, vertices_V3[:, :2].copy(), texture_HW3, extras or {})


def quarters() -> np.ndarray:
    """An 8 x 8 picture: red top left, green top right, blue bottom left, white bottom right."""
    texture_HW3 = np.zeros((8, 8, 3), dtype=np.uint8)
    texture_HW3[:4, :4], texture_HW3[:4, 4:] = (255, 0, 0), (0, 255, 0)
    texture_HW3[4:, :4], texture_HW3[4:, 4:] = (0, 0, 255), (255, 255, 255)
    return texture_HW3


def colour_at(mesh: TexturedMesh, point_3: tuple[float, float, float]) -> np.ndarray:
    """The nearest texel at a surface point, by solving for the barycentrics of the face that holds it."""
    height, width = mesh.texture_HW3.shape[:2]
    corners_F33 = mesh.vertices_V3[mesh.faces_F3].astype(np.float64)
    for corners_33, corner_uvs_32 in zip(corners_F33, mesh.uvs_V2[mesh.faces_F3], strict=True):
        system = np.vstack([corners_33.T, np.ones(3)])
        weights_3, *_ = np.linalg.lstsq(system, np.append(point_3, 1.0), rcond=None)
        if np.allclose(system @ weights_3, np.append(point_3, 1.0), atol=1e-5) and weights_3.min() > -1e-6:
            u, v = weights_3 @ corner_uvs_32
            return mesh.texture_HW3[int((1 - v) % 1 * height), int(u % 1 * width)]
    raise AssertionError(f"no face holds {point_3}")


def textured(mesh: TexturedMesh, **options) -> trimesh.Trimesh:
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(mesh.texture_HW3), **options
    )
    visual = trimesh.visual.TextureVisuals(uv=mesh.uvs_V2, material=material)
    return trimesh.Trimesh(mesh.vertices_V3, mesh.faces_F3, visual=visual, process=False)


def sphere(seed: int) -> TexturedMesh:
    random = np.random.default_rng(seed)
    shape = trimesh.creation.icosphere(subdivisions=2)
    uvs_V2 = random.random((len(shape.vertices), 2)).astype(np.float32)
    texture_HW3 = random.integers(0, 256, (32, 64, 3), dtype=np.uint8)
    return TexturedMesh(
        shape.vertices.astype(np.float32), shape.faces.astype(np.int32), uvs_V2, texture_HW3, {"seed": seed}
    )


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_textured_round_trip(tmp_path, suffix):
    mesh = sphere(3)
    mesh_io.save_mesh(mesh, tmp_path / f"ball{suffix}")
    loaded = mesh_io.load_textured_mesh(tmp_path / f"ball{suffix}")
    # trimesh's OBJ reader may number the vertices anew, so corners are compared.
    np.testing.assert_array_equal(loaded.vertices_V3[loaded.faces_F3], mesh.vertices_V3[mesh.faces_F3])
    np.testing.assert_allclose(loaded.uvs_V2[loaded.faces_F3], mesh.uvs_V2[mesh.faces_F3], atol=1e-7)
    np.testing.assert_array_equal(loaded.texture_HW3, mesh.texture_HW3)
    assert loaded.vertices_V3.dtype == np.float32 and loaded.faces_F3.dtype == np.int32
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_glb_keeps_vertex_order_and_extras(tmp_path):
    mesh = sphere(4)
    mesh_io.save_mesh(mesh, tmp_path / "ball.glb")
    loaded = mesh_io.load_textured_mesh(tmp_path / "ball.glb")
    np.testing.assert_array_equal(loaded.vertices_V3, mesh.vertices_V3)
    np.testing.assert_array_equal(loaded.faces_F3, mesh.faces_F3)
    assert loaded.extras == {"seed": 4}


def test_ply_carries_texture_colours(tmp_path):
    mesh = quad(quarters())
    # Corners inset to texel centres, so that the lookup is exact.
    mesh = TexturedMesh(mesh.vertices_V3, mesh.faces_F3, mesh.uvs_V2 * 0.75 + 0.125, mesh.texture_HW3)
    mesh_io.save_mesh(mesh, tmp_path / "quad.ply")
    opened = trimesh.load_mesh(tmp_path / "quad.ply", process=False)
    expected = [[0, 0, 255], [255, 255, 255], [0, 255, 0], [255, 0, 0]]
    assert opened.visual.vertex_colors[:, :3].tolist() == expected
    loaded = mesh_io.load_textured_mesh(tmp_path / "quad.ply")
    corner_texels = [colour_at(loaded, point).tolist() for point in mesh.vertices_V3]
    np.testing.assert_allclose(corner_texels, expected, atol=1)


def test_glb_opens_upright_in_trimesh(tmp_path):
    mesh_io.save_mesh(quad(quarters(), {"psi": 0.7}), tmp_path / "quad.glb")
    scene = trimesh.load_scene(tmp_path / "quad.glb", process=False)
    (opened,) = scene.geometry.values()
    picture = np.asarray(opened.visual.material.baseColorTexture.convert("RGB"))
    top_left = opened.visual.uv[np.argmax(opened.vertices @ [-1, 1, 0])]
    # In trimesh v = 1 is the picture's top row.
    assert np.allclose(top_left, (0, 1)) and picture[0, 0].tolist() == [255, 0, 0]
    assert opened.visual.material.doubleSided and opened.visual.material.metallicFactor == 0.0


def test_glb_from_trimesh_loads_upright(tmp_path):
    textured(quad(quarters())).export(tmp_path / "quad.glb")
    loaded = mesh_io.load_textured_mesh(tmp_path / "quad.glb")
    assert colour_at(loaded, (0.1, 0.9, 0)).tolist() == [255, 0, 0]
    assert colour_at(loaded, (0.9, 0.1, 0)).tolist() == [255, 255, 255]


def test_gltf_with_files_beside_it(tmp_path):
    scene = trimesh.Scene(textured(quad(quarters())))
    for name, content in trimesh.exchange.gltf.export_gltf(scene).items():
        (tmp_path / name).write_bytes(content)
    document = json.loads((tmp_path / "model.gltf").read_text())
    (tmp_path / "my skin.png").write_bytes(fast_png(quarters()))
    document["images"] = [{"uri": "my%20skin.png"}]
    (tmp_path / "model.gltf").write_text(json.dumps(document))
    loaded = mesh_io.load_textured_mesh(tmp_path / "model.gltf")
    np.testing.assert_array_equal(loaded.texture_HW3, quarters())


@pytest.mark.parametrize("file_format", ["glb", "obj", "ply"])
def test_same_mesh_gives_the_same_bytes(file_format):
    first = mesh_io.mesh_bytes(sphere(1), file_format)
    assert first == mesh_io.mesh_bytes(sphere(1), file_format)
    assert first != mesh_io.mesh_bytes(sphere(2), file_format)


def test_obj_zip_loads_after_unpacking(tmp_path):
    with zipfile.ZipFile(io.BytesIO(mesh_io.mesh_bytes(quad(quarters()), "obj"))) as archive:
        archive.extractall(tmp_path)
    loaded = mesh_io.load_textured_mesh(tmp_path / "mesh.obj")
    np.testing.assert_array_equal(loaded.texture_HW3, quarters())


def test_unknown_format_is_refused(tmp_path):
    with pytest.raises(InputError, match="stl"):
        mesh_io.mesh_bytes(sphere(1), "stl")
    with pytest.raises(InputError, match="stl"):
        mesh_io.save_mesh(sphere(1), tmp_path / "a.stl")
    assert not list(tmp_path.iterdir())


def test_scene_with_transforms_and_materials_is_merged(tmp_path):
    stripes = np.zeros((16, 8, 3), dtype=np.uint8)
    stripes[:8] = (10, 20, 30)
    stripes[8:] = (200, 100, 50)
    flat = trimesh.Trimesh(*_square(), process=False)
    flat.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.PBRMaterial(baseColorFactor=[0.5, 0.25, 1.0, 1.0])
    )
    scene = trimesh.Scene()
    scene.add_geometry(
        textured(quad(quarters())), transform=trimesh.transformations.translation_matrix([10, 0, 0])
    )
    scene.add_geometry(textured(quad(stripes)), transform=np.diag([2.0, 2.0, 2.0, 1.0]))
    scene.add_geometry(flat, transform=np.diag([-1.0, 1.0, 1.0, 1.0]))
    scene.export(tmp_path / "scene.glb")
    loaded = mesh_io.load_textured_mesh(tmp_path / "scene.glb")
    assert len(loaded.faces_F3) == 6
    assert colour_at(loaded, (10.1, 0.9, 0)).tolist() == [255, 0, 0]
    assert colour_at(loaded, (10.9, 0.9, 0)).tolist() == [0, 255, 0]
    assert colour_at(loaded, (1.0, 1.9, 0)).tolist() == [10, 20, 30]
    assert colour_at(loaded, (1.0, 0.1, 0)).tolist() == [200, 100, 50]
    # Linear 0.5, 0.25, 1.0 in sRGB (IEC 61966-2-1) is 0.7354, 0.5371, 1.0; trimesh stores factors in 8 bits.
    np.testing.assert_allclose(colour_at(loaded, (-0.5, 0.5, 0)), [188, 137, 255], atol=1)
    # The mirrored copy still faces +z.
    normals = np.cross(*np.diff(loaded.vertices_V3[loaded.faces_F3], axis=1).swapaxes(0, 1))
    assert (normals[:, 2] > 0).all()


def _square() -> tuple[np.ndarray, np.ndarray]:
    mesh = quad(quarters())
    return mesh.vertices_V3, mesh.faces_F3


def test_loading_twice_gives_the_same_mesh(tmp_path):
    scene = trimesh.Scene([textured(sphere(seed)) for seed in range(4)])
    scene.export(tmp_path / "scene.glb")
    first, second = (mesh_io.load_textured_mesh(tmp_path / "scene.glb") for _ in range(2))
    assert mesh_io.mesh_bytes(first, "glb") == mesh_io.mesh_bytes(second, "glb")


def test_factor_multiplies_texture_in_linear_light(tmp_path):
    grey = np.full((4, 4, 3), 188, dtype=np.uint8)  # linear 0.503
    textured(quad(grey), baseColorFactor=[0.5, 1.0, 0.0, 1.0]).export(tmp_path / "tinted.glb")
    loaded = mesh_io.load_textured_mesh(tmp_path / "tinted.glb")
    # 0.503 * 128/255 = 0.2525 linear is 0.5394 sRGB = 137.5
    np.testing.assert_allclose(loaded.texture_HW3[0, 0], [137.5, 188, 0], atol=1)


def test_save_scene_instances_and_shares_textures(tmp_path):
    turned = trimesh.transformations.rotation_matrix(np.pi, [0, 1, 0], [3, 0, 0])
    parts = [
        mesh_io.ScenePart("one", quad(quarters()), (np.eye(4), turned)),
        mesh_io.ScenePart("two", quad(np.full((4, 4, 3), 77, np.uint8))),
    ]
    mesh_io.save_scene(parts, tmp_path / "scene.glb", {"kind": "test"})
    opened = trimesh.load_scene(tmp_path / "scene.glb")
    assert len(opened.graph.nodes_geometry) == 3 and len(opened.geometry) == 2
    loaded = mesh_io.load_textured_mesh(tmp_path / "scene.glb")
    assert loaded.extras == {"kind": "test"} and len(loaded.faces_F3) == 6
    assert colour_at(loaded, (5.9, 0.9, 0)).tolist() == [255, 0, 0]


def test_obj_materials(tmp_path):
    (tmp_path / "tex").mkdir()
    (tmp_path / "tex" / "skin 1.png").write_bytes(fast_png(quarters()))
    (tmp_path / "a.mtl").write_text(
        "newmtl skin\nKd 0.1 0.1 0.1\nmap_Kd tex\\skin 1.png\n\nnewmtl red paint\nKd 1 0 0\n"
    )
    (tmp_path / "a.obj").write_text(
        "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 3 0 0\nv 4 0 0\nv 4 1 0\n"
        "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nusemtl skin\nf 1/1 2/2 3/3 4/4\nusemtl red paint\nf 5 6 7\n"
    )
    loaded = mesh_io.load_textured_mesh(tmp_path / "a.obj")
    assert len(loaded.faces_F3) == 3
    assert colour_at(loaded, (0.1, 0.9, 0)).tolist() == [255, 0, 0]
    assert colour_at(loaded, (0.1, 0.1, 0)).tolist() == [0, 0, 255]
    assert colour_at(loaded, (3.8, 0.2, 0)).tolist() == [255, 0, 0]


def test_untextured_meshes_are_light_grey(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    trimesh.Trimesh(*_square(), process=False).export(tmp_path / "a.ply")
    for name in ("a.obj", "a.ply"):
        texture_HW3 = mesh_io.load_textured_mesh(tmp_path / name).texture_HW3
        assert (texture_HW3 == texture_HW3[0, 0]).all() and 170 < texture_HW3[0, 0, 0] < 230


def test_ply_vertex_and_face_colours(tmp_path):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=np.uint8)
    trimesh.Trimesh(*_square(), vertex_colors=colours, process=False).export(tmp_path / "vertex.ply")
    loaded = mesh_io.load_textured_mesh(tmp_path / "vertex.ply")
    np.testing.assert_array_equal([colour_at(loaded, point) for point in _square()[0]][1::2], colours[1::2])
    trimesh.Trimesh(*_square(), face_colors=colours[:2], process=False).export(tmp_path / "face.ply")
    loaded = mesh_io.load_textured_mesh(tmp_path / "face.ply")
    assert colour_at(loaded, (0.9, 0.1, 0)).tolist() == [255, 0, 0]
    assert colour_at(loaded, (0.1, 0.9, 0)).tolist() == [0, 255, 0]


def test_glb_vertex_colours_are_linear_and_multiply_the_texture(tmp_path):
    mesh = textured(quad(np.full((8, 8, 3), 255, dtype=np.uint8)))
    mesh.visual.vertex_attributes["color"] = np.full((4, 4), 128, dtype=np.uint8)
    mesh.export(tmp_path / "tinted.glb")
    loaded = mesh_io.load_textured_mesh(tmp_path / "tinted.glb")
    np.testing.assert_allclose(colour_at(loaded, (0.4, 0.3, 0)), 188, atol=1)


def test_texture_transform_and_tiling(tmp_path):
    scene = trimesh.Scene([textured(quad(quarters())), textured(quad(np.full((8, 8, 3), 9, np.uint8)))])
    content = scene.export(file_type="glb")
    (tmp_path / "plain.glb").write_bytes(content)
    opened = trimesh.exchange.gltf.export_gltf(scene)
    document = json.loads(opened["model.gltf"])
    transform = {"scale": [2, 1], "offset": [0.0, 0.5]}
    for material in document["materials"]:
        material["pbrMetallicRoughness"]["baseColorTexture"]["extensions"] = {
            "KHR_texture_transform": transform
        }
    for name, blob in opened.items():
        (tmp_path / name).write_bytes(blob)
    (tmp_path / "model.gltf").write_text(json.dumps(document))
    plain = mesh_io.load_textured_mesh(tmp_path / "plain.glb")
    tiled = mesh_io.load_textured_mesh(tmp_path / "model.gltf")
    flat_faces = [mesh for mesh in (plain, tiled) if len(mesh.faces_F3) == 4]
    assert len(flat_faces) == 2
    # glTF's v runs down: shifted by half a picture, the lower half stands on top; u repeats twice.
    for x, y, expected in [(0.1, 0.9, (0, 0, 255)), (0.4, 0.9, (255, 255, 255)), (0.6, 0.9, (0, 0, 255))]:
        assert colour_at(tiled, (x, y, 0)).tolist() == list(expected)
    assert colour_at(tiled, (0.9, 0.1, 0)).tolist() == [0, 255, 0]


def test_normalize_centres_and_scales():
    mesh = quad(quarters())
    stretched = TexturedMesh(mesh.vertices_V3 * [4, 2, 1] + 7, mesh.faces_F3, mesh.uvs_V2, mesh.texture_HW3)
    scaled = mesh_io.normalize(stretched, longest_side=0.8).vertices_V3
    np.testing.assert_allclose(scaled.max(axis=0), [0.4, 0.2, 0.0], atol=1e-6)
    np.testing.assert_allclose(scaled.min(axis=0), [-0.4, -0.2, 0.0], atol=1e-6)


@pytest.mark.skipif(not REAL.is_dir(), reason="collected meshes are not here")
def test_collected_meshes_load():
    paths = sorted((REAL / "cars" / "meshes").glob("*.glb"))[::20] + sorted((REAL / "hero").glob("*.glb"))
    for path in paths:
        mesh = mesh_io.load_textured_mesh(path)
        opened = trimesh.load_scene(path, process=False).to_geometry()
        np.testing.assert_allclose(np.ptp(mesh.vertices_V3, axis=0), opened.extents, atol=1e-5)
        assert len(mesh.faces_F3) == len(opened.faces)
