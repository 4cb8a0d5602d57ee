"""Data by pointer: from a real repository and remote; fetched once, checked, streamed, recorded without a copy."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from components.data_pointer import DataPointer, local_folder, open_pointer, parse_location
from components.version.main import record_version
from get3d_model.errors import InputError
from pipelines.cli import main
from tests.components.version_project import PARAMS, Project, check_version, git, make_project


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Project:
    """A project with version runs/a-1, whose data set is a real one of 16 pixels."""
    project = make_project(tmp_path_factory.mktemp("pointer"))
    shutil.rmtree(project.run / "data/rendered")
    shutil.copytree(tiny_data, project.run / "data/rendered")
    record_version(project.request())
    return project


def pointer_to(project: Project, path: str = "data/rendered") -> str:
    return f"dvc://{project.bare}@runs/a-1:{path}"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dvc:///srv/x.git@main:data/rendered", ("/srv/x.git", "main", "data/rendered")),
        ("dvc://git@host:a/b.git@v1:data", ("git@host:a/b.git", "v1", "data")),
        ("dvc://https://u:p@host/b.git@runs/a-1:d/e", ("https://u:p@host/b.git", "runs/a-1", "d/e")),
    ],
)
def test_addresses(text: str, expected: tuple[str, str, str]) -> None:
    location = parse_location(text)
    assert isinstance(location, DataPointer)
    assert (location.repo, location.revision, location.path) == expected
    assert "u:p" not in str(location)


def test_folders_stay_folders(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"cov": 1}')
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "metrics.json"):
        assert parse_location(str(path)) == path
        assert local_folder(path) == path


def test_what_is_fetched_is_what_was_recorded(recorded: Project, tmp_path: Path) -> None:
    assert main(["data", "pointer", pointer_to(recorded), "--out", str(tmp_path / "set.json")]) == 0
    stored = json.loads((tmp_path / "set.json").read_text())["dvc_pointer"]
    assert stored["revision"] == git(recorded.bare, "rev-parse", "runs/a-1")
    location = parse_location(str(tmp_path / "set.json"))
    folder = local_folder(location, tmp_path / "cache")
    assert tree(folder) == tree(recorded.run / "data/rendered")
    # From then on nobody asks the repository or the remote.
    assert local_folder(replace(location, repo="/gone"), tmp_path / "cache") == folder


def test_a_stopped_fetch_continues(
    recorded: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = parse_location(pointer_to(recorded))
    whole = local_folder(location, tmp_path / "one")
    partial = tmp_path / "two" / f"{whole.name}.part"
    shutil.copytree(whole, partial)
    kept, cut = sorted(p for p in partial.rglob("*") if p.is_file())[:2]
    before = kept.stat().st_ino
    os.truncate(cut, 1)
    folder = local_folder(location, tmp_path / "two")
    assert tree(folder) == tree(whole)
    assert (folder / kept.relative_to(partial)).stat().st_ino == before


def fetch(location: DataPointer, cache: Path, results: multiprocessing.Queue) -> None:
    results.put(str(local_folder(location, cache)))


def test_processes_fetch_once(recorded: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    location = parse_location(pointer_to(recorded))
    processes = [
        context.Process(target=fetch, args=(location, tmp_path / "cache", results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    assert len({results.get(timeout=60) for _ in processes}) == 1
    for process in processes:
        process.join(60)
    assert capfd.readouterr().out.count("fetching") == 1


def test_training_reads_through_a_pointer(recorded: Project, tmp_path: Path) -> None:
    """Without the data set on any disk of its own: what the cache may hold is less than a shard."""
    from components.pointer_filesystem import address, register
    from get3d_model.data.shard_source import ShardSource
    from get3d_model.data.staged_source import StagedSource

    register()
    url = address(parse_location(pointer_to(recorded)))
    source = StagedSource(url, tmp_path / "cache", 0)
    try:
        direct = ShardSource(recorded.run / "data/rendered")
        assert len(source.table) == len(direct.table)
        for index in range(len(direct.table)):
            assert source.read_png(index) == direct.read_png(index)
        assert not list((tmp_path / "cache").rglob("*.tar"))
    finally:
        source.close()


def test_a_version_takes_a_data_set_by_its_pointer(recorded: Project, tmp_path: Path) -> None:
    """Into the repository of another project, whose remote is another one; nothing is unpacked anywhere."""
    other = make_project(tmp_path)
    shutil.rmtree(other.run / "data/rendered")
    outputs = (f"data/rendered={pointer_to(recorded)}", *other.request().outputs[1:])
    version = record_version(other.request(outputs=outputs))
    clone = check_version(other.bare, "runs/a-1", tmp_path)
    assert tree(clone / "data/rendered") == tree(recorded.run / "data/rendered")
    assert version.outputs["data/rendered"]["files"] == len(tree(recorded.run / "data/rendered"))
    # In the same repository there is nothing to transfer at all.
    again = replace(recorded, folder=tmp_path).request(
        "a-2", outputs=(f"data/rendered={pointer_to(recorded)}", *recorded.request().outputs[1:])
    )
    record_version(again)
    locks = [git(recorded.bare, "show", f"runs/{name}:dvc.lock") for name in ("a-1", "a-2")]
    assert yaml.safe_load(locks[0]) == yaml.safe_load(locks[1])


def test_render_takes_meshes_by_pointer(recorded: Project, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("GET3D_DATA_CACHE", str(tmp_path / "cache"))
    # The folder holds no mesh, which the step says of the fetched copy.
    assert main(["render", pointer_to(recorded, "outputs/train"), str(tmp_path / "out")]) == 2
    assert str(tmp_path / "cache") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "revision", "words"),
    [
        ("data/nothing", "runs/a-1", ["data/nothing", "no such path"]),
        ("data/rendered", "no-such", ["no-such", "cannot be opened"]),
        ("step.py", "main", ["step.py", "not tracked by DVC"]),
    ],
)
def test_mistakes(recorded: Project, path: str, revision: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        local_folder(DataPointer(str(recorded.bare), revision, path), tmp_path)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_other_mistakes(recorded: Project, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="write dvc://REPO@REVISION:PATH"):
        parse_location("dvc://here")
    with pytest.raises(InputError, match="cannot be opened"):
        local_folder(DataPointer(str(tmp_path / "no.git"), "main", "x"), tmp_path / "cache")
    with pytest.raises(InputError, match=r"has content .* and not 1234; write the pointer anew"):
        local_folder(replace(parse_location(pointer_to(recorded)), md5="1234"), tmp_path / "cache")
    (tmp_path / "bad.json").write_text('{"dvc_pointer": {"repository": "x"}}')
    with pytest.raises(InputError, match="damaged pointer"):
        parse_location(str(tmp_path / "bad.json"))
    damaged = make_project(tmp_path / "p") if (tmp_path / "p").mkdir() is None else None
    record_version(damaged.request())
    largest = max((tmp_path / "p/remote").rglob("*.dir"), key=lambda p: p.stat().st_size)
    with open_pointer(parse_location(pointer_to(damaged))) as (_, files, _):
        victim = next(f for f in files if f.name.endswith("1.tar"))
    (tmp_path / "p/remote/files/md5" / victim.md5[:2] / victim.md5[2:]).unlink()
    assert largest.exists()
    with pytest.raises(InputError, match=r"1.tar is not in the repository's DVC remote"):
        local_folder(parse_location(pointer_to(damaged)), tmp_path / "cache")
    assert PARAMS["render"]["views"] == 2
