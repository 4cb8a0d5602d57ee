"""Where Blender is on this machine, which version, and how to run a script in it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from get3d_model.errors import InputError

HOW_TO_GET_IT = (
    "`python3.11 -m venv DIR && DIR/bin/pip install bpy==4.5.*` and BLENDER_PYTHON=DIR/bin/python,"
    " or a Blender from blender.org and BLENDER=its path"
)
PROBE_TIMEOUT_S = 60.0
# What the driver and the recipe need; older ones name things differently.
OLDEST_VERSION = (3, 0)


@dataclass(frozen=True)
class BlenderInstall:
    """command: starts a script, whose path comes next, then `--` and its arguments. where: for people."""

    command: tuple[str, ...]
    version: str
    where: str


def find_blender(given: str | None = None, environment: Mapping[str, str] | None = None) -> BlenderInstall:
    """The first of: `given`, BLENDER_PYTHON, BLENDER, the module `bpy` in this Python, `blender` on the PATH.

    given: the program, or a Python that has `bpy`. What is named and does not work is an error; nothing else is
    tried then. Raises InputError with one line that says how to get Blender.
    """
    for what, path in _candidates(given, os.environ if environment is None else environment):
        return _probe(what, path)
    raise InputError(f"Blender is not installed (no `blender`, no Python with `bpy`); {HOW_TO_GET_IT}")


def _candidates(given: str | None, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if given:
        yield "--blender", given
    for name in ("BLENDER_PYTHON", "BLENDER"):
        if environment.get(name):
            yield name, environment[name]
    if importlib.util.find_spec("bpy") is not None:
        yield "bpy", sys.executable
    if program := shutil.which("blender", path=environment.get("PATH")):
        yield "PATH", program


def _probe(what: str, path: str) -> BlenderInstall:
    program = shutil.which(path)
    if program is None:
        raise InputError(f"{what}: there is no program {path}; {HOW_TO_GET_IT}")
    python = os.path.basename(program).startswith("python")
    arguments = ["-c", "import bpy; print('Blender', bpy.app.version_string)"] if python else ["--version"]
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{what}: {path} does not answer ({error}); {HOW_TO_GET_IT}") from error
    words = next((line.split() for line in done.stdout.splitlines() if line.startswith("Blender ")), [])
    if done.returncode or len(words) < 2:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise InputError(f"{what}: {path} is no working Blender ({last}); {HOW_TO_GET_IT}")
    version = words[1]
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise InputError(
            f"{what}: {path} is Blender {version}, {oldest} is the oldest that will do; {HOW_TO_GET_IT}"
        )
    if python:
        return BlenderInstall((program,), version, f"bpy of {program}")
    headless = (program, "--background", "--factory-startup", "--python-exit-code", "1", "--python")
    return BlenderInstall(headless, version, program)
