"""The version of a step's code: a hash of all of our sources that the step can reach by imports.

Caches are keyed by it, so a step runs again when its own code changed, and not when another's did. It is read from
the files that are installed, so that it is true of the image a pod really runs.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("get3d_model", "monitoring", "serving", "components")
# Files that a module reads at run time, without importing them.
READ_BY = {
    "serving.repository": ("serving/model_repository",),
    "components.evaluate.page": ("components/evaluate/evaluation.html.j2",),
    "components.export.main": ("components/export/step.py", "components/export/credits.md"),
    # Blender runs it.
    "components.render.blender.client": ("components/render/blender/driver.py",),
    "components.report.page": ("components/report/report.html.j2",),
    "components.report.page_parts": ("components/report/style.css.j2",),
}


def code_version(*modules: str) -> str:
    """16 hexadecimal digits over the sources of these modules and of all of ours they import, also inside functions."""
    digest = hashlib.sha256()
    for path in _files(modules):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
        digest.update(path.read_bytes())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _files(modules: tuple[str, ...]) -> list[Path]:
    seen: set[str] = set()
    waiting = list(modules)
    files: set[Path] = set()
    while waiting:
        module = waiting.pop()
        path = _source(module)
        if module in seen or path is None:
            continue
        seen.add(module)
        files.add(path)
        waiting += _imported(path)
        # A module's packages are imported with it.
        waiting += [".".join(module.split(".")[:end]) for end in range(1, module.count(".") + 1)]
        for data in READ_BY.get(module, ()):
            read = (ROOT / data).rglob("*") if (ROOT / data).is_dir() else [ROOT / data]
            files |= {f for f in read if f.is_file() and "__pycache__" not in f.parts}
    return sorted(files)


@functools.lru_cache(maxsize=1024)
def _imported(path: Path) -> tuple[str, ...]:
    """Dotted names that a file may import; some of them are functions and not modules."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in found if name.partition(".")[0] in PACKAGES)


def _source(module: str) -> Path | None:
    """The file of one of our modules or packages; None for other names."""
    base = ROOT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None
