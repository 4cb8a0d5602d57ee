"""Samples meshes from a running server and opens them in trimesh, without a file between.

    python docs/examples/open_in_trimesh.py --url localhost:8001 --seed 3 --count 2 --out scene.glb

Needs the package and a server: `get3d serve --repository DIR`. `--show` opens trimesh's viewer (pip install "pyglet<2").
"""

from __future__ import annotations

import argparse
import io

import trimesh

from serving.client import Get3DClient
from serving.codec import SampleRequest, SampleResponse


def to_trimesh(response: SampleResponse) -> trimesh.Trimesh:
    """The textured mesh of a GLB answer: y up, about one unit long, texture in `visual.material`."""
    return trimesh.load(io.BytesIO(response.mesh), file_type="glb", force="mesh", process=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="localhost:8001")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2)
    parser.add_argument("--out", help="writes all of them, side by side, into one GLB")
    parser.add_argument("--show", action="store_true", help="opens a window")
    args = parser.parse_args()
    scene = trimesh.Scene()
    requests = [SampleRequest(seed, file_format="glb") for seed in range(args.seed, args.seed + args.count)]
    with Get3DClient(args.url) as client:
        client.wait_until_ready()
        for place, response in enumerate(client.sample_many(requests)):
            mesh = to_trimesh(response)
            # The server splits vertices along texture seams; merged by position they tell about the surface.
            surface = trimesh.Trimesh(mesh.vertices, mesh.faces)
            surface.merge_vertices(merge_tex=True, merge_norm=True)
            print(
                f"seed {response.metadata.seed}: {len(mesh.faces)} triangles, "
                f"texture {mesh.visual.material.baseColorTexture.size}, watertight {surface.is_watertight}, "
                f"volume {surface.volume:.3f}"
            )
            scene.add_geometry(
                mesh, transform=trimesh.transformations.translation_matrix([1.2 * place, 0, 0])
            )
    if args.out:
        scene.export(args.out)
        print(args.out)
    if args.show:
        scene.show()


if __name__ == "__main__":
    main()
