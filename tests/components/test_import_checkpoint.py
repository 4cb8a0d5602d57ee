"""`get3d import-checkpoint` and `export-checkpoint`, as commands."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from get3d_model.bundle import GRID_PREFIX, Parts, load_parts
from get3d_model.config import load_config
from get3d_model.inference import Sampler
from get3d_model.mesh_io import mesh_bytes
from get3d_model.ops.resample import low_pass_kernel
from get3d_model.published_file import read_published_file, write_published_file
from get3d_model.published_model import to_published
from pipelines.cli import main
from tests.components.published import kuhn_grid, plain_config, random_parts, write_bundle
from tests.get3d_model.training.tiny import run, write_params
from tests.parity.cases import scaled_copies
from tests.parity.compare import TOLERANCE, relative_error
from tests.parity.matching import match_vertices
from tests.parity.weights import reference_weight, seeded_normal

FOLDER = Path(__file__).parents[3] / "shared" / "parity"
OPTIONS = ["--tet-res", "8", "--preset", "chair_1024", "--grid-scale", "1"]


@pytest.fixture(scope="module")
def parts() -> Parts:
    return random_parts(plain_config())


@pytest.fixture(scope="module")
def upstream(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the published implementation would have written the model."""
    path = tmp_path_factory.mktemp("published") / "model.pt"
    write_published_file({part: to_published(state) for part, state in parts.items()}, path)
    return path


def import_checkpoint(upstream: Path, out: Path, *options: str) -> int:
    return main(["import-checkpoint", str(upstream), "--out", str(out), *OPTIONS, *options])


def refusal(capsys: pytest.CaptureFixture[str], *command: str | Path) -> str:
    """The one line that a command prints as it exits 2."""
    assert main([str(word) for word in command]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith(f"get3d {command[0]}: ")
    return message


def test_the_model_is_found_and_bit_equal(
    upstream: Path, parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.safetensors"
    assert import_checkpoint(upstream, out, "--kimg", "20000", "--name", "mine", "--r1-gamma", "5") == 0
    warning, output = reversed(capsys.readouterr())
    assert "no --tet-grid: shapes are extracted on our own grid" in warning and warning.count("\n") == 1
    assert "z 16, w 16, tri-planes 16, grid 8 of side 1, images 16" in output
    sampler = Sampler.load(out)
    assert sampler.config.model == plain_config().model
    assert (sampler.config.name, sampler.identity.kimg, sampler.config.training.r1_gamma) == (
        "mine",
        20000,
        5,
    )
    assert load_config(tmp_path / "model.yaml") == sampler.config
    loaded, _ = load_parts(out)
    for part, state in parts.items():
        assert loaded[part].keys() == state.keys()
        assert all(torch.equal(loaded[part][name], state[name]) for name in state)
    write_bundle(tmp_path / "ours.safetensors", plain_config())
    first, second = (
        dataclasses.replace(Sampler.load(path).generate([4], 0.7, 64)[0], extras={})
        for path in (out, tmp_path / "ours.safetensors")
    )
    assert mesh_bytes(first, "glb") == mesh_bytes(second, "glb")


def test_wrapped_files_with_more_in_them(
    upstream: Path, parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        part: {f"module.{n}": t for n, t in state.items()}
        for part, state in read_published_file(upstream).items()
    }
    content["G_ema"]["module.synthesis.dmtet.center"] = torch.zeros(3)
    torch.save({**content, "augment_pipe": None, "step": 7}, tmp_path / "wrapped.pt")
    assert import_checkpoint(tmp_path / "wrapped.pt", tmp_path / "a.safetensors") == 0
    assert (
        "G_ema: 1 tensors have no place in the model and are left out (synthesis.dmtet.center)"
        in capsys.readouterr().err
    )
    loaded, _ = load_parts(tmp_path / "a.safetensors")
    assert all(torch.equal(loaded[part][name], parts[part][name]) for part in parts for name in parts[part])


def test_without_a_discriminator_it_still_samples(
    upstream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"G_ema": read_published_file(upstream)["G_ema"]}, tmp_path / "ema.pt")
    assert import_checkpoint(tmp_path / "ema.pt", tmp_path / "a.safetensors") == 0
    output, warning = capsys.readouterr()
    assert "has no D: training cannot start from it" in warning and "train on" not in output
    assert Sampler.load(tmp_path / "a.safetensors").config.model.image_resolution == 1024


def test_a_grid_of_its_own(upstream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vertices, tets = kuhn_grid(8)
    np.savez(tmp_path / "grid.npz", v=vertices * 2, t=tets)
    out = tmp_path / "a.safetensors"
    assert import_checkpoint(upstream, out, "--tet-grid", str(tmp_path / "grid.npz")) == 0
    warnings = capsys.readouterr().err
    assert "to a cube of side 1 at 0" in warnings and "turned to positive volume" in warnings
    assert "our own grid" not in warnings and "layers" not in warnings
    (tmp_path / "grid.npz").unlink()
    grid = Sampler.load(out).generator.synthesis.extractor.grid
    assert torch.equal(grid.vertices_N3, torch.from_numpy(vertices)) and grid.resolution == 8
    np.savez(tmp_path / "grid.npz", v=kuhn_grid(6)[0], t=kuhn_grid(6)[1])
    assert import_checkpoint(upstream, out, "--tet-grid", str(tmp_path / "grid.npz")) == 0
    assert "the grid has 6 layers along its sides and --tet-res is 8" in capsys.readouterr().err


def test_a_malicious_file_is_refused_and_not_executed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Touch:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'touched'}",))

    torch.save({"G_ema": {}, "G": Touch()}, tmp_path / "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Touch()))
    for name in ("evil.pt", "evil.pkl"):
        message = refusal(capsys, "import-checkpoint", tmp_path / name, "--out", tmp_path / "a.safetensors")
        assert name in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pkl", "evil.pt"]


def test_what_cannot_be_imported_is_named(
    upstream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts, out = read_published_file(upstream), tmp_path / "a.safetensors"
    lacking = {n: t for n, t in parts["G"].items() if n != "synthesis.to_rgb.bias"}
    write_published_file({**parts, "G": lacking}, tmp_path / "lacking.pt")
    wide = {**parts["D"], "b4.out.bias": torch.zeros(5)}
    write_published_file({**parts, "D": wide}, tmp_path / "wide.pt")
    (tmp_path / "cut.pt").write_bytes(upstream.read_bytes()[:-5000])
    (tmp_path / "model.yaml").write_text("name: edited\n")
    for arguments, expected in (
        ((tmp_path / "lacking.pt",), "lacking.pt: G: lacks synthesis.to_rgb.bias"),
        ((tmp_path / "wide.pt",), "wide.pt: D: b4.out.bias has shape (5,)"),
        ((tmp_path / "cut.pt",), "cut.pt: not a readable PyTorch checkpoint"),
        ((upstream, "--tet-res", "7"), "tet_res must be even"),
        ((upstream, "--preset", "boat"), "boat: no such params file; start from a preset"),
        ((upstream, "--tet-grid", tmp_path / "none.npz"), "none.npz: no such grid file"),
        ((upstream, "--params", tmp_path / "model.yaml"), "model.yaml: exists with other content"),
        ((upstream, "--params", out), "--params"),
        ((upstream, "--kimg", "nan"), "--kimg must be 0 or more"),
    ):
        message = refusal(capsys, "import-checkpoint", "--tet-res", "8", *arguments, "--out", out)
        assert expected in message
        assert not out.exists()
    assert "is a folder" in refusal(capsys, "import-checkpoint", upstream, "--out", tmp_path)
    before = upstream.read_bytes()
    (tmp_path / "link.pt").symlink_to(upstream)
    assert "would overwrite" in refusal(capsys, "import-checkpoint", tmp_path / "link.pt", "--out", upstream)
    assert upstream.read_bytes() == before


def test_what_cannot_be_exported_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = plain_config()
    write_bundle(tmp_path / "plain.safetensors", config)
    model = dataclasses.replace(config.model, mirror_symmetry=True, initial_shape=(0.4, 0.4, 0.4))
    write_bundle(tmp_path / "ours.safetensors", dataclasses.replace(config, model=model))
    for name, options, expected in (
        ("ours", ("--out", tmp_path / "a.pt"), "model.initial_shape and model.mirror_symmetry"),
        (
            "plain",
            ("--out", tmp_path / "a.pt", "--half"),
            "--half needs an --out that ends with .safetensors",
        ),
        ("plain", ("--out", tmp_path), "is a folder"),
        ("none", ("--out", tmp_path / "a.pt"), "no checkpoint here"),
        ("plain", ("--out", tmp_path / "plain.safetensors"), "would overwrite the checkpoint"),
    ):
        checkpoint = tmp_path / f"{name}.safetensors"
        assert expected in refusal(capsys, "export-checkpoint", "--checkpoint", checkpoint, *options)
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference is not beside this checkout")
@pytest.mark.parametrize("name", ["unified_dmtet_small", "unified_flexicubes_small", "separate_dmtet"])
def test_an_imported_model_makes_the_reference_shapes(name: str, tmp_path: Path) -> None:
    """The reference's weights and grid, through the files, give the surface that its own implementation gave."""
    case = json.loads((FOLDER / f"{name}.json").read_text())
    state = {
        key: low_pass_kernel()
        if key.endswith("resample_filter")
        else reference_weight(case["salt"], key, tuple(shape))
        for key, shape in case["shapes"].items()
    }
    torch.save({"G_ema": state}, tmp_path / "a.pt")
    options = ["--tet-res", "8"]
    with np.load(FOLDER / f"{name}.npz") as stored:
        expected = {key: stored[key] for key in ("sdf", "sdf_centred", "deformation", "verts0", "grid_verts")}
        if "grid_tets" in stored:
            np.savez(tmp_path / "grid.npz", vertices=stored["grid_verts"], tets=stored["grid_tets"])
            options += ["--tet-grid", str(tmp_path / "grid.npz")]
    assert import_checkpoint(tmp_path / "a.pt", tmp_path / "a.safetensors", *options) == 0
    generator = Sampler.load(tmp_path / "a.safetensors").generator
    synthesis = generator.synthesis
    assert np.array_equal(synthesis.extractor.grid.vertices_N3.numpy(), expected["grid_verts"])
    z_geo, z_tex = (
        torch.from_numpy(seeded_normal(case["salt"], f"input:{name}{which}", (case["batch"], 32)))
        for which in ("zg", "zt")
    )
    ws_geo = scaled_copies(generator.mapping_geo(z_geo), generator.num_ws_geo)
    ws_tex = scaled_copies(generator.mapping(z_tex), generator.num_ws_tex)
    ws_tex = synthesis.texture_styles(ws_geo, ws_tex)
    geometry = synthesis.geometry(synthesis.planes(ws_geo, ws_tex)[0], ws_geo)
    for ours, key in ((geometry.sdf_BN[..., None], "sdf"), (geometry.deform_BN3, "deformation")):
        assert relative_error(ours.numpy(), expected[key])[0] < TOLERANCE
    centred = torch.from_numpy(expected["sdf_centred"][..., 0])
    surface = synthesis.extractor.surface(dataclasses.replace(geometry, sdf_BN=centred))
    vertices = surface.meshes.mesh(0).vertices_V3
    assert vertices.shape == expected["verts0"].shape
    match = match_vertices(vertices, expected["verts0"])
    assert relative_error(vertices, expected["verts0"][match])[0] < TOLERANCE
    assert len(np.unique(match)) == len(match)


GET3D = """
import json, sys
from pipelines.cli import main
for command in json.loads(sys.argv[1]):
    if (code := main(command)):
        sys.exit(code)
"""


@pytest.mark.e2e
def test_the_whole_way_in_another_process(tiny_data: Path, tmp_path: Path) -> None:
    """export -> import with the grid -> generate -> train on from it -> keep as one small file -> train on."""
    params = write_params(tmp_path / "params.yaml", plain_config(1))
    train = ["train", "--config", params, "--data", tiny_data]
    trained, grid = tmp_path / "trained.safetensors", tmp_path / "model.grid.npz"
    imported, small = tmp_path / "imported.safetensors", tmp_path / "small.safetensors"
    written = write_bundle(trained, plain_config())
    commands = (
        ["export-checkpoint", "--checkpoint", trained, "--out", tmp_path / "model.pt"],
        ["import-checkpoint", tmp_path / "model.pt", "--tet-grid", grid, "--out", imported, *OPTIONS],
        [
            "generate",
            "--checkpoint",
            imported,
            "--out",
            tmp_path / "meshes",
            "--seeds",
            0,
            "--texture-resolution",
            64,
        ],
        [*train, "--init-from", imported, "--out", tmp_path / "second"],
        ["export-checkpoint", "--checkpoint", tmp_path / "second", "--half", "--out", small],
        [*train, "--init-from", small, "--out", tmp_path / "third"],
        [*train, "--init-from", small, "--out", tmp_path / "third"],
    )
    done = run([sys.executable, "-c", GET3D, json.dumps([[str(word) for word in c] for c in commands])])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("starting from the weights of") == 2 and done.stdout.count("resuming from") == 1
    (glb,) = (tmp_path / "meshes").iterdir()
    assert glb.read_bytes()[:4] == b"glTF"
    same, _ = load_parts(imported)
    for part, state in written.items():
        assert all(torch.equal(same[part][name], state[name]) for name in state)
    continued, _ = load_parts(small)
    for state in (same["G"], continued["G"]):
        assert torch.equal(state[f"{GRID_PREFIX}vertices_N3"], same["G_ema"][f"{GRID_PREFIX}vertices_N3"])


@pytest.mark.parametrize(
    "kind",
    [
        {"isosurface": "flexicubes"},
        # Not the channels of the preset, which must be read off the shapes.
        {"generator": "separate", "volume_channel_base": 64, "volume_channel_max": 8},
    ],
)
def test_other_kinds_of_model(
    kind: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = plain_config()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **kind))
    write_bundle(tmp_path / "ours.safetensors", config)
    assert (
        main(
            [
                "export-checkpoint",
                "--checkpoint",
                str(tmp_path / "ours.safetensors"),
                "--out",
                str(tmp_path / "a.pt"),
            ]
        )
        == 0
    )
    assert (tmp_path / "a.grid.npz").exists() == ("isosurface" not in kind)
    capsys.readouterr()
    assert import_checkpoint(tmp_path / "a.pt", tmp_path / "back.safetensors") == 0
    assert ("our own grid" in capsys.readouterr().err) == ("isosurface" not in kind)
    samplers = [Sampler.load(tmp_path / f"{name}.safetensors") for name in ("ours", "back")]
    assert samplers[0].config.model == samplers[1].config.model
    first, second = (dataclasses.replace(s.generate([1], 1.0, 64)[0], extras={}) for s in samplers)
    assert mesh_bytes(first, "glb") == mesh_bytes(second, "glb")
    if "isosurface" in kind:
        np.savez(tmp_path / "grid.npz", v=kuhn_grid(8)[0], t=kuhn_grid(8)[1])
        refused = [
            "import-checkpoint",
            tmp_path / "a.pt",
            "--tet-grid",
            tmp_path / "grid.npz",
            "--out",
            tmp_path / "b",
        ]
        assert "has no tetrahedra; leave out --tet-grid" in refusal(capsys, *refused)
