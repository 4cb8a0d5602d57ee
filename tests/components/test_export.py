"""`get3d export`: what a version holds, and that it never changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from components.export import main as export_main
from components.export import programs
from components.export.main import main
from components.export.onnx_form import run_onnx
from get3d_model.errors import InputError
from get3d_model.files import sha256_file
from get3d_model.generator import Generator
from get3d_model.inference import Sampler
from get3d_model.programs import PROGRAM_FILES, Network, export_program, load_program, networks_of
from get3d_model.stable_sampler import StableSampler
from get3d_model.weights import load_tensors, save_tensors
from serving.codec import INPUTS
from serving.repository import Origin, check_repository, file_hashes, read_model_card, versions
from tests.serving.tiny import CONFIG, write_checkpoint


def export(
    checkpoint: Path, repository: Path, version: int | None = None, **options: Any
) -> export_main.Exported:
    """Without ONNX, which takes most of the time and has a test of its own."""
    return export_main.export(checkpoint, repository, version, **{"onnx": False, **options})


@pytest.fixture(scope="module", autouse=True)
def _written_once() -> Iterator[None]:
    """Tracing, writing and reading programs takes seconds; the two checkpoints here go through it once each."""
    done: dict[float, tuple[dict[str, bytes], Any]] = {}
    write = programs.write_programs

    def once(generator: Generator, folder: Path, onnx: bool) -> Any:
        if onnx:
            return write(generator, folder, onnx)
        key = sum(float(value.double().sum()) for value in (*generator.parameters(), *generator.buffers()))
        if key not in done:
            result = write(generator, folder, onnx)
            done[key] = {name: (folder / name).read_bytes() for name in PROGRAM_FILES.values()}, result
        contents, result = done[key]
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "write_programs", once)
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("other"), seed=1)


def test_a_version(checkpoint: Path, tmp_path: Path) -> None:
    exported = export(checkpoint, tmp_path)
    folder = tmp_path / "get3d" / "1"
    assert (exported.folder, exported.version, exported.created) == (folder, 1, True)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        "get3d/config.pbtxt", "get3d/1/model.py", "get3d/1/generator_ema.safetensors",
        "get3d/1/model_card.json", "get3d/1/reference.json", "get3d/1/reference.glb",
        "get3d/1/mapping.pt2", "get3d/1/fields.pt2",
    }  # fmt: skip
    card = read_model_card(folder)
    assert (card.name, card.max_batch_size, card.checkpoint["kimg"]) == ("tiny", 8, 0.0)
    assert card.checkpoint["dataset_sha256"] == "0" * 64
    assert (card.defaults.truncation_psi, card.defaults.texture_resolution) == (0.7, 64)
    assert card.checkpoint_sha256 == sha256_file(checkpoint)
    assert card.files == {p.name: sha256_file(p) for p in folder.iterdir() if p.name != "model_card.json"}
    assert card.origin.dataset_sha256 == "0" * 64
    generator = Sampler.load(checkpoint).generator
    assert sum(card.parameters.values()) == sum(p.numel() for p in generator.parameters())
    assert Sampler.load(folder).identity == Sampler.load(checkpoint).identity
    assert folder.stat().st_mode & 0o777 == 0o755
    check_repository(tmp_path)


def test_equal_input_gives_equal_repositories(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(checkpoint, tmp_path / name)
    assert file_hashes(tmp_path / "a") == file_hashes(tmp_path / "b")


def test_the_same_again_is_up_to_date(
    checkpoint: Path, other_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--repository", str(tmp_path), "--no-onnx"]
    assert main(arguments) == 0
    assert "version 1 written" in capsys.readouterr().out
    assert export(other_checkpoint, tmp_path).version == 2
    before = file_hashes(tmp_path)
    assert main(arguments) == main([*arguments, "--version", "1"]) == 0
    assert capsys.readouterr().out.count("version 1 up to date") == 2
    assert file_hashes(tmp_path) == before
    assert versions(tmp_path) == [1, 2]


def test_a_version_with_any_damaged_file_is_not_up_to_date(checkpoint: Path, tmp_path: Path) -> None:
    """Who finds one is told to export again, which has to help."""
    folder = export(checkpoint, tmp_path, onnx=False, drift_samples=20).folder
    for name in ("reference.glb", "reference.json", "drift.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + b" ")
        with pytest.raises(InputError, match=f"{name}: missing or changed .*; export the model again"):
            check_repository(tmp_path)
        assert export_main._differing(folder, read_model_card(folder)) != []
        (folder / name).write_bytes(content)
    check_repository(tmp_path)
    (folder / "reference.glb").unlink()
    again = export(checkpoint, tmp_path, onnx=False)
    assert (again.version, again.created) == (2, True)


def test_versions_never_change(checkpoint: Path, other_checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path, 3)
    before = file_hashes(tmp_path)
    with pytest.raises(InputError, match=r"get3d/3: exists with other content \(generator_ema.*or use 4"):
        export(other_checkpoint, tmp_path, 3)
    assert file_hashes(tmp_path) == before
    assert export(other_checkpoint, tmp_path).version == 4
    for version in (0, -1, 10**20):
        with pytest.raises(InputError, match=f"version {version} is not possible; use 1 to {10**18}"):
            export(checkpoint, tmp_path, version)


def test_the_params_file_sets_defaults_and_batch_size(checkpoint: Path, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(
        "serving: {texture_resolution: 256, truncation_psi: 0.5, max_batch_size: 2, instances: 3, device: cpu,\n"
        "  queue_size: 5, queue_timeout_s: 1.5, time_limit_s: 7.0}\n"
        "render: {resolution: 64}\nmodel: {image_resolution: 64}\n"
    )
    arguments = ["--checkpoint", str(checkpoint), "--repository", str(tmp_path / "repository"), "--no-onnx"]
    assert main([*arguments, "--config", str(params)]) == 0
    card = read_model_card(tmp_path / "repository" / "get3d" / "1")
    assert (card.defaults.texture_resolution, card.defaults.truncation_psi, card.max_batch_size) == (
        256,
        0.5,
        2,
    )
    # The model itself stays the one that was trained.
    assert card.config["model"]["image_resolution"] == CONFIG.model.image_resolution
    assert (card.limits.queue_size, card.limits.queue_timeout_s, card.limits.time_limit_s) == (5, 1.5, 7.0)
    text = (tmp_path / "repository" / "get3d" / "config.pbtxt").read_text()
    parsed = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert parsed.max_batch_size == 2
    (group,) = parsed.instance_group
    assert (group.kind, group.count) == (model_config_pb2.ModelInstanceGroup.KIND_CPU, 3)
    policy = parsed.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (5, 1_500_000)
    assert [(spec.name, list(spec.dims)) for spec in parsed.input] == [
        (spec.name, list(spec.dims)) for spec in INPUTS
    ]
    assert parsed.model_warmup[0].inputs.keys() == {"seed"}


def test_a_default_that_requests_may_not_have(checkpoint: Path, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("serving: {truncation_psi: 3.0}\n")
    with pytest.raises(InputError, match=r"truncation_psi 3\.0"):
        export(checkpoint, tmp_path / "repository", config=export_main.load_config(params))
    assert versions(tmp_path / "repository") == []


def test_onnx_and_programs_make_the_same_networks(checkpoint: Path, tmp_path: Path) -> None:
    """The files by themselves, under the runtimes that they are for."""
    folder = export(checkpoint, tmp_path, onnx=True).folder
    card = read_model_card(folder)
    assert (
        card.checks.keys()
        == {"mapping.pt2", "fields.pt2", "mapping.onnx", "fields.onnx"}
        <= card.files.keys()
    )
    sampler, served = Sampler.load(checkpoint), StableSampler.load_exported(folder)
    z_12Z = torch.randn(1, 2, sampler.generator.z_dim, generator=torch.Generator().manual_seed(9))
    ours, theirs = sampler.map(z_12Z, 0.6), served.map(z_12Z, 0.6)
    assert torch.equal(ours.w_geo_BD, theirs.w_geo_BD) and torch.equal(ours.w_tex_BD, theirs.w_tex_BD)
    geometry, planes, _ = sampler.networks(ours)
    assert torch.equal(geometry.sdf_BN, served.networks(theirs)[0].sdf_BN)
    for name in ("mapping.onnx", "fields.onnx"):
        onnx.checker.check_model(onnx.load(folder / name), full_check=True)
        assert {node.domain for node in onnx.load(folder / name).graph.node} == {""}, (
            "standard operators only"
        )
        assert b"site-packages" not in (folder / name).read_bytes()
    outputs = run_onnx(folder / "fields.onnx", [ours.w_geo_BD, ours.w_tex_BD])
    for expected, actual in zip(
        (planes, geometry.sdf_BN, geometry.deform_BN3), (outputs[0], *outputs[2:4]), strict=True
    ):
        assert (expected - actual).abs().max() <= 1e-4 * expected.abs().max()


def test_a_form_that_differs_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "export_program", _slightly_wrong)
    with pytest.raises(
        InputError, match=r"fields\.pt2: (sdf|deform|planes_tex) differs .* nothing was exported"
    ):
        export(checkpoint, tmp_path, onnx=True)
    assert list((tmp_path / "get3d").iterdir()) == []


def _slightly_wrong(network: Network) -> torch.export.ExportedProgram:
    """What a faulty conversion would be."""
    if type(network.module).__name__ == "FieldsProgram":
        with torch.no_grad():
            state = network.module.state_dict()
            name = next(name for name in state if name.endswith("b8.conv1.weight"))
            state[name].mul_(1.001)
    return export_program(network)


def test_differences_are_seen() -> None:
    ones = torch.ones(3)
    assert programs.difference(ones, ones) == 0.0
    assert programs.difference(2 * ones, 2 * ones + torch.tensor([0, 0, 1e-3])) == pytest.approx(
        5e-4, rel=1e-3
    )
    assert (
        programs.difference(ones, ones * float("nan")) == programs.difference(ones, ones[:2]) == float("inf")
    )


@pytest.mark.parametrize(
    "changes", [{"generator": "separate"}, {"isosurface": "flexicubes"}, {"num_classes": 3}]
)
def test_every_kind_of_network_becomes_a_program(changes: dict[str, Any], tmp_path: Path) -> None:
    model = replace(CONFIG.model, initial_shape=None, **changes)
    sampler = Sampler.load(write_checkpoint(tmp_path, config=replace(CONFIG, model=model)))
    for network, fresh in zip(
        *(networks_of(sampler.generator, seed).values() for seed in (0, 1)), strict=True
    ):
        module = export_program(network).module()
        with torch.no_grad():
            pairs = zip(network.module(*fresh.inputs), module(*fresh.inputs), strict=True)
            assert all(torch.equal(expected, actual) for expected, actual in pairs)


def test_the_card_tells_the_origin(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"mmd": 0.5}')
    (tmp_path / "credits.md").write_text("Cars by A. Person")
    arguments = [
        "--checkpoint",
        str(checkpoint),
        "--repository",
        str(tmp_path),
        "--no-onnx",
        "--licence",
        "CC BY 4.0",
    ]
    arguments += ["--metrics", str(tmp_path / "metrics.json"), "--credits", str(tmp_path / "credits.md")]
    assert main([*arguments, "--training-commit", "abc123"]) == 0
    origin = read_model_card(tmp_path / "get3d" / "1").origin
    assert origin == Origin("0" * 64, "abc123", {"mmd": 0.5}, "CC BY 4.0", "Cars by A. Person")
    for text in ("no JSON", "[0.5]", '{"mmd": NaN}'):
        (tmp_path / "metrics.json").write_text(text)
        assert main(arguments) == 2


def test_the_card_tells_what_the_checkpoint_does(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path)
    tensors, description = load_tensors(source)
    save_tensors(tensors, source, {**description, "training_commit": "abc", "dataset": {"sha256": "1" * 64}})
    assert read_model_card(export(source, tmp_path / "r", onnx=False).folder).origin == Origin(
        "1" * 64, "abc"
    )


def test_too_few_drift_samples_are_refused_at_once(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", str(checkpoint), "--repository", str(tmp_path / "r"), "--drift-samples"]
    for samples in ("-1", "3"):
        assert main([*arguments, samples]) == 2
        assert f"--drift-samples must be 0 (none), or 20 or more, not {samples}" in capsys.readouterr().err
    assert not (tmp_path / "r").exists(), "refused before any work"


def test_damaged_programs_are_named(checkpoint: Path, tmp_path: Path) -> None:
    folder = export(checkpoint, tmp_path).folder
    (folder / "fields.pt2").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"fields\.pt2: not a readable program"):
        load_program(folder / "fields.pt2")
    with pytest.raises(InputError, match=r"fields\.pt2: missing or changed"):
        check_repository(tmp_path)


def test_bad_checkpoints_are_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, description = load_tensors(checkpoint)
    name = max(tensors, key=lambda key: tensors[key].numel())
    broken = {**tensors, name: torch.full_like(tensors[name], torch.nan)}
    save_tensors(broken, tmp_path / "nan.safetensors", description)
    save_tensors({k: t for k, t in tensors.items() if k != name}, tmp_path / "lacks.safetensors", description)
    (tmp_path / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:-10])
    repository = tmp_path / "repository"
    for file, expected in (
        ("nan.safetensors", f"{name} is not finite"),
        ("lacks.safetensors", f"lacks {name}"),
        ("cut.safetensors", "not a readable safetensors file"),
        ("missing.safetensors", "no checkpoint here"),
    ):
        assert main(["--checkpoint", str(tmp_path / file), "--repository", str(repository)]) == 2
        message = capsys.readouterr().err
        assert file in message and expected in message and message.count("\n") == 1
    assert not repository.exists() or not list(repository.rglob("*.safetensors"))


def test_a_copy_that_samples_differently_is_refused(
    checkpoint: Path, other_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For instance a checkpoint that the trainer replaces meanwhile."""

    def copy_of_another(source: Path, target: Path) -> None:
        target.write_bytes((other_checkpoint if "safetensors" in source.name else source).read_bytes())

    monkeypatch.setattr(export_main.shutil, "copyfile", copy_of_another)
    with pytest.raises(InputError, match="changed while it was exported"):
        export(checkpoint, tmp_path)
    assert list((tmp_path / "get3d").iterdir()) == []


def test_an_interruption_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(source: Path, staged: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export_main, "_check_same_mesh", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, tmp_path)
    assert list((tmp_path / "get3d").iterdir()) == []


def test_two_exports_at_once_do_not_mix(
    checkpoint: Path, other_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            export_main, "_check_same_mesh", lambda *_: export_other(other_checkpoint, tmp_path, patch)
        )
        with pytest.raises(InputError, match="just been written by another export"):
            export(checkpoint, tmp_path)
    assert read_model_card(tmp_path / "get3d" / "1").checkpoint_sha256 == sha256_file(other_checkpoint)


def export_other(checkpoint: Path, repository: Path, patch: pytest.MonkeyPatch) -> None:
    patch.undo()
    export(checkpoint, repository)


def test_foreign_version_folders(checkpoint: Path, tmp_path: Path) -> None:
    """What Triton does not read as a version does not count; a version without a card cannot be served."""
    export(checkpoint, tmp_path)
    for name in ("007", "draft", ".hidden"):
        (tmp_path / "get3d" / name).mkdir()
    assert versions(tmp_path) == [1]
    (tmp_path / "get3d" / "5").mkdir()
    with pytest.raises(InputError, match="no model card here"):
        check_repository(tmp_path)
    card = tmp_path / "get3d" / "1" / "model_card.json"
    values = json.loads(card.read_text())
    del values["defaults"]["truncation_psi"]
    (tmp_path / "get3d" / "5" / "model_card.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="not a model card"):
        check_repository(tmp_path)
