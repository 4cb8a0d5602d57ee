"""`get3d export`: what a version holds, and that it never changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from components.export import main as export_main
from components.export.main import export, main
from get3d_model.errors import InputError
from get3d_model.files import sha256_file
from get3d_model.inference import Sampler
from get3d_model.weights import load_tensors, save_tensors
from serving.repository import check_repository, file_hashes, read_model_card, versions
from tests.serving.tiny import CONFIG, write_checkpoint


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
    }  # fmt: skip
    card = read_model_card(folder)
    assert (card.name, card.max_batch_size, card.checkpoint["kimg"]) == ("tiny", 8, 0.0)
    assert card.checkpoint["dataset_sha256"] == "0" * 64
    assert (card.defaults.truncation_psi, card.defaults.texture_resolution) == (0.7, 64)
    assert card.checkpoint_sha256 == sha256_file(checkpoint)
    assert card.files == {
        name: sha256_file(folder / name) for name in ("model.py", "generator_ema.safetensors")
    }
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
    arguments = ["--checkpoint", str(checkpoint), "--repository", str(tmp_path)]
    assert main(arguments) == 0
    assert "version 1 written" in capsys.readouterr().out
    assert export(other_checkpoint, tmp_path).version == 2
    before = file_hashes(tmp_path)
    assert main(arguments) == main([*arguments, "--version", "1"]) == 0
    assert capsys.readouterr().out.count("version 1 up to date") == 2
    assert file_hashes(tmp_path) == before
    assert versions(tmp_path) == [1, 2]


def test_versions_never_change(checkpoint: Path, other_checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path, 3)
    before = file_hashes(tmp_path)
    with pytest.raises(InputError, match=r"get3d/3: exists with other content \(generator_ema.*or use 4"):
        export(other_checkpoint, tmp_path, 3)
    assert file_hashes(tmp_path) == before
    assert export(other_checkpoint, tmp_path).version == 4
    with pytest.raises(InputError, match="version 0 is not possible"):
        export(checkpoint, tmp_path, 0)


def test_the_params_file_sets_defaults_and_batch_size(checkpoint: Path, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(
        "serving: {texture_resolution: 256, truncation_psi: 0.5, max_batch_size: 2}\n"
        "render: {resolution: 64}\nmodel: {image_resolution: 64}\n"
    )
    arguments = ["--checkpoint", str(checkpoint), "--repository", str(tmp_path / "repository")]
    assert main([*arguments, "--config", str(params)]) == 0
    card = read_model_card(tmp_path / "repository" / "get3d" / "1")
    assert (card.defaults.texture_resolution, card.defaults.truncation_psi, card.max_batch_size) == (
        256,
        0.5,
        2,
    )
    # The model itself stays the one that was trained.
    assert card.config["model"]["image_resolution"] == CONFIG.model.image_resolution
    assert "max_batch_size: 2\n" in (tmp_path / "repository" / "get3d" / "config.pbtxt").read_text()


def test_a_default_that_requests_may_not_have(checkpoint: Path, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("serving: {truncation_psi: 3.0}\n")
    with pytest.raises(InputError, match=r"truncation_psi 3\.0"):
        export(checkpoint, tmp_path / "repository", config=export_main.load_config(params))
    assert versions(tmp_path / "repository") == []


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
