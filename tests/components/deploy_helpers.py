"""Exported repositories whose model needs no torch, so that versions load in a fifth of a second; and clients that ask all
the time. Triton, its model processes, gRPC and the files are real; only the networks are not. tests/e2e has those.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from components.deploy.main import REPORT_FILE
from components.deploy.main import main as run_deploy
from components.deploy.served import ServedRepository
from components.deploy.store import open_store
from get3d_model.files import write_json_atomic
from get3d_model.mesh_io import mesh_bytes
from get3d_model.types import TexturedMesh
from serving.client import Get3DClient
from serving.codec import MODEL_NAME, SampleRequest
from serving.reference import write_reference
from serving.repository import CARD_FILE, CONFIG_FILE, Defaults, ModelCard, file_hashes, render_config
from serving.server import TritonServer

REQUEST = SampleRequest(0, 0.7, 64, "glb")
MODEL = """
import json, os, time
from pathlib import Path
import triton_python_backend_utils as pb_utils
from serving.codec import SampleMetadata, SampleResponse, encode_responses

class TritonPythonModel:
    def initialize(self, args):
        self.version = args["model_version"]
        folder = Path(args["model_repository"]) / self.version
        self.mesh = (folder / "weights.glb").read_bytes()
        assert self.mesh[:4] == b"glTF", "the weights are broken"
        ON_LOAD

    def execute(self, requests):
        time.sleep(0.02)
        ON_EXECUTE
        responses = []
        for request in requests:
            seed = int(pb_utils.get_input_tensor_by_name(request, "seed").as_numpy()[0, 0])
            metadata = SampleMetadata(seed, 0.7, 64, "glb", 8, 12, False, len(self.mesh), "stand-in", self.version, 0.0, "", 1)
            arrays = encode_responses([SampleResponse(self.mesh, metadata)])
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(n, a) for n, a in arrays.items()]))
        return responses
"""
BAD = ("broken_weights", "wrong_reference", "missing_file", "bad_config", "crash_on_load", "crash_on_use")
ON_USE = "self.used = getattr(self, 'used', 0) + 1; self.used < 2 or os._exit(3)"
"""Survives the warm-up."""


def box(number: int) -> bytes:
    """A GLB that differs in size and colour from those of other numbers."""
    corners_83 = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
    faces_F3 = np.array(
        [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6]]
    )
    colour_3 = np.random.default_rng(number).integers(0, 256, 3)
    texture_HW3 = np.broadcast_to(colour_3, (8, 8, 3)).astype(np.uint8).copy()
    vertices_V3 = corners_83 * np.float32([0.3, 0.2, 0.3 + 0.02 * (number % 10)])
    mesh = TexturedMesh(vertices_V3, faces_F3.astype(np.int32), np.full((8, 2), 0.5, np.float32), texture_HW3)
    return mesh_bytes(mesh, "glb")


def write_export(repository: Path, number: int, bad: str = "", version: int = 1) -> Path:
    """An exported repository with one version; `number` tells contents apart. bad: one of BAD."""
    folder = repository / MODEL_NAME / str(version)
    folder.mkdir(parents=True)
    weights = b"no weights" if bad == "broken_weights" else box(number)
    (folder / "weights.glb").write_bytes(weights)
    on_load = "os._exit(3)" if bad == "crash_on_load" else "pass"
    on_execute = ON_USE if bad == "crash_on_use" else "pass"
    (folder / "model.py").write_text(MODEL.replace("ON_LOAD", on_load).replace("ON_EXECUTE", on_execute))
    card = ModelCard(
        name="stand-in", checkpoint_sha256=f"{number:064x}", checkpoint={}, config={}, defaults=Defaults(0.7, 64),
        max_batch_size=8, package_version="0", files=file_hashes(folder),
    )  # fmt: skip
    write_json_atomic(folder / CARD_FILE, card.to_json())
    write_reference(folder, REQUEST, box(number + (1 if bad == "wrong_reference" else 0)))
    if bad == "missing_file":
        (folder / "weights.glb").unlink()
    config = render_config(8)
    if bad == "bad_config":
        config = config.replace('backend: "python"', 'backend: "of_another_kind"')
        assert "of_another_kind" in config
    (folder.parent / CONFIG_FILE).write_text(config)
    return repository


class Load:
    """Clients that sample all the time; every answer and every failure is kept."""

    def __init__(self, url: str, concurrency: int = 8, request: SampleRequest = REQUEST) -> None:
        self.url = url
        self.request = request
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._lock, self._over = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._sample, daemon=True) for _ in range(concurrency)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        while sum(self.answers.values()) < len(self._threads) and not self.failures:
            time.sleep(0.02)
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _sample(self) -> None:
        with Get3DClient(self.url, timeout_s=60.0) as client:
            while not self._over.is_set():
                try:
                    response = client.sample(self.request)
                except Exception as error:
                    with self._lock:
                        self.failures.append(f"{type(error).__name__}: {error}")
                    time.sleep(0.05)
                else:
                    with self._lock:
                        self.answers[response.metadata.version] += 1


KILLED = """
import os, sys
from components.deploy.main import main
from components.deploy.store import FolderStore
from serving.replica import Replica
kind, at = sys.argv[1].split(":")
calls = 0
def watch(owner, name):
    original = getattr(owner, name)
    def wrapped(*arguments, **options):
        global calls
        calls += kind in ("any", name)
        if calls == int(at):
            os.kill(os.getpid(), 9)
        return original(*arguments, **options)
    setattr(owner, name, wrapped)
for owner, names in ((FolderStore, ("write", "upload", "copy", "remove")), (Replica, ("load", "unload", "sample"))):
    for name in names:
        watch(owner, name)
sys.exit(main(sys.argv[2:]))
"""


class Deploys:
    """`get3d deploy` with this target and these servers."""

    def __init__(self, target: Path, servers: list[TritonServer], tmp_path: Path) -> None:
        self.arguments = ["--target", str(target), "--url", ",".join(s.grpc_url for s in servers)]
        self.out = tmp_path / "out"
        self.tmp_path = tmp_path
        self.served = ServedRepository(open_store(str(target)))

    def __call__(self, *arguments: str) -> int:
        return run_deploy([*self.arguments, "--out", str(self.out), *arguments])

    def export(self, number: int, bad: str = "") -> str:
        return str(
            write_export(self.tmp_path / f"export-{number}-{len(list(self.tmp_path.iterdir()))}", number, bad)
        )

    @property
    def report(self) -> dict:
        return json.loads((self.out / REPORT_FILE).read_text())

    def killed(self, where: str, *arguments: str) -> bool:
        """Runs as a process of its own that is killed before its n-th call of a kind ("load:3", "any:7"); False: it
        came to its end before."""
        command = [sys.executable, "-c", KILLED, where, *self.arguments, "--out", str(self.out), *arguments]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
        assert done.returncode in (0, -signal.SIGKILL)
        return done.returncode != 0


def answers(servers: list[TritonServer]) -> list[bytes]:
    meshes = []
    for server in servers:
        with Get3DClient(server.grpc_url, timeout_s=5.0) as client:
            meshes.append(client.sample(REQUEST).mesh)
    return meshes
