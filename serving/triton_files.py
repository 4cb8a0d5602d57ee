"""Finds the Triton server inside the installed nvidia-pytriton wheel and lays out what it needs to start."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from get3d_model.errors import InputError

WHEEL = "nvidia-pytriton"
NUMPY_BELOW = 2
"""The wheel asks for it, but pip only warns when another package replaces NumPy later."""


@dataclass(frozen=True)
class TritonFiles:
    """binary: the server. backends: the wheel's backend folder. stub: runs Python models for this Python.
    libraries: folders for LD_LIBRARY_PATH.
    """

    binary: Path
    backends: Path
    stub: Path
    libraries: tuple[Path, ...]


def find_triton() -> TritonFiles:
    """Looks into the installed wheel, without importing it. Raises InputError where it, or its NumPy, is missing."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the {WHEEL} package, which carries the Triton server, is missing; run: pip install {WHEEL}"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    root = package / "tritonserver"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    files = TritonFiles(
        binary=root / "bin" / "tritonserver",
        backends=root / "backends",
        stub=root / "python_backend_stubs" / python / "triton_python_backend_stub",
        libraries=(package.parent / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR"))),
    )
    for path in (files.binary, files.backends, files.stub):
        if not path.exists():
            raise InputError(
                f"{path}: missing from the {WHEEL} package; run: pip install --force-reinstall {WHEEL}"
            )
    numpy = importlib.metadata.version("numpy")
    if int(numpy.split(".")[0]) >= NUMPY_BELOW:
        # The model loads and warms up then, and its process dies at the first answer.
        raise InputError(
            f"NumPy {numpy} is installed; the {WHEEL} server's model processes crash with NumPy {NUMPY_BELOW} and later; "
            f"run: pip install 'numpy<{NUMPY_BELOW}'"
        )
    return files


def make_backend_directory(files: TritonFiles, folder: Path) -> Path:
    """Copies the wheel's backends into `folder` with the stub of this Python among them (10 MB, no links)."""
    shutil.copytree(files.backends, folder, ignore=shutil.ignore_patterns("__pycache__"))
    stub = folder / "python" / files.stub.name
    shutil.copyfile(files.stub, stub)
    stub.chmod(0o755)
    return folder


def server_environment(files: TritonFiles) -> dict[str, str]:
    """The environment of the server. Its Python stub finds this interpreter's packages through PATH only."""
    libraries = [str(path) for path in files.libraries] + [os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }
