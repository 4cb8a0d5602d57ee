"""Which folders of a model repository are versions."""

from pathlib import Path

from serving.codec import MODEL_NAME
from serving.repository import MAX_VERSION, version_numbers, versions


def test_folders_that_triton_cannot_take_are_no_versions() -> None:
    names = [
        "10",
        "9",
        "0",
        "01",
        "-1",
        "two",
        "\u0663",
        "",
        str(MAX_VERSION),
        str(MAX_VERSION + 1),
        "9" * 5000,
    ]
    assert version_numbers(names) == [9, 10, MAX_VERSION]


def test_files_are_no_versions(tmp_path: Path) -> None:
    folder = tmp_path / MODEL_NAME
    (folder / "2").mkdir(parents=True)
    (folder / "3").write_text("")
    (folder / "99999999999999999999").mkdir()
    assert versions(tmp_path) == [2]
    assert versions(tmp_path / "nowhere") == []
