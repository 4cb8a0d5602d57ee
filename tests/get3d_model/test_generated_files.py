"""Generated meshes as files: what other programs read from them."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from get3d_model.errors import InputError
from get3d_model.mesh_io import load_textured_mesh, mesh_bytes, mesh_topology, save_mesh
from get3d_model.rendering.grid_atlas import GridAtlas
from get3d_model.rendering.texture_bake import BakeJob, bake_textures
from get3d_model.rendering.uv_atlas import XatlasAtlas
from get3d_model.types import ColoredMesh, Mesh, TexturedMesh
from tests.get3d_model.rendering import atlas_shapes as shapes

ATLASES = {"fast": GridAtlas(), "xatlas": XatlasAtlas()}
# Runs inside Blender: what it made of the file named last on its command line, as JSON between two marks.
LOOK_WITH_BLENDER = """
import bpy, json, sys
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=sys.argv[-1])
mesh = next(o for o in bpy.data.objects if o.type == "MESH").data
found = {"polygons": len(mesh.polygons), "uv_layers": len(mesh.uv_layers)}
found["colors"] = [list(a.data[0].color_srgb) for a in mesh.color_attributes]
found["images"] = [list(i.size) for i in bpy.data.images]
found["pixel"] = [list(i.pixels[:3]) for i in bpy.data.images]
found["corner"] = list(mesh.vertices[mesh.polygons[0].vertices[0]].co)
print("<<<" + json.dumps(found) + ">>>")
"""


def field(points_T3: torch.Tensor) -> torch.Tensor:
    return torch.sin(points_T3 * 9)


def textured(mesh: Mesh, atlas: str = "fast", size: int = 128) -> TexturedMesh:
    job = BakeJob(mesh, size, field)
    return bake_textures(ATLASES[atlas], [job], torch.device("cpu"), 1)[0]


def colored(mesh: Mesh) -> ColoredMesh:
    colors_V3 = ((np.sin(mesh.vertices_V3 * 9) + 1) * 127.5).round().astype(np.uint8)
    return ColoredMesh(mesh.vertices_V3, mesh.faces_F3, colors_V3, {"seed": 7})


def read(content: bytes, file_type: str = "glb") -> trimesh.Trimesh:
    return trimesh.load(io.BytesIO(content), file_type=file_type, force="mesh", process=False)


@pytest.mark.parametrize("shape", [shapes.vehicle, shapes.torus, shapes.crumbs])
@pytest.mark.parametrize("atlas", ATLASES)
def test_what_is_watertight_stays_so(atlas: str, shape) -> None:
    mesh = shape(24) if shape is not shapes.torus else shape()
    before = mesh_topology(mesh)
    loaded = read(mesh_bytes(textured(mesh, atlas), "glb"))
    after = mesh_topology(Mesh(np.asarray(loaded.vertices, np.float32), np.asarray(loaded.faces, np.int32)))
    assert before.watertight and after == before
    read_again = read(mesh_bytes(colored(mesh), "glb"))
    assert read_again.is_watertight and len(read_again.faces) == len(mesh.faces_F3)


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_textured_glb_in_trimesh(image_format: str) -> None:
    mesh = textured(shapes.sphere(2))
    loaded = read(mesh_bytes(mesh, "glb", image_format))
    assert loaded.visual.material.baseColorTexture.size == (128, 128)
    picture = np.asarray(loaded.visual.material.baseColorTexture.convert("RGB"), int)
    assert np.abs(picture - mesh.texture_HW3).mean() < (0.001 if image_format == "png" else 4.0)
    np.testing.assert_allclose(loaded.visual.uv, mesh.uvs_V2, atol=1e-6)


@pytest.mark.parametrize("file_format", ["glb", "ply"])
def test_vertex_colors_in_trimesh_and_in_our_reader(file_format: str, tmp_path: Path) -> None:
    mesh = colored(shapes.sphere(3))
    content = mesh_bytes(mesh, file_format)
    assert content == mesh_bytes(mesh, file_format)
    scene = trimesh.load_scene(io.BytesIO(content), file_type=file_format, process=False)
    visual = next(iter(scene.geometry.values())).visual
    # Beside a material trimesh keeps them as an attribute, here of 16 bits.
    colors_V4 = visual.vertex_attributes["color"] / 257 if file_format == "glb" else visual.vertex_colors
    linear_V3 = np.where(
        mesh.colors_V3 <= 10, mesh.colors_V3 / 255 / 12.92, ((mesh.colors_V3 / 255 + 0.055) / 1.055) ** 2.4
    )
    # glTF's COLOR_0 is linear light; PLY's colours are the bytes themselves.
    expected_V3 = linear_V3 * 255 if file_format == "glb" else mesh.colors_V3
    assert np.abs(colors_V4[:, :3].astype(float) - expected_V3).max() <= (
        1.0 if file_format == "glb" else 0.0
    )
    save_mesh(mesh, tmp_path / f"ball.{file_format}")
    loaded = load_textured_mesh(tmp_path / f"ball.{file_format}")
    points = loaded.vertices_V3[loaded.faces_F3].mean(axis=1)
    uvs = loaded.uvs_V2[loaded.faces_F3].mean(axis=1)
    error = shapes.bilinear(loaded.texture_HW3, uvs) - (np.sin(points * 9) + 1) * 127.5
    assert np.abs(error).mean() < 4.0
    if file_format == "glb":
        assert loaded.extras == {"seed": 7}


def test_vertex_colors_are_no_obj(tmp_path: Path) -> None:
    for call in (lambda m: mesh_bytes(m, "obj"), lambda m: save_mesh(m, tmp_path / "a.obj")):
        with pytest.raises(
            InputError, match="vertex colours cannot be written as 'obj'; choose one of glb, ply"
        ):
            call(colored(shapes.sphere(1)))


def test_an_empty_mesh_with_vertex_colors() -> None:
    empty = ColoredMesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 3), np.uint8))
    for file_format in ("glb", "ply"):
        assert len(mesh_bytes(empty, file_format)) > 50


def blender_command() -> list[str] | None:
    """How to run a script in Blender: the program, or the module in this interpreter or in that of BLENDER_PYTHON."""
    if python := os.environ.get("BLENDER_PYTHON"):
        return [python]
    if importlib.util.find_spec("bpy"):
        return [sys.executable]
    program = shutil.which("blender")
    return (
        [program, "--background", "--factory-startup", "--python-exit-code", "1", "--python"]
        if program
        else None
    )


def look_with_blender(path: Path, script: Path) -> dict:
    command = blender_command()
    if command is None:
        pytest.skip("NOT RUN: Blender is not installed (no blender on PATH, no bpy, no BLENDER_PYTHON)")
    script.write_text(LOOK_WITH_BLENDER)
    rest = ["--", str(path)] if "--background" in command else [str(path)]
    done = subprocess.run([*command, str(script), *rest], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout.partition("<<<")[2].partition(">>>")[0])


@pytest.mark.parametrize("atlas", ATLASES)
def test_textured_glb_in_blender(atlas: str, tmp_path: Path) -> None:
    mesh = textured(shapes.sphere(2), atlas)
    save_mesh(mesh, tmp_path / "mesh.glb")
    found = look_with_blender(tmp_path / "mesh.glb", tmp_path / "look.py")
    assert found["polygons"] == len(mesh.faces_F3) and found["uv_layers"] == 1
    assert found["images"] == [[128, 128]] and found["colors"] == []
    # Blender's pictures begin at the bottom; its z is up.
    np.testing.assert_allclose(np.array(found["pixel"][0]) * 255, mesh.texture_HW3[-1, 0], atol=1.0)
    x, y, z = mesh.vertices_V3[mesh.faces_F3[0, 0]]
    np.testing.assert_allclose(found["corner"], [x, -z, y], atol=1e-5)


def test_vertex_colored_glb_in_blender(tmp_path: Path) -> None:
    mesh = colored(shapes.sphere(2))
    save_mesh(mesh, tmp_path / "mesh.glb")
    found = look_with_blender(tmp_path / "mesh.glb", tmp_path / "look.py")
    assert found["polygons"] == len(mesh.faces_F3) and found["images"] == []
    (color,) = found["colors"]
    # One colour per vertex or per corner, by Blender's version: the first vertex or the first corner.
    first = {tuple(mesh.colors_V3[0]), tuple(mesh.colors_V3[mesh.faces_F3[0, 0]])}
    assert any(np.abs(np.array(color[:3]) * 255 - one).max() < 2.0 for one in first)
