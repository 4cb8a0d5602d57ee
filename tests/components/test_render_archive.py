"""Zipped meshes: unpacked and removed again; nothing hostile is ever written."""

import stat
import struct
import zipfile
from pathlib import Path

import pytest

from components.render import archive
from components.render.archive import is_archive, unpacked
from get3d_model.errors import InputError


def make_zip(path: Path, files: dict[str, bytes | str], **attributes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for key, value in attributes.items():
                setattr(info, key, value)
            opened.writestr(info, content)
    return path


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_unpacks_and_removes(tmp_path):
    path = make_zip(
        tmp_path / "cars.zip", {"a/x.obj": "v", "b.glb": b"\0", "__MACOSX/a/._x.obj": "junk", "empty/": ""}
    )
    assert is_archive(path) and not is_archive(tmp_path)
    with unpacked(path, tmp_path / "work" / "input") as folder:
        assert listing(folder) == ["a/x.obj", "b.glb"]
        assert (folder / "a" / "x.obj").read_text() == "v"
    assert not (tmp_path / "work" / "input").exists()
    with pytest.raises(KeyError), unpacked(path, tmp_path / "input"):
        raise KeyError
    assert not (tmp_path / "input").exists()


def test_one_folder_in_the_archive_is_the_mesh_folder(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"02958343/1a/model.obj": "v", "__MACOSX/x": "", ".DS_Store": ""})
    with unpacked(path, tmp_path / "input") as folder:
        assert folder.name == "02958343" and listing(folder) == ["1a/model.obj"]


@pytest.mark.parametrize(
    "name",
    ["../evil.obj", "/evil.obj", "a/../../evil.obj", "..\\evil.obj", "C:/evil.obj", "C:evil.obj", "a//b.obj"],
)
def test_names_that_lead_outside(tmp_path, name):
    path = make_zip(tmp_path / "a.zip", {"good.obj": "v", name: "v"})
    refuse(path, tmp_path, "would lie outside|no proper name")


def refuse(path: Path, tmp_path: Path, reason: str) -> None:
    before = listing(tmp_path)
    with pytest.raises(InputError, match=reason) as caught, unpacked(path, tmp_path / "work" / "input"):
        pass
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    # Not even the good files, which came first.
    assert listing(tmp_path) == before and not (tmp_path / "work" / "input").exists()


def test_links_passwords_and_repetitions(tmp_path):
    link = make_zip(tmp_path / "a.zip", {"l.obj": "/etc/passwd"}, external_attr=(stat.S_IFLNK | 0o777) << 16)
    refuse(link, tmp_path, "is a link")
    locked = make_zip(tmp_path / "b.zip", {"l.obj": "v"})
    content = bytearray(locked.read_bytes())
    for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        content[content.index(signature) + offset] |= 1
    locked.write_bytes(content)
    refuse(locked, tmp_path, "encrypted")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "c.zip", "w") as opened:
        opened.writestr("x.obj", "v")
        opened.writestr("x.obj", "w")
    refuse(tmp_path / "c.zip", tmp_path, "twice")


def test_bombs(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "a.zip", {"a.obj": bytes(2**20)})
    monkeypatch.setattr(archive, "FREE_BYTES", 1000)
    refuse(path, tmp_path, r"\d+ bytes claim to hold 1048576")
    monkeypatch.setattr(archive, "FREE_BYTES", 2**30)
    # A size that lies: zipfile reads no more than was claimed, and then the sum does not fit.
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\1\2") + 24, 100)
    path.write_bytes(content)
    refuse(path, tmp_path, "damaged")
    monkeypatch.setattr(archive, "MAX_ENTRIES", 0)
    refuse(path, tmp_path, "entries")


def test_damaged(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\3\4 this is not one")
    refuse(tmp_path / "a.zip", tmp_path, "damaged")
    whole = make_zip(tmp_path / "b.zip", {"a.obj": "v 0 0 0\n" * 100}).read_bytes()
    (tmp_path / "b.zip").write_bytes(whole[:40] + bytes([whole[40] ^ 255]) + whole[41:])
    with pytest.raises(InputError, match="damaged"), unpacked(tmp_path / "b.zip", tmp_path / "work"):
        pass
    assert not (tmp_path / "work").exists()
