"""Runs inside Blender's Python: renders meshes until its input ends. Started by `client.py`, never imported.

One JSON object per line comes in on stdin; one goes out on stdout behind `MARK`. Everything else that Blender
says goes to stderr. No imports of this project: Blender brings a Python of its own.

The scene: one large disk of light above the object, no other light, transparent film. Blender's z is up, glTF's and
the cameras' y is; the importer turns meshes by `UP`, and so are cameras here.
"""

import ctypes
import json
import math
import os
import signal
import sys
import traceback

import bpy
import mathutils

MARK = "get3d-blender "
PR_SET_PDEATHSIG = 1
SENSOR_MM = 32.0
# Wide enough that upright surfaces are lit too.
LIGHT_DIAMETER, LIGHT_HEIGHT = 10.0, 2.0
# As in the project's own renderer: surfaces that meet at a sharper angle than this get an edge.
CREASE_ANGLE_RAD = math.radians(40.0)
UP = mathutils.Matrix(((1, 0, 0, 0), (0, 0, -1, 0), (0, 1, 0, 0), (0, 0, 0, 1)))


def set_engine(scene, engine, samples):
    """engine: "cycles" or "eevee"."""
    if engine == "cycles":
        scene.render.engine = "CYCLES"
        scene.cycles.device = "CPU"
        scene.cycles.samples = samples
        scene.cycles.seed = 0
        import _cycles  # there once the engine is chosen

        if not _cycles.with_openimagedenoise:
            raise RuntimeError(
                "it was built without OpenImageDenoise; take the package bpy, or --engine eevee"
            )
        scene.cycles.denoiser = "OPENIMAGEDENOISE"
        scene.cycles.use_denoising = True
    else:
        try:
            scene.render.engine = "BLENDER_EEVEE_NEXT"  # its name in 4.2 to 4.5
        except TypeError:
            scene.render.engine = "BLENDER_EEVEE"
        scene.eevee.taa_render_samples = samples


def make_scene(engine, samples, threads):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    set_engine(scene, engine, samples)
    render = scene.render
    render.threads_mode, render.threads = "FIXED", threads
    render.resolution_percentage = 100
    render.film_transparent = True
    render.dither_intensity = 0.0  # noise that a picture for people gets
    # Kept data would save little, and now and then a mesh was drawn with the texture of the one before.
    render.use_persistent_data = False
    render.image_settings.file_format = "PNG"
    render.image_settings.color_mode = "RGBA"
    render.image_settings.color_depth = "8"
    render.image_settings.compression = 15
    scene.display_settings.display_device = "sRGB"
    scene.view_settings.view_transform = "Standard"
    scene.view_settings.look = "None"
    scene.world = bpy.data.worlds.new("black")
    scene.world.use_nodes = True
    scene.world.node_tree.nodes["Background"].inputs["Strength"].default_value = 0.0

    light = bpy.data.lights.new("sky", "AREA")
    light.shape, light.size = "DISK", LIGHT_DIAMETER
    # Such that white at the origin that faces the light appears as 1: the disk's radiance is power / (pi area), and
    # of the light that a whole sky of this radiance gave, R^2 / (R^2 + h^2) arrives.
    radius = LIGHT_DIAMETER / 2
    share = radius**2 / (radius**2 + LIGHT_HEIGHT**2)
    light.energy = math.pi * (math.pi * radius**2) / share
    lamp = bpy.data.objects.new("sky", light)
    lamp.location = (0.0, 0.0, LIGHT_HEIGHT)  # shines down
    scene.collection.objects.link(lamp)

    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.sensor_fit, camera.data.sensor_width = "HORIZONTAL", SENSOR_MM
    camera.data.clip_start, camera.data.clip_end = 0.01, 1000.0
    scene.collection.objects.link(camera)
    scene.camera = camera
    return scene


def load_mesh(path):
    """Imports a GLB and shades it smooth, creases excepted. Returns the objects it made."""
    before = set(bpy.data.objects)
    bpy.ops.import_scene.gltf(filepath=path, merge_vertices=True)
    made = [thing for thing in bpy.data.objects if thing not in before]
    for thing in made:
        if thing.type != "MESH":
            continue
        mesh = thing.data
        if hasattr(mesh, "set_sharp_from_angle"):  # from 4.1 on
            mesh.shade_smooth()
            mesh.set_sharp_from_angle(angle=CREASE_ANGLE_RAD)
        else:
            mesh.polygons.foreach_set("use_smooth", [True] * len(mesh.polygons))
            mesh.use_auto_smooth, mesh.auto_smooth_angle = True, CREASE_ANGLE_RAD
    return made


def forget(things):
    for thing in things:
        bpy.data.objects.remove(thing, do_unlink=True)
    bpy.data.orphans_purge(do_local_ids=True, do_linked_ids=True, do_recursive=True)


def render_views(scene, request):
    """One PNG per camera; `cameras`: camera-to-world, y up, looking along -z, rows of rows."""
    scene.render.resolution_x = scene.render.resolution_y = request["resolution"]
    scene.camera.data.lens = request["lens_mm"]
    things = load_mesh(request["mesh"])
    try:
        for rows, path in zip(request["cameras"], request["pictures"], strict=True):
            scene.camera.matrix_world = UP @ mathutils.Matrix(rows)
            scene.render.filepath = path
            bpy.ops.render.render(write_still=True)
    finally:
        forget(things)
    return {"software": draws_in_software(scene)}


def draws_in_software(scene):
    """The name of the driver when Eevee's GPU is none; None otherwise. Known once something was rendered."""
    if scene.render.engine == "CYCLES":
        return None
    import gpu

    try:
        return gpu.platform.renderer_get() if gpu.platform.device_type_get() == "SOFTWARE" else None
    except (AttributeError, SystemError):  # it does not say
        return None


def main():
    arguments = sys.argv[sys.argv.index("--") + 1 :]
    parent, engine, samples, threads = int(arguments[0]), arguments[1], int(arguments[2]), int(arguments[3])
    # A hanging render would not notice that nobody waits for it any more.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    # Blender's own chatter must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content):
        answers.write(MARK + json.dumps(content) + "\n")
        answers.flush()

    try:
        scene = make_scene(engine, samples, threads)
    except Exception as error:
        answer({"error": str(error)})
        return
    answer({"version": bpy.app.version_string.split()[0]})  # without "LTS"
    for line in sys.stdin:
        try:
            answer(render_views(scene, json.loads(line)))
        except Exception as error:
            traceback.print_exc()
            answer({"error": " ".join(f"{type(error).__name__}: {error}".split())})


main()
