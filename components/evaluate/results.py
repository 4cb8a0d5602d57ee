"""What an evaluation found, in one form for every measure: metrics.json, metrics_full.json, the gate and the page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from get3d_model.files import sha256_json
from get3d_model.metrics.bootstrap import Interval

# The same measures of other shapes in the place of the samples.
CONTROLS = {
    "train": "as many training shapes in the place of the samples; the quality is that of their meshes",
    "self": "one half of the held-out shapes in the place of the samples, against the other half; for memory, all of them "
    "against the training set; the quality is that of their meshes",
}
# How the settings begin that only FID and KID depend on.
PICTURE_SETTINGS = ("image_", "inception_", "kid_")
WHOLE_PROTOCOL, SHAPES_PROTOCOL = "protocol_sha256", "protocol_shapes_sha256"


@dataclass(frozen=True)
class Opinion:
    """The same number by another program, of the same pictures and network. source: that program, with its version;
    or why it could not be asked, and then there is no value. standard_error: what its random choices leave open."""

    source: str
    value: float = math.nan
    standard_error: float = 0.0


@dataclass(frozen=True)
class Section:
    """Measures of one kind.

    metrics: by name, as in metrics.json. controls: the same names, by a key of CONTROLS.
    settings: all that another run must share for its numbers to be comparable. facts: counts and the like, flat.
    unavailable: why a metric has no number and how to get it, by name; these are null in metrics.json.
    excluded: (file or seed, reason) of what could not be measured.
    second: second opinions, by name. details: what only metrics_full.json has, JSON-able.
    """

    metrics: dict[str, Interval] = field(default_factory=dict)
    controls: dict[str, dict[str, Interval]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    excluded: list[tuple[str, str]] = field(default_factory=list)
    second: dict[str, Opinion] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def merge(sections: Iterable[Section]) -> Section:
    """All in one; later sections win where two have the same name."""
    whole = Section()
    for section in sections:
        for name in ("metrics", "settings", "facts", "unavailable", "second", "details"):
            getattr(whole, name).update(getattr(section, name))
        for control, metrics in section.controls.items():
            whole.controls.setdefault(control, {}).update(metrics)
        whole.excluded.extend(entry for entry in section.excluded if entry not in whole.excluded)
    return whole


def flat(section: Section) -> dict[str, Any]:
    """`metrics.json`: every value by its name, controls with the prefix `train_` or `self_`, second opinions with
    `second_`; null without a number.

    `protocol_sha256` stands for the settings: two files with the same one are comparable; with the same
    `protocol_shapes_sha256`, all but FID and KID are.
    """
    values: dict[str, Any] = {name: None for name in section.unavailable}
    values |= {name: interval.as_dict()["value"] for name, interval in section.metrics.items()}
    for control, metrics in section.controls.items():
        values |= {f"{control}_{name}": interval.as_dict()["value"] for name, interval in metrics.items()}
    values |= {f"second_{name}": _number(opinion.value) for name, opinion in section.second.items()}
    return {**section.facts, **values, **protocols(section)}


def full(section: Section) -> dict[str, Any]:
    """`metrics_full.json`: intervals, controls, settings, what is unavailable and what was left out."""
    return {
        "metrics": {name: interval.as_dict() for name, interval in section.metrics.items()},
        "controls": {
            control: {name: interval.as_dict() for name, interval in metrics.items()}
            for control, metrics in section.controls.items()
        },
        "control_meanings": {control: CONTROLS[control] for control in section.controls},
        "second_opinions": {
            name: {
                "source": opinion.source,
                "value": _number(opinion.value),
                "difference": _number(opinion.value - section.metrics[name].value),
                "standard_error": _number(opinion.standard_error),
            }
            for name, opinion in section.second.items()
        },
        "settings": section.settings,
        "facts": section.facts,
        "unavailable": section.unavailable,
        "excluded": [{"file": file, "reason": reason} for file, reason in section.excluded],
        **section.details,
        **protocols(section),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def protocol(section: Section, pictures: bool = True) -> str:
    """A hash of the settings. pictures: with those that only FID and KID depend on, which are there only where the
    network's weights are."""
    settings = {k: v for k, v in section.settings.items() if pictures or not k.startswith(PICTURE_SETTINGS)}
    return sha256_json(settings)


def protocols(section: Section) -> dict[str, str]:
    """Both hashes by their names in metrics.json."""
    return {WHOLE_PROTOCOL: protocol(section), SHAPES_PROTOCOL: protocol(section, pictures=False)}
