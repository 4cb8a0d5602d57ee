"""Atomic writing: what stands under a final name is whole."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest

from get3d_model.errors import InputError
from get3d_model.files import (
    atomic_directory,
    atomic_path,
    check_output_folder,
    sha256_file,
    sha256_json,
    write_bytes_atomic,
    write_json_atomic,
)


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mesh.glb"
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".glb" and temporary.parent == path.parent
        temporary.write_bytes(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_bytes(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for content in ("first", "second"):
        with atomic_directory(path) as temporary:
            assert list(temporary.iterdir()) == []
            (temporary / content).write_text(content)
        assert [entry.name for entry in path.iterdir()] == [content]
    with pytest.raises(ValueError, match="stop"), atomic_directory(path) as temporary:
        (temporary / "third").touch()
        raise ValueError("stop")
    assert [entry.name for entry in path.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_readable_and_the_same_for_the_same_value(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "a", {"b": 1, "a": [math.pi, None]})
    write_json_atomic(tmp_path / "b", {"a": [math.pi, None], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text()) == {"a": [math.pi, None], "b": 1}
    assert (tmp_path / "a").read_text().endswith("}\n")


def test_hashes(tmp_path: Path) -> None:
    write_bytes_atomic(tmp_path / "file", b"abc" * 100_000)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1}) != sha256_json({"a": 1, "b": 3})


def test_an_output_folder_that_cannot_be_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, dangling = tmp_path / "file", tmp_path / "dangling"
    file.write_text("x")
    dangling.symlink_to(tmp_path / "nothing")
    for good in (tmp_path, tmp_path / "new" / "er", Path("new"), Path(".")):
        check_output_folder(good)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "dangling"}, "nothing is made"
    for bad, culprit in ((file, file), (file / "below", file), (dangling, dangling)):
        with pytest.raises(InputError, match=f"--to {bad}: {culprit} is no folder; choose another --to"):
            check_output_folder(bad, "--to")
    # As for a user without access; the tests may be run by one who has it everywhere.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match=f"{tmp_path} cannot be written"):
        check_output_folder(tmp_path / "new")
