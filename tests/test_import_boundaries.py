"""Who may import whom: read from the source, imports inside functions too, then tried in fresh interpreters."""

from __future__ import annotations

import ast
import fnmatch
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A module imports only packages of its own line and of the lines before.
PACKAGES = ("get3d_model", "monitoring", "serving", "components", "pipelines")
# The same inside get3d_model. The lines with the longest names come first when a module is looked up.
LIBRARY = (
    "errors", "version", "limits", "files", "jit", "worker_threads", "parallel_for", "png", "entry_point", "settings", "transfer",
    "structures", "types", "decimation", "camera_settings", "evaluation_settings", "config", "cameras", "ops", "isosurface",
    "losses", "rendering.base", "mesh_topology", "alpha_cut", "texture_atlas", "image_codec", "gltf_compression", "gltf",
    "gltf_surface", "obj_ply", "mesh_io", "image_grid", "rendering", "data", "networks", "weights", "bundle",
    "published_file", "published_model", "generator", "latents", "programs", "recorded", "inference", "stable_sampler",
    "walks", "metrics", "training",
)  # fmt: skip
# Heavy or optional packages, and the modules that may import them (patterns of dotted names).
HEAVY = {
    "kfp": ("components.*.component", "pipelines.*"),
    "torchx": ("components.train.*",),
    "kubernetes": ("components.train.*",),
    "nvdiffrast": ("get3d_model.rendering.nvdiffrast_backend",),
    "kaolin": ("get3d_model.metrics.kaolin_backend",),
    "triton": ("get3d_model.ops.fused.*",),
    "tritonclient": ("serving.*",),
    "prometheus_client": ("monitoring.*",),
    "tensorboard": ("monitoring.*",),
    "trimesh": ("get3d_model.mesh_io",),
    "dvc": ("pipelines.*", "components.version.*", "components.data_pointer"),
    "ruamel": ("pipelines.*",),
    "torchvision": (),
    "torch_fidelity": ("get3d_model.metrics.second_opinion",),
    "onnxruntime": ("components.export.*",),
    "fast_simplification": ("get3d_model.decimation",),
    "deflate": ("get3d_model.png",),
    "zlib_ng": ("get3d_model.png",),
    "bpy": ("components.render.blender.driver",),
}
# What starts before torch is needed, or where it is not installed.
WITHOUT_TORCH = (
    "serving.codec", "serving.connection", "serving.client", "serving.async_client", "serving.probe", "serving.server",
    "serving.access", "serving.replica", "serving.reference", "serving.studio.*", "pipelines.cli",
    "get3d_model.config", "get3d_model.errors", "get3d_model.version", "get3d_model.files", "components.*.main",
    "components.*.interpolate", "components.*.perturb", "components.*.swap", "components.*.requests",
    "components.*.common", "components.*.component",
    "components.cluster_profile", "components.train.launch", "get3d_model.settings",
)  # fmt: skip
# What is made of kfp, and of nothing heavier.
WITH_KFP = (
    "components.*.component",
    "pipelines.placement",
    "pipelines.training_pipeline",
    "pipelines.compile",
    "pipelines.submit",
)
# These run inside Triton's model process, in Blender's Python, or where the Triton compiler is installed (on GPU machines), only.
NOT_IMPORTABLE = ("serving.model_repository.*", "get3d_model.ops.fused.*", "components.render.blender.driver")


@dataclass(frozen=True)
class Import:
    """`importer` (a dotted module) imports `imported` (a dotted name, perhaps of something in a module)."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def module_name(root: Path, path: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def modules(root: Path, packages: tuple[str, ...]) -> list[str]:
    return [
        module_name(root, path) for package in packages for path in sorted((root / package).rglob("*.py"))
    ]


def imports(root: Path, packages: tuple[str, ...]) -> Iterator[Import]:
    """Every import statement of the packages, wherever it stands, except those for type checkers alone."""
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            name = module_name(root, path)
            for node in ast.walk(ast.parse(path.read_text(), str(path))):
                if isinstance(node, ast.Import):
                    for alias in node.names:
                        yield Import(name, alias.name, node.lineno)
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{name}:{node.lineno}: relative import; write the whole name"
                    for alias in node.names:
                        # `from package import module` imports the module.
                        whole = f"{node.module}.{alias.name}"
                        is_module = (root / Path(*whole.split("."))).with_suffix(".py").exists()
                        yield Import(name, whole if is_module else node.module, node.lineno)


def layer(module: str, order: tuple[str, ...], prefix: str = "") -> int | None:
    """The place in `order` of the entry that `module` belongs to; the longest entry wins; None for others."""
    matching = [e for e in order if module == prefix + e or module.startswith(f"{prefix}{e}.")]
    return order.index(max(matching, key=len)) if matching else None


def wrong_order(found: list[Import], order: tuple[str, ...], prefix: str = "") -> list[str]:
    return [
        str(item)
        for item in found
        if (high := layer(item.importer, order, prefix)) is not None
        and (low := layer(item.imported, order, prefix)) is not None
        and low > high
    ]


def wrong_heavy(found: list[Import], allowed: dict[str, tuple[str, ...]]) -> list[str]:
    return [
        str(item)
        for item in found
        if (patterns := allowed.get(item.imported.partition(".")[0])) is not None
        and not any(fnmatch.fnmatch(item.importer, pattern) for pattern in patterns)
    ]


def cycles(found: list[Import], names: list[str]) -> list[str]:
    """Modules that reach themselves. `from package import x` in a module of the package is no edge to it."""
    edges = {
        name: {i.imported for i in found if i.importer == name and i.imported in names} for name in names
    }
    reached = []
    for start in names:
        seen, waiting = set(), list(edges[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += edges[module]
        if start in seen:
            reached.append(start)
    return reached


# In a fresh interpreter: imports each module, and says which of the watched packages came with it. What is
# preloaded, never of ours, spares every module the time it takes; so does a garbage collector that has nothing to walk.
TRY_IMPORTS = """
import contextlib, gc, importlib, json, os, sys
sys.path.insert(0, sys.argv[1])
for name in filter(None, sys.argv[4].split(",")):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
gc.disable()
gc.freeze()
watched, results = sys.argv[3].split(","), {}
for name in sys.argv[2].split(","):
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            importlib.import_module(name)
            answer = [w for w in watched if w in sys.modules]
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    results[name] = json.loads(os.read(read, 65536))
    os.close(read)
    os.wait()
print(json.dumps(results))
"""


def try_imports(
    root: Path, names: list[str], watched: tuple[str, ...], preloaded: tuple[str, ...] = ()
) -> dict[str, list[str] | str]:
    """For each module, imported in a process of its own that has imported no other of ours: the watched packages
    that are loaded then, or the error as a text."""
    done = subprocess.run(
        [sys.executable, "-c", TRY_IMPORTS, str(root), ",".join(names), ",".join(watched), ",".join(preloaded)],
        capture_output=True, text=True, check=True, timeout=400,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found() -> list[Import]:
    result = list(imports(ROOT, PACKAGES))
    assert len(result) > 300, "the reader of imports has gone blind"
    return result


def test_packages_import_only_what_stands_before_them(found: list[Import]) -> None:
    assert wrong_order(found, PACKAGES) == []


def test_the_library_is_layered(found: list[Import]) -> None:
    inside = [item for item in found if item.importer.startswith("get3d_model.")]
    homeless = {i.importer for i in inside if layer(i.importer, LIBRARY, "get3d_model.") is None}
    assert not homeless, "give these a place in LIBRARY"
    assert wrong_order(inside, LIBRARY, "get3d_model.") == []


def test_no_module_imports_itself(found: list[Import]) -> None:
    names = modules(ROOT, PACKAGES)
    # A package's __init__ that re-exports its modules is reached by `from package import module`, harmlessly.
    packages = {module_name(ROOT, path) for p in PACKAGES for path in (ROOT / p).rglob("__init__.py")}
    direct = [i for i in found if not (i.imported in packages and i.importer.startswith(i.imported))]
    assert cycles(direct, names) == []


def test_heavy_packages_stay_where_they_belong(found: list[Import]) -> None:
    assert wrong_heavy(found, HEAVY) == []


def test_every_module_can_be_imported_first_and_torch_is_not_loaded_in_vain() -> None:
    """Optional packages may be missing: then nothing but their adapter's use may fail, never an import."""
    names = [
        name
        for name in modules(ROOT, PACKAGES)
        if not any(fnmatch.fnmatch(name, pattern) for pattern in NOT_IMPORTABLE)
    ]
    of_kfp = [n for n in names if any(fnmatch.fnmatch(n, pattern) for pattern in WITH_KFP)]
    light = [
        n for n in names if any(fnmatch.fnmatch(n, pattern) for pattern in WITHOUT_TORCH) and n not in of_kfp
    ]
    rest = [name for name in names if name not in light and name not in of_kfp]
    assert len(light) > 12 and len(of_kfp) > 12 and len(rest) > 200
    watched = ("torch", "numba", "kfp", "torchvision", "nvdiffrast")
    # What is preloaded is watched as well: it shows in every module's list.
    assert _loaded(light, watched, ("numpy", "yaml", "PIL.Image", "tqdm", "tritonclient.grpc")) == {}
    # The interfaces of Kubeflow are made of kfp, and of nothing heavier.
    assert set(_loaded(of_kfp, watched, ("kfp", "kfp.kubernetes"))) == {("kfp",)}
    slow = ("torch", "numba", "scipy.ndimage", "scipy.sparse.csgraph", "trimesh.visual", "PIL.Image", "tqdm")
    slow += ("matplotlib.figure", "kubernetes", "jinja2", "tritonclient.grpc")
    assert _loaded(rest, ("torchvision", "kfp", "nvdiffrast"), slow) == {}


def _loaded(
    names: list[str], watched: tuple[str, ...], preloaded: tuple[str, ...]
) -> dict[tuple[str, ...] | str, list[str]]:
    """Modules by the watched packages that they loaded, or by their error; those that loaded none are left out."""
    found: dict[tuple[str, ...] | str, list[str]] = {}
    for name, what in try_imports(ROOT, names, watched, preloaded).items():
        if what:
            found.setdefault(what if isinstance(what, str) else tuple(what), []).append(name)
    return found


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    """Two packages with one sin of each kind."""
    files = {
        "low/__init__.py": "",
        "low/base.py": "import math\n",
        "low/lazy.py": "def f():\n    from high import top\n",
        "low/heavy.py": "import elephant.trunk\n",
        "low/a.py": "from low.b import B\n",
        "low/b.py": "from low.c import C\n",
        "low/c.py": "import low.a\n",
        "high/__init__.py": "",
        "high/top.py": "from low.base import x\nimport elephant\n",
        "high/broken.py": "import nothing_of_this_name\n",
        "high/loads.py": "import decimal\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_the_checks_can_fail(synthetic: Path) -> None:
    packages = ("low", "high")
    found = list(imports(synthetic, packages))
    assert wrong_order(found, packages) == ["low.lazy:2 imports high.top"]
    assert wrong_order(found, ("lazy", "base", "a", "c", "b"), "low.") == ["low.a:1 imports low.b"]
    assert wrong_heavy(found, {"elephant": ("high.*",)}) == ["low.heavy:1 imports elephant.trunk"]
    assert wrong_heavy(found, {"elephant": ()}) == [
        "low.heavy:1 imports elephant.trunk",
        "high.top:2 imports elephant",
    ]
    assert cycles(found, modules(synthetic, packages)) == ["low.a", "low.b", "low.c"]
    loaded = try_imports(synthetic, ["low.base", "high.broken", "high.loads"], ("decimal",))
    assert loaded["low.base"] == [] and loaded["high.loads"] == ["decimal"]
    assert loaded["high.broken"].startswith("ModuleNotFoundError")
    (synthetic / "low" / "relative.py").write_text("from . import base\n")
    with pytest.raises(AssertionError, match="relative import"):
        list(imports(synthetic, packages))
