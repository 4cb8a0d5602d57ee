"""Rendering that is killed, that meets damaged meshes among many good ones, and that runs out of disk."""

import errno
import functools
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.render.job import render_dataset
from components.render.settings import PixelSettings, RenderOptions
from get3d_model.data.manifest import read_manifest
from get3d_model.data.parts import Shard, merge_parts
from get3d_model.errors import InputError
from get3d_model.files import atomic_path
from tests.components.render_fakes import make_fake_renderer
from tests.components.render_helpers import render_in_process, save_fan

PIXELS = PixelSettings(views=2, resolution=16, supersample=1)
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def in_process(monkeypatch):
    yield from render_in_process(monkeypatch)


def _render(meshes: Path, out: Path, **options):
    options = {"pixels": PIXELS, "shapes_per_shard": 2, **options}
    return render_dataset(RenderOptions(meshes, out, **options), make_fake_renderer, "fake-1")


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What a run does to the disk. Killed before the k-th of these, for every k, it is killed at every moment that
# another process can tell apart, but for half-written temporary files, which come from the kill before fsync.
CALLS = ("replace", "unlink", "fsync", "mkdir", "rmdir")


def _run_killed_before(call: int, job) -> bool:
    """Runs `job` in a child that dies as by kill -9 before its k-th call to the disk. False when it got through."""
    child = os.fork()
    if child == 0:
        left = [call]

        def count(original, *args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        for name in CALLS:
            setattr(os, name, functools.partial(count, getattr(os, name)))
        try:
            job()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.__stderr__)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


@pytest.mark.e2e
def test_killed_at_every_moment_it_continues_to_the_same_bytes(tmp_path, in_process):
    meshes = tmp_path / "meshes"
    for number in range(2):
        save_fan(meshes / f"fan{number}.glb", number)
    (meshes / "bad.glb").write_bytes(b"")
    _render(meshes, tmp_path / "fresh", layout="both")
    expected = _files(tmp_path / "fresh")
    call = 0
    while True:
        call += 1
        out = tmp_path / f"out{call}"
        killed = _run_killed_before(call, lambda out=out: _render(meshes, out, layout="both"))
        _render(meshes, out, layout="both")
        assert _files(out) == expected, f"killed before call {call}"
        shutil.rmtree(out)
        if not killed:
            break
    assert call > 20
    # Killed again and again, a little later each time, one run still gets there.
    out, call = tmp_path / "often", 3
    while _run_killed_before(call, lambda: _render(meshes, out, layout="both")):
        call += 4
    assert _files(out) == expected


def test_a_merge_killed_at_every_moment_leaves_the_old_or_the_new_or_none(tmp_path, in_process):
    for number in range(3):
        save_fan(tmp_path / f"meshes/fan{number}.glb", number)
    out = tmp_path / "out"
    for index in range(2):
        _render(tmp_path / "meshes", out, shard=Shard(index, 2))
    merge_parts(out)
    expected, call = _files(out), 1
    while _run_killed_before(call, lambda: merge_parts(out)):
        if (out / "manifest.json").exists():
            assert (out / "manifest.json").read_bytes() == expected["manifest.json"]
            assert (out / "index.npy").read_bytes() == expected["index.npy"]
        call += 1
    assert call > 4
    assert _files(out) == expected


@pytest.mark.parametrize("when", ["piece", "shard", "index", "manifest"])
def test_a_full_disk_is_one_line_and_the_same_command_continues(tmp_path, monkeypatch, in_process, when):
    meshes, out = tmp_path / "meshes", tmp_path / "out"
    for number in range(3):
        save_fan(meshes / f"fan{number}.glb", number)
    suffix = {"piece": ".piece", "shard": ".tar", "index": ".npy", "manifest": "manifest.json"}[when]
    original = os.fsync

    def full(handle: int) -> None:
        name = os.readlink(f"/proc/self/fd/{handle}")
        if name.endswith(suffix) or (when == "manifest" and ".manifest." in name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"No space left on device.* make space") as caught:
            _render(meshes, out)
    assert "\n" not in str(caught.value)
    assert str(out) in str(caught.value)
    _render(meshes, out)
    _render(meshes, tmp_path / "fresh")
    assert _files(out) == _files(tmp_path / "fresh")


def test_a_disk_that_is_really_full(tmp_path, in_process):
    """A limit on the size of files, as the kernel enforces it, in the middle of a tar."""
    for number in range(3):
        save_fan(tmp_path / f"meshes/fan{number}.glb", number)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
        try:
            _render(tmp_path / "meshes", tmp_path / "out")
        except InputError as error:
            os._exit(2 if "File too large" in str(error) and "\n" not in str(error) else 3)
        except BaseException:
            os._exit(4)
        os._exit(0)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 2
    _render(tmp_path / "meshes", tmp_path / "out")
    _render(tmp_path / "meshes", tmp_path / "fresh")
    assert _files(tmp_path / "out") == _files(tmp_path / "fresh")


def test_a_temporary_file_of_a_killed_run_goes(tmp_path, in_process):
    save_fan(tmp_path / "meshes/fan.glb")
    _render(tmp_path / "meshes", tmp_path / "out")
    before = _files(tmp_path / "out")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "out/manifest.json") as temporary:
        temporary.write_bytes(b"half")
        kept = temporary.with_name(temporary.name)
        raise RuntimeError
    kept.write_bytes(b"half")
    _render(tmp_path / "meshes", tmp_path / "out")
    assert _files(tmp_path / "out") == before


GOOD, COPIES = 949, 5


def _damage(folder: Path) -> dict[str, str]:
    """51 files with eleven kinds of damage: file name -> what its reason must say."""
    good = (folder / "good000.glb").read_bytes()

    def glb(change) -> bytes:
        length = struct.unpack("<I", good[12:16])[0]
        document = json.loads(good[20 : 20 + length])
        change(document)
        text = json.dumps(document).encode()
        text += b" " * (-len(text) % 4)
        rest = good[20 + length :]
        return b"".join(
            [
                b"glTF",
                struct.pack("<II", 2, 20 + len(text) + len(rest)),
                struct.pack("<I", len(text)),
                b"JSON",
                text,
                rest,
            ]
        )

    (folder / "truncated.glb").write_bytes(good[: len(good) // 2])
    (folder / "nan.obj").write_text("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (folder / "no-faces.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    many = [f"v {x} {y} 0" for x in range(60) for y in range(60)]
    many += [f"f {i} {i + 1} {i + 60}" for i in range(1, 3500)]
    (folder / "huge.obj").write_text("\n".join(many))
    (folder / "picture.glb").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))  # a wrong extension
    document = {"asset": {"version": "2.0"}, "buffers": [{"uri": "gone.bin", "byteLength": 36}]}
    accessor = {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}
    document |= {"bufferViews": [{"buffer": 0, "byteLength": 36}], "accessors": [accessor]}
    document |= {"meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}]}
    document |= {"nodes": [{"mesh": 0}], "scenes": [{"nodes": [0]}], "scene": 0}
    (folder / "buffer.gltf").write_text(json.dumps(document))
    (folder / "empty.glb").write_bytes(b"")
    (folder / "dangling.glb").symlink_to(folder / "nowhere.glb")  # no file that anybody could read
    save_fan(folder / "hang.glb", 3, trouble="hang")
    save_fan(folder / "crash.glb", 3, trouble="kill")
    (folder / "folder.glb").mkdir()  # no mesh, and no trouble either
    (folder / "index.glb").write_bytes(glb(lambda document: document["accessors"].clear()))
    reasons = {
        "truncated.glb": "truncated",
        "nan.obj": "NaN",
        "no-faces.obj": "triangles",
        "huge.obj": "more than 3000",
        "picture.glb": "",
        "buffer.gltf": "gone.bin",
        "empty.glb": "",
        "dangling.glb": "no such mesh file",
        "hang.glb": "took longer than 2 s",
        "crash.glb": "killed",
        "index.glb": "",
    }
    for name in sorted(reasons.keys() - {"hang.glb"}):  # one is enough to wait for
        for number in range(1, COPIES):
            copy = f"{number}-{name}"
            shutil.copyfile(folder / name, folder / copy, follow_symlinks=False)
            reasons[copy] = reasons[name]
    return reasons


SCRIPT = """
import resource
import sys
from pathlib import Path
from components.render.job import render_dataset
from components.render.settings import PixelSettings, RenderOptions
from tests.components.render_fakes import make_real_renderer
options = RenderOptions(
    Path(sys.argv[1]), Path(sys.argv[2]), PixelSettings(views=2, resolution=16, supersample=1), workers=2,
    shapes_per_shard=16, mesh_timeout_s=2.0, max_triangles=3000,
)
render_dataset(options, make_real_renderer)
# Not its own ru_maxrss, which keeps the size of the process that it was forked from.
own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("PEAK", max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""


@pytest.mark.e2e
def test_a_thousand_meshes_one_in_twenty_damaged_killed_in_the_middle(tmp_path):
    meshes, out = tmp_path / "meshes", tmp_path / "out"
    for number in range(GOOD):
        save_fan(meshes / f"good{number:03d}.glb", number % 40)
    reasons = _damage(meshes)
    assert len(reasons) + GOOD == 1000
    command = [sys.executable, "-c", SCRIPT, str(meshes)]

    def pieces() -> int:
        return sum(not path.name.startswith(".") for path in (out / ".partial/pieces").glob("*.piece"))

    for wanted in (10, 500):
        run = subprocess.Popen([*command, str(out)], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
        while pieces() < wanted:
            assert run.poll() is None
            time.sleep(0.002)
        run.kill()
        assert run.wait() == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
    for folder in (out, tmp_path / "fresh"):
        done = subprocess.run(
            [*command, str(folder)], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        assert "Traceback" not in done.stderr
        # The largest process of the run: what it loaded, and not what it rendered, fills it.
        assert int(done.stdout.split("PEAK")[1]) < 2**20  # kB
    assert _files(out) == _files(tmp_path / "fresh")
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
    rejected = json.loads((out / "rejected.json").read_text())
    assert {entry["file"] for entry in rejected.values()} == set(reasons)
    for entry in rejected.values():
        assert reasons[entry["file"]] in entry["reason"], entry
        assert entry["reason"].strip()
        assert "\n" not in entry["reason"]
    assert list(read_manifest(out).shapes) == [f"good{number:03d}" for number in range(GOOD)]
