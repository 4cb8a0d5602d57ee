"""Resuming a checkpoint that was written before a setting existed."""

from __future__ import annotations

import copy

from get3d_model.config import Config, config_from_dict, config_to_dict
from get3d_model.training.checkpoint import what_changed


def without(settings: dict, *names: str) -> dict:
    """The settings of a checkpoint that knew nothing of the named sections and `section.key`s."""
    old = copy.deepcopy(settings)
    for name in names:
        section, _, key = name.partition(".")
        if key:
            del old[section][key]
        else:
            del old[section]
    return old


def test_a_newer_setting_counts_as_its_default() -> None:
    now = config_to_dict(Config())
    old = without(now, "cameras", "model.num_classes", "training.views_per_shape")
    assert what_changed(old, now, {}, {}) is None
    for section, change in (
        ("cameras", {"preset": "house"}),
        ("model", {"num_classes": 3}),
        ("training", {"views_per_shape": 2}),
    ):
        ((key, value),) = change.items()
        changed = config_to_dict(config_from_dict({section: change}))
        default = now[section][key]
        assert what_changed(old, changed, {}, {}) == f"{section}.{key} was {default!r}, is now {value!r}"


def test_a_setting_that_is_no_more_is_named() -> None:
    now = config_to_dict(Config())
    old = copy.deepcopy(now)
    old["model"]["forgotten"] = 3
    assert what_changed(old, now, {}, {}) == "model.forgotten was 3, is now None"
    assert what_changed(now, now, {"images": 1}, {"images": 2}) == "the data set has changed"
