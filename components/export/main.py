"""Export: a checkpoint becomes an immutable version of a Triton model repository.

A version appears whole or not at all, and only after the written copy has made the same mesh as its source, and the
exported programs the same values as the modules.
Nothing written depends on the time or the machine, so that DVC can track the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from get3d_model.config import Config, config_from_dict, config_to_dict, load_config
from get3d_model.entry_point import command_main
from get3d_model.errors import InputError
from get3d_model.files import sha256_file, write_bytes_atomic, write_json_atomic
from get3d_model.version import package_version
from serving.codec import MODEL_NAME, SampleRequest
from serving.drift import DEFAULT_SAMPLES, check_samples, sample_reference, write_drift
from serving.reference import write_reference
from serving.repository import (
    CARD_FILE,
    CONFIG_FILE,
    MAX_VERSION,
    MODEL_FILE,
    TEMPLATE_DIR,
    Defaults,
    Limits,
    ModelCard,
    Origin,
    file_hashes,
    read_model_card,
    render_config,
    versions,
)

if TYPE_CHECKING:
    from get3d_model.generator import Generator
    from get3d_model.inference import Sampler

CHECK_SEED = 0
UNTOLD = Origin()
CHECK_TEXTURE_RESOLUTION = 128


@dataclass(frozen=True)
class Exported:
    """folder: that of the version. created: False when the repository held the same version already."""

    folder: Path
    version: int
    created: bool


def export(
    checkpoint: Path,
    repository: Path,
    version: int | None = None,
    config: Config | None = None,
    origin: Origin = UNTOLD,
    onnx: bool = True,
    drift_samples: int = 0,
) -> Exported:
    """Writes `checkpoint` as a version of `repository`; None: the one that is the same, or the next.

    config: whose serving section sets defaults and limits; None: the one the model was trained with.
    origin: what the checkpoint itself does not tell. onnx: whether the networks are written as ONNX, too.
    drift_samples: meshes that are sampled so that drift can be seen in production (see `serving.drift`); 0: none.
    Raises InputError for a checkpoint that is missing, damaged or not finite, a version number that is not possible, a version
    that exists with other content, and an exported form that differs too much from the modules.
    """
    # Here and not above, so that `get3d export --help` does not wait for torch.
    import torch

    from components.export import programs
    from get3d_model.bundle import EMA, is_bundle, load_parts
    from get3d_model.inference import GENERATOR_FILE, find_checkpoint
    from get3d_model.stable_sampler import StableSampler
    from get3d_model.weights import save_tensors

    if version is not None and not 1 <= version <= MAX_VERSION:
        raise InputError(f"version {version} is not possible; use 1 to {MAX_VERSION}")
    if drift_samples:
        check_samples("--drift-samples", drift_samples, "0 (none), or ")
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
        limits = Limits(serving.time_limit_s, serving.queue_size, serving.queue_timeout_s)
        card = ModelCard(
            name=trained.name,
            checkpoint_sha256=sha256_file(staged / GENERATOR_FILE),
            checkpoint={key: value for key, value in description.items() if key != "config"},
            config=config_to_dict(trained),
            defaults=Defaults(serving.truncation_psi, serving.texture_resolution),
            max_batch_size=serving.max_batch_size,
            package_version=package_version(),
            files=file_hashes(staged),
            limits=limits,
            origin=_origin(origin, description),
        )
        number, exists = _choose_version(Path(repository), version, card)
        folder = model_folder / str(number)
        if not exists:
            _check_same_mesh(source, staged)
            sampler = StableSampler.load(staged)
            sampler.programs, checks = programs.write_programs(sampler.generator, staged, onnx)
            _write_reference(sampler, staged, serving.truncation_psi, serving.texture_resolution)
            if drift_samples:
                write_drift(staged, sample_reference(sampler, drift_samples, serving.truncation_psi))
            card = replace(
                card, files=file_hashes(staged), parameters=_parameters(sampler.generator), checks=checks
            )
            write_json_atomic(staged / CARD_FILE, card.to_json())
        text = render_config(serving.max_batch_size, limits, serving.instances, serving.device)
        write_bytes_atomic(model_folder / CONFIG_FILE, text.encode())
        if not exists:
            try:
                # Fails when another export has made the version meanwhile.
                os.rename(staged, folder)
            except OSError:
                raise InputError(
                    f"{folder}: has just been written by another export; run this again"
                ) from None
    return Exported(folder, number, not exists)


def _origin(given: Origin, description: dict[str, Any]) -> Origin:
    """What was given, completed by what the checkpoint says."""
    sha256 = (description.get("dataset") or {}).get("sha256") or description.get("dataset_sha256")
    return replace(
        given,
        dataset_sha256=given.dataset_sha256 or sha256,
        training_commit=given.training_commit or description.get("training_commit"),
    )


def _parameters(generator: Generator) -> dict[str, int]:
    mapping = sum(p.numel() for m in (generator.mapping, generator.mapping_geo) for p in m.parameters())
    return {"mapping": mapping, "synthesis": sum(p.numel() for p in generator.synthesis.parameters())}


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


def _choose_version(repository: Path, wanted: int | None, card: ModelCard) -> tuple[int, bool]:
    """(version, whether it stands there already). `card` has what the version is made from, and nothing derived:
    programs and reference sample, which another version of torch or another machine writes differently."""
    existing = versions(repository)
    for number in [wanted] if wanted is not None else reversed(existing):
        if number in existing:
            folder = repository / MODEL_NAME / str(number)
            differing = _differing(folder, card)
            if not differing:
                return number, True
            if wanted is not None:
                raise InputError(
                    f"{folder}: exists with other content ({', '.join(differing)}), which never changes; "
                    f"leave out --version, or use {existing[-1] + 1}"
                )
    return wanted or (existing[-1] + 1 if existing else 1), False


def _differing(folder: Path, card: ModelCard) -> list[str]:
    """Files of a version that are not what `card` would be exported as."""
    present = file_hashes(folder)
    differing = [name for name, sha256 in card.files.items() if present.get(name) != sha256]
    try:
        existing = read_model_card(folder)
        derived = {"files": card.files, "parameters": card.parameters, "checks": card.checks}
        if replace(existing, **derived) != card or any(
            present.get(name) != sha256 for name, sha256 in existing.files.items()
        ):
            differing.append(CARD_FILE)
    except InputError:
        differing.append(CARD_FILE)
    return sorted(differing)


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


def _write_reference(sampler: Sampler, staged: Path, psi: float, texture_resolution: int) -> None:
    """The sample that a roll-out compares every server's with."""
    from get3d_model.inference import with_extras
    from get3d_model.mesh_io import mesh_bytes

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
    parser.add_argument("--metrics", type=Path, help="JSON of the evaluation, for the model card")
    parser.add_argument("--training-commit", help="commit of the code that trained, for the model card")
    parser.add_argument("--licence", help="terms of the weights, for the model card")
    parser.add_argument("--credits", type=Path, help="text file with whom to name, for the model card")
    parser.add_argument(
        "--no-onnx",
        dest="onnx",
        action="store_false",
        help="leave out the networks as ONNX (the server needs none)",
    )
    parser.add_argument(
        "--drift-samples",
        type=int,
        default=DEFAULT_SAMPLES,
        help="meshes sampled now that production's are compared with (docs/monitoring.md); 0: none",
    )


def _read(path: Path, option: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{option} {path}: cannot be read ({error})") from None


def _metrics(text: str) -> dict[str, Any]:
    values = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    return values


def _refuse_constant(name: str) -> None:
    # No JSON, and unequal to itself: the same export would become another version each time.
    raise ValueError(f"{name} is no JSON number")


def run(args: argparse.Namespace) -> None:
    config = load_config(args.config) if args.config else None
    origin = Origin(
        training_commit=args.training_commit,
        metrics=_read(args.metrics, "--metrics", _metrics) if args.metrics else {},
        licence=args.licence,
        credits=_read(args.credits, "--credits", str) if args.credits else None,
    )
    exported = export(
        args.checkpoint, args.repository, args.version, config, origin, args.onnx, args.drift_samples
    )
    state = "written" if exported.created else "up to date"
    print(f"{exported.folder}: version {exported.version} {state}")
    print(f"serve it with: get3d serve --repository {args.repository}")


main = command_main("get3d export", __doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
