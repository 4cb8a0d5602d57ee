"""The main job of `make demo`: `dvc repro`, then the real Triton server, eight samples over gRPC, and the report."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

from get3d_model.config import load_config
from get3d_model.errors import InputError
from get3d_model.files import atomic_path
from pipelines import cli

PARAMS = Path("params.yaml")
OUTPUTS = Path("outputs")
SAMPLES = 8


def set_mesh_folder(params: Path, folder: str) -> None:
    """Points `meshes.path` of a params file at `folder`; comments and order stay. Untouched when it already does.

    Raises InputError when the folder is neither there nor the one that the pipeline makes itself.
    """
    made_by_pipeline = "data/meshes"
    if folder != made_by_pipeline and not Path(folder).is_dir():
        raise InputError(
            f"MESHES={folder}: no such folder; give a folder with .glb, .gltf, .obj or .ply files"
        )
    yaml = YAML()
    # A long path stays on its line.
    yaml.width = 1 << 16
    # As it stands in the file; ruamel would leave the value out.
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    document = yaml.load(params.read_text())
    if document["meshes"]["path"] != folder:
        document["meshes"]["path"] = folder
        with atomic_path(params) as temporary:
            yaml.dump(document, temporary)


def run(args: argparse.Namespace) -> None:
    started = time.monotonic()
    set_mesh_folder(PARAMS, args.meshes)
    config = load_config(PARAMS)
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    dvc = subprocess.run([sys.executable, "-m", "dvc", "repro", "export"], env=environment, check=False)
    if dvc.returncode:
        raise InputError(
            "dvc repro did not finish (see above); fix it and run the same command again, it continues"
        )

    from serving.server import TritonServer

    samples = OUTPUTS / "samples"
    with TritonServer(OUTPUTS / "repository") as server:
        command = [
            "sample",
            "--url",
            server.grpc_url,
            "--seed",
            "0",
            "--count",
            str(SAMPLES),
            "--out",
            str(samples),
        ]
        command += ["--texture-resolution", str(config.serving.texture_resolution)]
        command += ["--truncation-psi", str(config.serving.truncation_psi)]
        if cli.main(command):
            raise InputError("sampling from the server failed (see above)")
    command = ["report", "--config", str(PARAMS), "--data", "data/rendered", "--meshes", config.meshes.path]
    command += [
        "--training",
        str(OUTPUTS / "train"),
        "--metrics",
        str(OUTPUTS / "evaluation" / "metrics.json"),
    ]
    command += ["--samples", str(samples), "--out", str(OUTPUTS)]
    if cli.main(command):
        raise InputError("the report failed (see above)")
    print(f"demo finished in {time.monotonic() - started:.0f} s: open {OUTPUTS / 'report.html'}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.demo", description=__doc__)
    parser.add_argument(
        "--meshes", default="data/meshes", help="folder with meshes (default: procedural vehicles)"
    )
    args = parser.parse_args(argv)
    try:
        run(args)
    except InputError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("demo: interrupted; run the same command again, it continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
