"""Stages that a run left out are comments of dvc.yaml, and come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from components.version.stages import with_all_stages, without_stages
from get3d_model.errors import InputError

OWN = (Path(__file__).parents[2] / "dvc.yaml").read_text()
SHORT = """# the chain
stages:
  # of the first
  first:
    cmd: >-
      one

      two

  # of the second
  second: {cmd: three}
# after all
metrics: [m.json]
"""


@pytest.mark.parametrize("names", [["export"], ["meshes"], ["meshes", "export"], ["train", "evaluate"], []])
def test_all_others_stay(names: list[str]) -> None:
    left = without_stages(OWN, names)
    before, after = yaml.safe_load(OWN), yaml.safe_load(left)
    assert after["stages"] == {k: v for k, v in before["stages"].items() if k not in names}
    assert {k: v for k, v in after.items() if k != "stages"} == {
        k: v for k, v in before.items() if k != "stages"
    }
    assert with_all_stages(left) == OWN


def test_comments_belong_to_what_follows() -> None:
    left = without_stages(SHORT, ["first"])
    assert left == re.sub(
        r"(?ms)^  first.*?two\n", lambda m: re.sub("(?m)^", "# left out:", m[0][:-1]) + "\n", SHORT
    )
    assert yaml.safe_load(left) == {"stages": {"second": {"cmd": "three"}}, "metrics": ["m.json"]}
    left = without_stages(SHORT, ["second"])
    assert "# left out:  second: {cmd: three}\n# after all\n" in left and with_all_stages(left) == SHORT


@pytest.mark.parametrize(
    "text", ["stages: {a: {cmd: x}, b: {cmd: y}}\n", "a: 1\n", "- a\n", "stages:\n  b:\n    cmd: x\n"]
)
def test_what_has_no_lines_of_its_own_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--without a: in dvc\.yaml it is one of several"):
        without_stages(text, ["a"])
