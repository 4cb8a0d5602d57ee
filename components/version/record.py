"""What DVC records of a run: every stage's dependencies, parameters and outputs in dvc.lock, the files in the remote.

The same as `dvc commit` and `dvc push` leave behind, but the outputs lie wherever the cluster put them and are
neither copied into a work tree nor into a cache.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from components.data_pointer import DataPointer
from components.dvc_support import one_line
from components.version.metrics import read_metrics
from components.version.sources import Given, check_known
from components.version.stages import PIPELINE_FILE, with_all_stages, without_stages
from components.version.upload import Content, RemoteStore, is_temporary
from get3d_model.errors import InputError

LOCK_FILE = "dvc.lock"


@dataclass(frozen=True)
class Recorded:
    """remote, remote_url: where the files are. outputs: path -> md5, size, files, as dvc.lock says.
    metrics: flat. not_recorded: stages that were left out. files: what has to be committed to git.
    """

    remote: str
    remote_url: str
    outputs: dict[str, dict[str, Any]]
    metrics: dict[str, float]
    not_recorded: tuple[str, ...]
    files: tuple[str, ...]


@dataclass
class _Run:
    """contents: path in the repository -> what is there. sources: the same -> where it lies, if it was given.
    in_git: outputs that are not in the remote but in the commit.
    """

    root: Path
    store: RemoteStore
    ignored: Any
    contents: dict[str, Content] = field(default_factory=dict)
    sources: dict[str, Path | DataPointer] = field(default_factory=dict)
    in_git: list[str] = field(default_factory=list)


def record(
    folder: Path,
    given: Given,
    params_file: str,
    remote: str | None,
    without: Iterable[str],
    scratch: Path,
    hashes: Path,
) -> Recorded:
    """Writes dvc.lock of the clone in `folder`, after all outputs are in the remote. Raises InputError.

    params_file: the name of the params file in the clone, already that of the run. without: names of stages that
    did not run. scratch: a writable folder. hashes: a folder that lasts from attempt to attempt, so that files which
    did not change are hashed once.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.hashfile.state import State

    # It tells of every lock file; errors come as exceptions.
    logging.getLogger("dvc").setLevel(logging.ERROR)
    pipeline = folder / PIPELINE_FILE
    if pipeline.is_file():
        pipeline.write_text(with_all_stages(pipeline.read_text()))
    try:
        with Repo(str(folder)) as repo:
            # Its own belongs to the place of the clone, which is another one each time.
            repo.state.close()
            repo.state = repo.cache.local.state = State(str(folder), str(hashes), repo.dvcignore)
            return _record(repo, folder, given, params_file, remote, tuple(without), scratch)
    except DvcException as error:
        raise InputError(f"the pipeline at this revision: {one_line(error)}") from error


def _record(
    repo: Any,
    folder: Path,
    given: Given,
    params_file: str,
    remote: str | None,
    without: tuple[str, ...],
    scratch: Path,
) -> Recorded:
    stages = [stage for stage in repo.index.stages if getattr(stage, "name", None)]
    if not stages:
        raise InputError("the revision has no dvc.yaml with stages; nothing says what the outputs are")
    names = [stage.name for stage in stages]
    for name in without:
        if name not in names:
            raise InputError(f"--without {name}: no such stage; there are {', '.join(names)}")
    recorded = [stage for stage in stages if stage.name not in without]
    outputs = {path(out, folder): out for stage in stages for out in stage.outs}
    reads = {path(dep, folder) for stage in stages for dep in stage.deps}
    made = {path(out, folder) for stage in recorded for out in stage.outs}
    for name in given.by_path.keys() & (outputs.keys() - made):
        raise InputError(f"--outputs {name}: its stage is left out by --without; leave out one of the two")
    inputs = check_known(given, outputs, reads)
    pipeline = without_stages((folder / PIPELINE_FILE).read_text(), without)
    run = _Run(folder, RemoteStore(repo, remote, scratch), repo.dvcignore)

    for name in inputs:
        run.sources[name] = given.by_path[name]
    kept = [stage for stage in recorded if not _find_sources(run, stage, given)]
    _check_dependencies(run, recorded, made)
    for name, source in run.sources.items():
        _transfer(run, name, source, in_git=name in outputs and not outputs[name].use_cache)
    for stage in kept:
        for out in stage.outs:
            run.contents[path(out, folder)] = run.store.kept(out.hash_info, out.meta)
    for stage in kept:
        _check_kept(run, stage)
    _write_lock(run, recorded, kept)
    metrics = read_metrics(_metric_files(run, recorded))
    (folder / PIPELINE_FILE).write_text(pipeline)
    files = [
        params_file,
        PIPELINE_FILE,
        LOCK_FILE,
        *run.in_git,
        *(_write_input(run, name) for name in inputs),
    ]
    return Recorded(
        remote=run.store.name,
        remote_url=run.store.url,
        outputs={
            name: {
                "md5": content.hash_info.value,
                "size": content.meta.size,
                "files": content.meta.nfiles or 1,
            }
            for name, content in sorted(run.contents.items())
        },
        metrics=metrics,
        not_recorded=tuple(name for name in names if name in without),
        files=tuple(files),
    )


def path(item: Any, root: Path) -> str:
    """The path of an output or dependency in the repository; absolute where it lies outside."""
    found = Path(item.fs_path)
    return found.relative_to(root).as_posix() if found.is_relative_to(root) else str(found)


def _find_sources(run: _Run, stage: Any, given: Given) -> bool:
    """Notes where the outputs of a stage lie; False where nobody says, and those of the revision are kept."""
    found = {path(out, run.root): given.find(path(out, run.root)) for out in stage.outs}
    if not any(found.values()) and all(out.hash_info for out in stage.outs):
        return False
    for out in stage.outs:
        name = path(out, run.root)
        source = found[name]
        if source is None:
            raise InputError(
                f"output {name} of stage {stage.name} was not given; --outputs {name}=FOLDER, or --without {stage.name}"
                " where the stage did not run"
            )
        is_folder = isinstance(source, Path) and source.is_dir()
        if (out.metric or out.plot) and Path(name).suffix and is_folder:
            raise InputError(f"--outputs {name}={source}: is a folder, and stage {stage.name} makes a file")
        run.sources[name] = source
    return True


def _transfer(run: _Run, name: str, source: Path | DataPointer, in_git: bool) -> None:
    """An output to the remote; into the work tree where the pipeline keeps it in git (`cache: false`)."""
    leaves_out = partial(_left_out, run, name)
    if in_git and isinstance(source, Path):
        content, sent = run.store.hash(source, leaves_out), 0
        for file, _, _ in content.files:
            target = run.root / name / file if file else run.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file if file else source, target)
        run.in_git.append(name)
    else:
        content, sent = run.store.upload(source, leaves_out)
    run.contents[name] = content
    size = sum(size or 0 for _, _, size in content.files) / 1e6
    print(f"{name}: {len(content.files)} files, {size:.1f} MB, {sent} objects transferred", flush=True)


def _check_kept(run: _Run, stage: Any) -> None:
    """Raises InputError unless the revision's outputs of a stage were made by the run's command from its inputs."""
    before = [dep.hash_info for dep in stage.deps]
    _fill_dependencies(run, stage)
    changed = [str(dep) for dep, old in zip(stage.deps, before, strict=True) if dep.hash_info != old]
    if changed or stage.changed_stage():
        raise InputError(
            f"stage {stage.name}: the revision's outputs were made from other inputs"
            f" ({', '.join(changed) or 'another command'}); give the run's with --outputs"
            f" {path(stage.outs[0], run.root)}=FOLDER"
        )


def _left_out(run: _Run, name: str, file: str) -> bool:
    """What is half-written, and what .dvcignore names, as in a work tree."""
    return is_temporary(file) or run.ignored.is_ignored_file(str(run.root / name / file))


def _check_dependencies(run: _Run, stages: list[Any], made: set[str]) -> None:
    """Before anything is transferred: everything that the stages read must be there for whoever clones the branch."""
    for stage in stages:
        for dep in stage.deps:
            name = path(dep, run.root)
            if _maker(name, made | run.sources.keys()):
                continue
            if not Path(name).is_absolute() and (run.root / name).exists():
                continue
            if Path(name).is_absolute():
                raise InputError(
                    f"stage {stage.name} reads {name}, which a clone elsewhere does not have; name a path in the"
                    f" repository with --set (such as meshes.path=data/own) and say where it is: --outputs data/own={name}"
                )
            raise InputError(
                f"stage {stage.name} reads {name}, which neither the revision nor --outputs has; --outputs {name}=FOLDER"
            )


def _maker(name: str, paths: Iterable[str]) -> str | None:
    """The output that `name` is, or lies in."""
    return next((p for p in paths if name == p or name.startswith(f"{p}/")), None)


def _fill_dependencies(run: _Run, stage: Any) -> None:
    for dep in stage.deps:
        name = path(dep, run.root)
        maker = _maker(name, run.contents)
        if maker is None:
            dep.save()
        elif maker == name:
            dep.hash_info, dep.meta = run.contents[name].hash_info, run.contents[name].meta
        else:
            content = run.contents[maker].part(name.removeprefix(f"{maker}/"))
            if content is None:
                raise InputError(
                    f"stage {stage.name} reads {name}, which is not in {run.sources.get(maker, maker)}"
                )
            dep.hash_info, dep.meta = content.hash_info, content.meta


def _write_lock(run: _Run, stages: list[Any], kept: list[Any]) -> None:
    lock = run.root / LOCK_FILE
    lock.unlink(missing_ok=True)
    for stage in stages:
        if stage not in kept:
            for out in stage.outs:
                content = run.contents[path(out, run.root)]
                out.hash_info, out.meta = content.hash_info, content.meta
            _fill_dependencies(run, stage)
        stage.dump(update_pipeline=False)
    if not lock.exists():
        raise InputError("every stage was left out; nothing would be recorded")


def _write_input(run: _Run, name: str) -> str:
    """A .dvc file for what no stage makes. It stands in the root, because git ignores the data folders."""
    content = run.contents[name]
    entry: dict[str, Any] = {"md5": content.hash_info.value, "size": content.meta.size, "hash": "md5"}
    if content.meta.nfiles is not None:
        entry["nfiles"] = content.meta.nfiles
    file = f"{name.replace('/', '-')}.dvc"
    (run.root / file).write_text(yaml.safe_dump({"outs": [entry | {"path": name}]}, sort_keys=False))
    return file


def _metric_files(run: _Run, stages: list[Any]) -> list[Path]:
    """The files with metrics that the run left: outputs that are metrics, and dvc.yaml's own list."""
    declared = yaml.safe_load((run.root / PIPELINE_FILE).read_text()).get("metrics") or []
    names = [path(out, run.root) for stage in stages for out in stage.outs if out.metric]
    found = []
    for name in [*names, *declared]:
        maker = _maker(name, run.sources)
        source = run.sources.get(maker) if maker else None
        if isinstance(source, Path):
            file = source / name.removeprefix(maker or "").lstrip("/") if name != maker else source
            if file.is_file() and file not in found:
                found.append(file)
    return found
