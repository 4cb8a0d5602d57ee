"""The training log as files for `dvc plots`."""

from __future__ import annotations

import json
from pathlib import Path

from components.train.curves import CURVES, write_curves


def test_every_record_is_in_the_curves_that_it_has(tmp_path: Path) -> None:
    records = [
        {"kimg": 0.1, "loss/generator_rgb": 1.0, "loss/r1": 0.5, "sec_per_kimg": 3.0},
        {"kimg": 0.2, "loss/generator_rgb": 2.0, "sec_per_kimg": 4.0, "validation/swd": 0.25},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_curves(tmp_path)
    read = {name: json.loads((tmp_path / "plots" / f"{name}.json").read_text()) for name in CURVES}
    assert read["losses"] == [{"kimg": 0.1, "generator_rgb": 1.0}, {"kimg": 0.2, "generator_rgb": 2.0}]
    assert read["r1"] == [{"kimg": 0.1, "r1": 0.5}]
    assert read["validation"] == [{"kimg": 0.2, "swd": 0.25}]
    assert read["signs"] == []
    assert [row["sec_per_kimg"] for row in read["speed"]] == [3.0, 4.0]
