"""Export: a checkpoint becomes an immutable version of a Triton model repository.

A version appears whole or not at all, and only after the written copy has made the same mesh as its source.
Nothing written depends on the time or the machine, so that DVC can track the repository.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path

from get3d_model.config import Config, config_from_dict, config_to_dict, load_config
from get3d_model.errors import InputError
from get3d_model.files import sha256_file, write_bytes_atomic, write_json_atomic
from serving.codec import MODEL_NAME, SampleRequest
from serving.reference import REFERENCE_FILE, REFERENCE_MESH_FILE, write_reference
from serving.repository import (
    CARD_FILE,
    CONFIG_FILE,
    MODEL_FILE,
    TEMPLATE_DIR,
    Defaults,
    ModelCard,
    file_hashes,
    render_config,
    versions,
)

DISTRIBUTION = "get3d-pipeline"
CHECK_SEED = 0
CHECK_TEXTURE_RESOLUTION = 128


@dataclass(frozen=True)
class Exported:
    """folder: that of the version. created: False when the repository held the same version already."""

    folder: Path
    version: int
    created: bool


def export(
    checkpoint: Path, repository: Path, version: int | None = None, config: Config | None = None
) -> Exported:
    """Writes `checkpoint` as a version of `repository`; None: the one that is the same, or the next.

    config: whose serving section sets defaults and batch size; None: the one the model was trained with.
    Raises InputError for a checkpoint that is missing, damaged or not finite, a version number below 1, and a
    version that exists with other content.
    """
    # Here and not above, so that `get3d export --help` does not wait for torch.
    import torch

    from get3d_model.bundle import EMA, is_bundle, load_parts
    from get3d_model.inference import GENERATOR_FILE, find_checkpoint
    from get3d_model.weights import save_tensors

    if version is not None and version < 1:
        raise InputError(f"version {version} is not possible; Triton's versions start at 1")
    source = find_checkpoint(checkpoint)
    parts, description = load_parts(source, [EMA])
    if EMA not in parts or "config" not in description:
        raise InputError(f"{source}: holds no generator; give the {GENERATOR_FILE} of a checkpoint")
    tensors = parts[EMA]
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{source}: {name} is not finite; export an earlier checkpoint")
    trained = config_from_dict(description["config"], f"{source} header")
    serving = (config or trained).serving
    model_folder = Path(repository) / MODEL_NAME
    with _staging_folder(model_folder) as staged:
        if is_bundle(source):
            # Only what samples; the rest of the model would stay in the server's memory and on its disk.
            save_tensors(tensors, staged / GENERATOR_FILE, description)
        else:
            shutil.copyfile(source, staged / GENERATOR_FILE)
        shutil.copyfile(TEMPLATE_DIR / MODEL_FILE, staged / MODEL_FILE)
        card = ModelCard(
            name=trained.name,
            checkpoint_sha256=sha256_file(staged / GENERATOR_FILE),
            checkpoint={key: value for key, value in description.items() if key != "config"},
            config=config_to_dict(trained),
            defaults=Defaults(serving.truncation_psi, serving.texture_resolution),
            max_batch_size=serving.max_batch_size,
            package_version=package_version(DISTRIBUTION),
            files=file_hashes(staged),
        )
        write_json_atomic(staged / CARD_FILE, card.to_json())
        number, exists = _choose_version(Path(repository), version, file_hashes(staged))
        folder = model_folder / str(number)
        if not exists:
            _check_same_mesh(source, staged)
            _write_reference(staged, serving.truncation_psi, serving.texture_resolution)
        write_bytes_atomic(model_folder / CONFIG_FILE, render_config(serving.max_batch_size).encode())
        if not exists:
            try:
                # Fails when another export has made the version meanwhile.
                os.rename(staged, folder)
            except OSError:
                raise InputError(
                    f"{folder}: has just been written by another export; run this again"
                ) from None
    return Exported(folder, number, not exists)


@contextmanager
def _staging_folder(model_folder: Path) -> Iterator[Path]:
    """A folder beside the versions, whose name Triton ignores; removed unless it was renamed."""
    model_folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=model_folder))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _choose_version(repository: Path, wanted: int | None, content: dict[str, str]) -> tuple[int, bool]:
    """(version, whether it stands there already with this content)."""
    existing = versions(repository)
    for number in [wanted] if wanted is not None else reversed(existing):
        if number in existing:
            folder = repository / MODEL_NAME / str(number)
            # Another machine rounds differently, and its reference sample is as good.
            present = {
                name: sha256
                for name, sha256 in file_hashes(folder).items()
                if name not in (REFERENCE_FILE, REFERENCE_MESH_FILE)
            }
            if present == content:
                return number, True
            if wanted is not None:
                differing = sorted(
                    n for n in present.keys() | content.keys() if present.get(n) != content.get(n)
                )
                raise InputError(
                    f"{folder}: exists with other content ({', '.join(differing)}), which never changes; "
                    f"leave out --version, or use {existing[-1] + 1}"
                )
    return wanted or (existing[-1] + 1 if existing else 1), False


def _check_same_mesh(source: Path, staged: Path) -> None:
    """Raises InputError unless the staged checkpoint and its source make the same file from the same seed."""
    first, second = (_check_mesh(path) for path in (source, staged))
    if first != second:
        raise InputError(
            f"{source}: changed while it was exported; wait until it is written, and export again"
        )


def _check_mesh(checkpoint: Path) -> bytes:
    from get3d_model.inference import Sampler, with_extras
    from get3d_model.mesh_io import mesh_bytes

    (mesh,) = Sampler.load(checkpoint).generate([CHECK_SEED], texture_resolution=CHECK_TEXTURE_RESOLUTION)
    # Without the file's hash: the generator of a bundle is another file.
    return mesh_bytes(with_extras(mesh, {}), "glb")


def _write_reference(staged: Path, psi: float, texture_resolution: int) -> None:
    """The sample that a roll-out compares every server's with."""
    from get3d_model.inference import Sampler, with_extras
    from get3d_model.mesh_io import mesh_bytes

    sampler = Sampler.load(staged)
    request = SampleRequest(CHECK_SEED, psi, texture_resolution, "glb")
    (mesh,) = sampler.generate([CHECK_SEED], psi, texture_resolution)
    write_reference(staged, request, mesh_bytes(with_extras(mesh, sampler.extras(CHECK_SEED, psi)), "glb"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="weight file, checkpoint or training folder"
    )
    parser.add_argument(
        "--repository", type=Path, required=True, help="Triton model repository to write into"
    )
    parser.add_argument("--version", type=int, help="none: the next free one")
    parser.add_argument(
        "--config", type=Path, help="params file with the serving section to use; none: as trained"
    )


def run(args: argparse.Namespace) -> None:
    config = load_config(args.config) if args.config else None
    exported = export(args.checkpoint, args.repository, args.version, config)
    state = "written" if exported.created else "up to date"
    print(f"{exported.folder}: version {exported.version} {state}")
    print(f"serve it with: get3d serve --repository {args.repository}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="get3d export", description=__doc__)
    add_arguments(parser)
    try:
        run(parser.parse_args(argv))
    except InputError as error:
        print(f"get3d export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
