"""OBJ files as people have them: missing, absolute and outside texture paths, options, relative indices."""

import builtins
import io
import os
from pathlib import Path

import numpy as np
import pytest

from get3d_model import obj_ply
from get3d_model.mesh_io import load_textured_mesh
from get3d_model.obj_ply import obj_references
from get3d_model.png import fast_png
from tests.get3d_model.test_mesh_io import colour_at, quarters

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
FACES = "usemtl skin\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"
KD = (0.2, 0.6, 1.0)
KD_TEXEL = [51, 153, 255]


def write_obj(folder: Path, map_kd: str, library: str = "square.mtl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "square.obj").write_text(f"mtllib {library}\n" + SQUARE + FACES)
    (folder / "square.mtl").write_text(f"newmtl skin\nKd {KD[0]} {KD[1]} {KD[2]}\nmap_Kd {map_kd}\n")
    return folder / "square.obj"


def texel(path: Path, root: Path | None = None, point=(0.2, 0.7, 0)) -> tuple[list[int], list[str]]:
    """The colour of the top left quarter, red where the picture is found, and the notes."""
    notes: list[str] = []
    return colour_at(load_textured_mesh(path, root, notes), point).tolist(), notes


def test_a_missing_texture_leaves_the_material_colour_and_a_note(tmp_path):
    colour, notes = texel(write_obj(tmp_path, "skins/gone.png"))
    np.testing.assert_allclose(colour, KD_TEXEL, atol=1)
    assert notes == ["the texture 'skins/gone.png' of material 'skin' is not there; its Kd is used"]


@pytest.mark.parametrize(
    "reference",
    [
        "/home/somebody/Skin.png",
        "C:\\Users\\a b\\Skin.png",
        "..\\..\\Skin.png",
        "../../Skin.png",
        "skin.PNG",
        '"Skin.png"',
    ],
)
def test_a_path_from_elsewhere_means_the_file_beside_the_obj(tmp_path, reference):
    path = write_obj(tmp_path / "car", reference)
    (tmp_path / "car" / "Skin.png").write_bytes(fast_png(quarters()))
    assert texel(path) == ([255, 0, 0], [])


@pytest.mark.parametrize("kind", ["absolute", "above", "library"])
def test_nothing_outside_is_opened(tmp_path, monkeypatch, kind):
    outside = tmp_path / "secret.png"
    outside.write_bytes(fast_png(quarters()))
    (tmp_path / "secret.mtl").write_text("newmtl skin\nKd 1 0 0\n")
    reference = {"absolute": str(outside), "above": "../secret.png", "library": "gone.png"}[kind]
    path = write_obj(tmp_path / "car", reference, "../secret.mtl" if kind == "library" else "square.mtl")
    opened = []
    real = builtins.open

    def spy(file, *args, **kwargs):
        opened.append(os.path.abspath(str(file)))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", spy)
    monkeypatch.setattr(io, "open", spy)
    colour, notes = texel(path)
    assert len(notes) == 1 and colour != [255, 0, 0]
    assert opened and not [name for name in opened if "secret" in name]


def test_shapenet_names_pictures_beside_the_models_folder(tmp_path):
    path = write_obj(tmp_path / "02958343" / "1a" / "models", "../images/texture0.png")
    (tmp_path / "02958343" / "1a" / "images").mkdir()
    (tmp_path / "02958343" / "1a" / "images" / "texture0.png").write_bytes(fast_png(quarters()))
    assert texel(path, tmp_path) == ([255, 0, 0], [])
    # Alone, the file may not leave its own folder.
    assert len(texel(path)[1]) == 1
    assert obj_references(path, tmp_path).files["../images/texture0.png"].name == "texture0.png"


def test_missing_library_and_materials_are_grey(tmp_path):
    (tmp_path / "a.obj").write_text("mtllib gone.mtl\n" + SQUARE + FACES)
    colour, notes = texel(tmp_path / "a.obj")
    assert colour == [199, 199, 199] and notes == [
        "the material file 'gone.mtl' is not there; its surfaces are grey"
    ]
    path = write_obj(tmp_path, "gone.png")
    path.write_text(path.read_text().replace("usemtl skin", "usemtl other"))
    colour, notes = texel(path)
    assert colour == [199, 199, 199] and any("'other'" in note for note in notes)


def test_texture_options(tmp_path):
    path = write_obj(tmp_path, "-clamp off -s 0.5 0.5 1 -o 0.5 0.0 -mm 0 1 my skin.png")
    (tmp_path / "my skin.png").write_bytes(fast_png(quarters()))
    # Half of the uvs, moved to the right: the lower right quarter, which is white, covers everything.
    assert [texel(path, point=(x, y, 0))[0] for x in (0.1, 0.9) for y in (0.1, 0.9)] == [[255] * 3] * 4


def test_a_texture_without_coordinates(tmp_path):
    path = write_obj(tmp_path, "skin.png")
    (tmp_path / "skin.png").write_bytes(fast_png(quarters()))
    path.write_text("mtllib square.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nusemtl skin\nf 1 2 3\n")
    colour, notes = texel(path, point=(0.6, 0.3, 0))
    np.testing.assert_allclose(colour, KD_TEXEL, atol=1)
    assert notes == ["surfaces of material 'skin' have no texture coordinates; its Kd is used"]


def test_relative_indices(tmp_path):
    write_obj(tmp_path, "skin.png")
    (tmp_path / "skin.png").write_bytes(fast_png(quarters()))
    first = "v 0 0 0\nv 1 0 0\nv 1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvn 0 0 1\nusemtl skin\n"
    text = "mtllib square.mtl\n" + first + "f -3/-3/-1 -2/-2/-1 -1/-1/-1\n"
    (tmp_path / "b.obj").write_text(text + "v 0 1 0\nvt 0 1\nf -4/-4/-1 -2/-2/-1 -1/-1/-1\n")
    assert texel(tmp_path / "b.obj") == ([255, 0, 0], [])
    assert texel(tmp_path / "b.obj", point=(0.9, 0.1, 0))[0] == [255, 255, 255]


def test_where_a_name_leads(tmp_path):
    folder = tmp_path / "a" / "b"
    assert obj_ply.inside(tmp_path, folder, "../c/./x.png") == tmp_path / "a" / "c" / "x.png"
    for reference in ("/etc/passwd", "../../../x", "C:/x", "http://a/b", "..\\..\\..\\x", "x\0y"):
        assert obj_ply.inside(tmp_path, folder, reference) is None
    assert obj_ply.inside(tmp_path / "a", folder, "../../ab/x") is None
