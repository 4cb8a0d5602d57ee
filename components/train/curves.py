"""The training log as files that `dvc plots` reads: one per kind of curve, a row for every record that has it."""

from __future__ import annotations

import json
from pathlib import Path

from get3d_model.files import write_bytes_atomic

FOLDER = "plots"
# File: columns and the keys of the log behind them. Dots and slashes mean something to the plots' language.
CURVES = {
    "losses": {
        "generator_rgb": "loss/generator_rgb",
        "generator_mask": "loss/generator_mask",
        "discriminator_real": "loss/discriminator_real",
        "discriminator_fake": "loss/discriminator_fake",
    },
    "r1": {"r1": "loss/r1"},
    "signs": {
        "real_rgb": "signs/real_rgb",
        "fake_rgb": "signs/fake_rgb",
        "real_mask": "signs/real_mask",
        "fake_mask": "signs/fake_mask",
    },
    "validation": {"swd": "validation/swd"},
    "speed": {"sec_per_kimg": "sec_per_kimg"},
}


def write_curves(out: Path) -> None:
    """Writes `plots/*.json` of a training folder from its metrics.jsonl; files of curves that it has not are empty."""
    log = out / "metrics.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    for name, columns in CURVES.items():
        rows = [
            {
                "kimg": record["kimg"],
                **{column: record[key] for column, key in columns.items() if key in record},
            }
            for record in records
            if any(key in record for key in columns.values())
        ]
        text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
        write_bytes_atomic(out / FOLDER / f"{name}.json", text.encode())
