"""`get3d metrics` on folders of meshes from nowhere in particular."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh

from components.metrics import shapes
from get3d_model.files import sha256_file
from get3d_model.metrics.bootstrap import Bootstrap
from get3d_model.metrics.set_intervals import divergence_interval, matching_intervals, one_nna_interval
from get3d_model.metrics.set_metrics import jensen_shannon
from pipelines import cli


def write(folder: Path, name: str, mesh: trimesh.Trimesh) -> None:
    folder.mkdir(exist_ok=True)
    mesh.export(folder / name)


def box(*extents: float) -> trimesh.Trimesh:
    return trimesh.creation.box(extents=extents)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Boxes as references; the generated ones are copies of some, in other formats, sizes and places."""
    root = tmp_path_factory.mktemp("meshes")
    generated, reference = root / "generated", root / "reference"
    for i in range(5):
        write(reference, f"r{i}.ply", box(1, 1 + 0.6 * i, 2))
    for i in range(4):
        copy = box(1, 1 + 0.6 * min(i, 2), 2)
        copy.apply_scale(3.0 + i)
        copy.apply_translation([i, 0, -7])
        write(generated, f"g{i}.{'obj' if i % 2 else 'glb'}", copy)
    return generated, reference


def run(*arguments: object) -> int:
    return cli.main(["metrics", *map(str, arguments)])


def load(out: Path, name: str = "metrics.json") -> dict:
    def refuse(value: str) -> None:
        raise AssertionError(f"{value} is not JSON")

    return json.loads((out / name).read_text(), parse_constant=refuse)


def test_both_distances(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [*folders, "--points", 256, "--resamples", 50, "--cache", tmp_path / "cache"]
    assert run(*arguments, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    metrics, full = load(tmp_path / "out"), load(tmp_path / "out", "metrics_full.json")
    # Three of the five references were copied; g2 and g3 are the same box.
    assert metrics["cd_cov"] == metrics["lfd_cov"] == 3 / 5
    assert (metrics["generated"], metrics["reference"], metrics["generated_excluded"]) == (4, 5, 0)
    assert all(value is None or isinstance(value, (int, float, str)) for value in metrics.values())
    assert metrics["cd_mmd_x1000"] > 0 and 0 <= metrics["cd_1nna"] <= 1 and 0 <= metrics["jsd"] <= 1
    assert metrics["watertight_fraction"] == metrics["manifold_fraction"] == 1.0
    assert metrics["triangles_median"] == 12 and metrics["empty_fraction"] == 0
    nearest = {row["mesh"]: row["nearest_reference"] for row in full["lfd_nearest"]["generated"]}
    assert nearest == {"g0.glb": "r0.ply", "g1.obj": "r1.ply", "g2.glb": "r2.ply", "g3.obj": "r2.ply"}
    assert [row["covered"] for row in full["cd_nearest"]["reference"]] == [True, True, True, False, False]
    interval = full["intervals"]["lfd_mmd"]
    assert interval["low"] <= interval["value"] <= interval["high"]
    assert full["quality_distributions"]["triangles"]["quantiles"] == [12] * 7
    assert full["intervals"]["triangles_p95"] == {"value": 12.0, "low": 12.0, "high": 12.0}
    # The references beside: two of four against the two others, none of them alike.
    control = full["control"]
    assert metrics["self_cd_mmd_x1000"] == control["cd_mmd_x1000"]["value"] > 0
    assert metrics["self_cd_cov"] in (0.5, 1.0) and metrics["self_watertight_fraction"] == 1.0
    assert "self_lfd_1nna" in metrics and "self_jsd" in metrics
    assert "Coverage (COV), light field" in printed and "0.6" in printed and "excluded" not in printed
    assert (
        "one half of 4 of them" in printed and "watertight fraction" in printed and "references 1" in printed
    )

    # The same again: nothing is computed anew, and every byte is the same. Without the cache too.
    for name, more in (("again", []), ("fresh", ["--no-cache"])):
        assert run(*arguments, *more, "--out", tmp_path / name) == 0
        for file in ("metrics.json", "metrics_full.json"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_the_cache_spares_loading_and_minds_what_it_is_for(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated, reference = (Path(shutil.copytree(f, tmp_path / f.name)) for f in folders)
    loaded = []
    real = shapes.load_textured_mesh
    monkeypatch.setattr(
        shapes, "load_textured_mesh", lambda path, root: loaded.append(path.name) or real(path, root)
    )

    def count(*options: object) -> int:
        loaded.clear()
        assert run(
            generated, reference, "--cache", tmp_path / "c", "--points", 64, "--resamples", 5, *options
        ) == 0  # fmt: skip
        return len(loaded)

    assert count() == 9 and count() == 0
    assert count("--seed", 1) == 9 and count("--normalize", "sphere") == 9 and count("--distance", "cd") == 0
    # Another file under the same name, and a damaged entry.
    write(generated, "g0.glb", box(1, 2, 9))
    assert count() == 1
    (entry,) = (tmp_path / "c").rglob(f"{sha256_file(reference / 'r0.ply')}-lfd-*.npz")
    entry.write_bytes(b"not an archive")
    assert count() == 1 and count() == 0


def test_a_cache_that_nobody_asked_for_may_be_out_of_reach(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A home folder that is read-only, or none: said once, and the numbers are the same."""
    a_file = tmp_path / "file"
    a_file.write_text("x")
    options = ["--points", 64, "--resamples", 5]
    assert run(*folders, *options, "--no-cache") == 0
    expected = capsys.readouterr().out
    for folder in (a_file, Path("/proc/nothing")):
        monkeypatch.setenv("GET3D_CACHE", str(folder))
        assert run(*folders, *options) == 0
        shown = capsys.readouterr()
        assert shown.out == expected and shown.err.count("warning: the cache") == 1
        assert f"{folder}/shapes cannot be written" in shown.err and "GET3D_CACHE" in shown.err


def test_damaged_and_empty_meshes_are_listed_and_left_out(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    generated = Path(shutil.copytree(folders[0], tmp_path / "generated"))
    (generated / "damaged.glb").write_bytes(b"nothing")
    (generated / "empty.obj").write_text("v 0 0 0\nv 1 0 0\n")
    (generated / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
    # As a bad sector or a file of somebody else, also for those who may read everything.
    (generated / "unreadable.ply").symlink_to("/proc/self/mem")
    out = tmp_path / "out"
    options = ["--points", 64, "--resamples", 5, "--cache", tmp_path / "c"]
    assert run(generated, folders[1], *options, "--out", out) == 0
    printed = capsys.readouterr().out
    metrics, full = load(out), load(out, "metrics_full.json")
    assert (metrics["generated"], metrics["generated_excluded"]) == (4, 4)
    assert metrics["empty_fraction"] == pytest.approx(2 / 6)
    reasons = {row["mesh"]: row["reason"] for row in full["excluded"]["generated"]}
    assert set(reasons) == {"damaged.glb", "empty.obj", "flat.obj", "unreadable.ply"}
    assert reasons["unreadable.ply"].startswith("cannot be read (")
    assert "no triangles" in reasons["empty.obj"] and "without area" in reasons["flat.obj"]
    assert "generated: 4 of 8 meshes excluded:" in printed and "  empty.obj: contains no triangles" in printed
    # The numbers are those of the usable ones.
    assert run(*folders, *options, "--out", tmp_path / "clean") == 0
    assert load(tmp_path / "clean")["lfd_mmd"] == metrics["lfd_mmd"]


def test_two_meshes_are_enough(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for folder, names in ((tmp_path / "g", ("g0.glb", "g1.obj")), (tmp_path / "r", ("r0.ply", "r1.ply"))):
        folder.mkdir()
        for name in names:
            shutil.copy(next(f / name for f in folders if (f / name).exists()), folder)
    options = ["--points", 64, "--resamples", 5, "--no-cache", "--out", tmp_path / "out"]
    assert run(tmp_path / "g", tmp_path / "r", *options) == 0
    metrics = load(tmp_path / "out")
    # With one shape in a half there is no second one to be nearest.
    assert metrics["cd_cov"] == metrics["self_cd_cov"] == 1.0 and "self_cd_1nna" not in metrics


def test_options(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    archive = tmp_path / "generated.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(folders[0].iterdir()):
            opened.write(file, file.name)
    common = ["--points", 64, "--resamples", 5, "--no-cache", "--out", tmp_path / "out"]
    assert run(archive, folders[1], "--distance", "lfd", "--no-quality", *common) == 0
    metrics = load(tmp_path / "out")
    assert "lfd_cov" in metrics and "cd_cov" not in metrics and "triangles_median" not in metrics
    # As they are, the copies are of other sizes and elsewhere.
    assert run(*folders, "--distance", "cd", "--normalize", "none", "--surface", "outer", *common) == 0
    as_is = load(tmp_path / "out")
    assert as_is["cd_mmd_x1000"] > 10_000 and as_is["surface"] == "outer"
    assert as_is["protocol_sha256"] != metrics["protocol_sha256"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--minimum", 6], "has 5 usable meshes of 5; at least 6 are needed (--minimum)"),
        (["--minimum", 1], "--minimum 1 is out of range; use 2 to"),
        (["--points", 0], "--points 0 is out of range"),
        (["--confidence", 1.5], "--confidence 1.5 is out of range"),
        (["--device", "cuda"], "torch sees no CUDA device; use --device cpu"),
        (["--device", "abacus"], "--device abacus is not possible; use cpu or cuda"),
    ],
)
def test_bad_options(
    options: list, message: str, folders: tuple[Path, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(*folders, "--no-cache", "--points", 16, *options, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_bad_folders(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in "abc":
        (damaged / f"{name}.glb").write_bytes(b"x")
    a_file = tmp_path / "file"
    a_file.write_text("x")
    for arguments, message in (
        ((tmp_path / "missing", folders[1]), "missing does not exist"),
        ((a_file, folders[1]), "file is a file; give the folder that holds the meshes, or a .zip of one"),
        ((nothing, folders[1]), "holds no .glb, .gltf, .obj, .ply file"),
        (
            (damaged, folders[1]),
            "has 0 usable meshes of 3; at least 2 are needed (--minimum); the first of 3 excluded: a.glb",
        ),
        ((*folders, "--cache", a_file), "is no folder; name another"),
        ((*folders, "--out", a_file), f"--out {a_file}: {a_file} is no folder; choose another --out"),
    ):
        assert run(*arguments, "--points", 16, "--resamples", 5) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_intervals_hold_the_values() -> None:
    random = np.random.default_rng(0)
    r, s = random.random((30, 2)), random.random((60, 2))
    between, within_r, within_s = (
        np.linalg.norm(a[:, None] - b, axis=2) for a, b in ((r, s), (r, r), (s[:30], s[:30]))
    )
    bootstrap = Bootstrap(resamples=100)
    found = matching_intervals(between, bootstrap)
    found["1nna"] = one_nna_interval(within_r, between[:, :30], within_s, bootstrap)
    cells = random.integers(0, 40, (30, 20)), random.integers(0, 40, (60, 20))
    found["jsd"] = divergence_interval(*cells, bootstrap)
    for name, interval in found.items():
        assert 0 <= interval.low < interval.value < interval.high, name
        assert name == "mmd" or interval.high <= 1
    assert found["jsd"].value == pytest.approx(jensen_shannon(*cells), abs=1e-12)
    # Resample by resample as the definition has it.
    seen = []

    def by_definition(i_KR: np.ndarray, j_KS: np.ndarray) -> np.ndarray:
        seen.extend([i_KR.shape, j_KS.shape])
        return np.array([jensen_shannon(cells[0][i], cells[1][j]) for i, j in zip(i_KR, j_KS, strict=True)])

    slow = bootstrap.interval(by_definition, [30, 60], neighbors=True, block=64)
    assert (found["jsd"].low, found["jsd"].high) == pytest.approx((slow.low, slow.high), abs=1e-12)
    assert len(seen) > 2
