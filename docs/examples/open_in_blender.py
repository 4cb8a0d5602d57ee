"""Opens sampled meshes in Blender, side by side on a floor with light and a camera, and renders a picture.

    get3d sample --url localhost:8001 --count 3 --out samples
    blender --background --python docs/examples/open_in_blender.py -- samples/*.glb --out picture.png
    python docs/examples/open_in_blender.py samples/*.glb --out picture.png --save scene.blend    (Python with bpy)

Without --background Blender stays open with the scene. Needs Blender 4 and nothing of this project.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import bpy
from mathutils import Vector

SPACING = 1.15


def open_mesh(path: Path, place: float) -> list[bpy.types.Object]:
    """Imports a GLB and puts it on the floor at x = place; Blender turns glTF's y up into its own z up."""
    bpy.ops.import_scene.gltf(filepath=str(path))
    objects = [item for item in bpy.context.selected_objects if item.type == "MESH"]
    corners = [item.matrix_world @ Vector(corner) for item in objects for corner in item.bound_box]
    lowest = min(corner.z for corner in corners)
    for item in objects:
        item.location += Vector((place, 0.0, -lowest))
    return objects


def add_surroundings(width: float) -> None:
    """A floor, a large soft light and a camera that sees `width` units along x from the front and above."""
    bpy.ops.mesh.primitive_plane_add(size=50.0)
    floor = bpy.data.materials.new("floor")
    floor.diffuse_color = (0.8, 0.8, 0.8, 1.0)
    bpy.context.object.data.materials.append(floor)
    bpy.ops.object.light_add(
        type="AREA", location=(-2.0, -3.0, 4.0), rotation=(math.radians(40), 0, math.radians(-30))
    )
    bpy.context.object.data.energy = 180.0
    bpy.context.object.data.size = 3.0
    world = bpy.data.worlds.new("world")
    world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.9, 0.95, 1.0, 1.0)
    world.node_tree.nodes["Background"].inputs["Strength"].default_value = 0.5
    bpy.context.scene.world = world
    target, distance = Vector((0.0, 0.0, 0.2)), 1.15 * width + 0.8
    location = target + distance * Vector((0.35, -0.85, 0.4)).normalized()
    bpy.ops.object.camera_add(
        location=location, rotation=(target - location).to_track_quat("-Z", "Y").to_euler()
    )
    bpy.context.scene.camera = bpy.context.object


def main() -> None:
    # Blender hands over what comes after "--"; a plain Python gives everything.
    argv = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("meshes", type=Path, nargs="+", help=".glb files")
    parser.add_argument("--out", type=Path, help="picture to render")
    parser.add_argument("--save", type=Path, help="Blender file to write")
    parser.add_argument("--samples", type=int, default=32, help="of Cycles, per pixel")
    args = parser.parse_args(argv)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    for index, path in enumerate(args.meshes):
        open_mesh(path, SPACING * (index - (len(args.meshes) - 1) / 2))
    add_surroundings(SPACING * len(args.meshes))
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = args.samples
    scene.render.resolution_x, scene.render.resolution_y = 960, 480
    scene.view_settings.view_transform = "Standard"
    if args.save:
        bpy.ops.wm.save_as_mainfile(filepath=str(args.save.resolve()))
    if args.out:
        scene.render.filepath = str(args.out.resolve())
        bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    main()
