"""`get3d data sheet`: what is on it, pixel by pixel where that can be known."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.data import main as data_main
from get3d_model.data.base import View
from get3d_model.data.sheet import BACKGROUND, GAP, TEXT_HEIGHT
from get3d_model.errors import InputError
from tests.get3d_model.data.synthetic import write_published_dataset, write_shard_dataset


def sheet(*arguments: str | Path) -> None:
    parser = argparse.ArgumentParser()
    data_main.add_arguments(parser)
    data_main.run(parser.parse_args(["sheet", *map(str, arguments)]))


@pytest.fixture
def shapes() -> dict[str, list[View]]:
    """Five shapes, two views: the left half of a picture has the shape's colour, the right is empty."""
    result = {}
    for number in range(5):
        rgba = np.zeros((32, 32, 4), np.uint8)
        rgba[:, :16] = (50 * number, 100, 200, 255)
        result[f"shape{number}"] = [View(rgba, 10.0, 5.0), View(rgba[:, ::-1].copy(), 190.0, 5.0)]
    return result


def test_shapes_evenly_spread_with_their_views(shapes, tmp_path: Path) -> None:
    write_shard_dataset(tmp_path / "set", shapes, splits={"train": list(shapes)})
    sheet(
        tmp_path / "set",
        tmp_path / "a/sheet.png",
        "--shapes",
        "3",
        "--views",
        "2",
        "--size",
        "64",
        "--columns",
        "1",
    )
    picture = np.asarray(Image.open(tmp_path / "a/sheet.png"))
    assert picture.shape == (3 * (64 + TEXT_HEIGHT + GAP) + GAP, 2 * 64 + 2 * GAP, 3)
    for row, number in enumerate((0, 2, 4)):
        top = GAP + row * (64 + TEXT_HEIGHT + GAP) + TEXT_HEIGHT
        assert tuple(picture[top + 30, GAP + 10]) == (50 * number, 100, 200)
        assert tuple(picture[top + 30, GAP + 54]) == BACKGROUND
        assert tuple(picture[top + 30, GAP + 64 + 10]) == BACKGROUND  # the second view
        assert (picture[top - TEXT_HEIGHT : top] < 128).any()  # its name


def test_of_one_split_and_of_the_published_layout(shapes, tmp_path: Path) -> None:
    write_shard_dataset(tmp_path / "set", shapes, splits={"train": ["shape0"], "val": ["shape3"]})
    sheet(tmp_path / "set", tmp_path / "val.png", "--split", "val", "--size", "32")
    picture = np.asarray(Image.open(tmp_path / "val.png"))
    assert tuple(picture[GAP + TEXT_HEIGHT + 10, GAP + 5]) == (150, 100, 200)
    write_published_dataset(tmp_path / "published", shapes)
    sheet(tmp_path / "published", tmp_path / "published.png")
    assert Image.open(tmp_path / "published.png").size[0] > 2 * 128


def test_what_is_refused(shapes, tmp_path: Path) -> None:
    write_shard_dataset(tmp_path / "set", shapes, splits={"train": list(shapes)})
    for arguments, words in (
        ((tmp_path / "set", tmp_path / "a.jpg"), "written as .png"),
        ((tmp_path / "set", tmp_path / "a.png", "--split", "best"), "no split 'best'"),
        ((tmp_path / "none", tmp_path / "a.png"), "does not exist"),
        ((tmp_path / "set", tmp_path / "a.png", "--size", "5"), "--size"),
        ((tmp_path / "set", tmp_path / "a.png", "--views", "0"), "--views"),
    ):
        with pytest.raises(InputError, match=words):
            sheet(*arguments)
