"""What the steps since the last record reported, as plain numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from get3d_model.training.distributed import World
from get3d_model.training.phases import Report

COUNT_SUFFIX = "_count"


def summarise(reports: list[Report], world: World) -> dict[str, float]:
    """Means over the steps that report a value, and over the ranks; names that end in `_count` are summed over steps.

    The first time that anything since the last record waits for the device; one copy from each device.
    """
    values: dict[torch.device, dict[str, Tensor]] = {}
    for name in sorted({name for report in reports for name in report}):
        stacked = torch.stack([report[name] for report in reports if name in report]).double()
        value = stacked.sum() if name.endswith(COUNT_SUFFIX) else stacked.mean()
        values.setdefault(value.device, {})[name] = value
    mine = {
        name: number
        for group in values.values()
        for name, number in zip(group, torch.stack(list(group.values())).tolist(), strict=True)
    }
    everyone = world.gather(mine, "the log record")
    return {
        name: math.fsum(entry[name] for entry in everyone) / len(everyone)
        if all(math.isfinite(entry[name]) for entry in everyone)
        else math.nan
        for name in sorted(mine)
    }
