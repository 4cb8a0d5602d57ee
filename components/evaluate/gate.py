"""Promote or hold: thresholds on the metrics, absolute and relative to the model in production."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.evaluate.catalogue import CATALOGUE, IMAGES, entry, known, show
from components.evaluate.results import PICTURE_SETTINGS, SHAPES_PROTOCOL, WHOLE_PROTOCOL, Section, protocols
from get3d_model.errors import InputError
from get3d_model.evaluation_settings import Threshold
from get3d_model.metrics.bootstrap import Interval

PROMOTE, HOLD = "promote", "hold"


@dataclass(frozen=True)
class Production:
    """The metrics of the model in production. protocols: hashes of the settings they were measured with. settings:
    these themselves, where the file has them."""

    file: Path
    values: dict[str, Interval]
    protocols: dict[str, str]
    checkpoint_sha256: str | None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """decision: "promote" or "hold". reasons: one line per condition, the failed ones first."""

    decision: str
    reasons: list[str]
    production: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        return {"decision": self.decision, "reasons": self.reasons, "production": self.production}


def read_production(path: Path) -> Production:
    """Reads a metrics.json, with the intervals of the metrics_full.json beside it, or that file itself.

    Raises InputError for a file that is missing or something else.
    """
    path = Path(path)
    data = _read(path)
    if not {WHOLE_PROTOCOL, SHAPES_PROTOCOL} <= data.keys():
        raise InputError(
            f"{path} is no metrics.json of `get3d evaluate`; evaluate the production model with it"
        )
    beside = path.with_name("metrics_full.json")
    # Only of the same model: a stale file beside it would lend its intervals to other numbers.
    if "metrics" not in data and beside.is_file():
        whole = _read(beside)
        facts = whole.get("facts") or {}
        same = ("checkpoint_sha256", data.get("checkpoint_sha256")), ("seed", data.get("seed"))
        if whole.get(WHOLE_PROTOCOL) == data[WHOLE_PROTOCOL] and all(facts.get(k) == v for k, v in same):
            data = whole
    try:
        if "metrics" in data:
            values = {
                name: Interval(
                    *(math.nan if item[k] is None else float(item[k]) for k in ("value", "low", "high"))
                )
                for name, item in data["metrics"].items()
            }
        else:
            numbers = {k: v for k, v in data.items() if type(v) in (int, float)}
            values = {name: Interval(float(v), float(v), float(v)) for name, v in numbers.items()}
        checkpoint = (data.get("facts") or data).get("checkpoint_sha256")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); evaluate the production model again") from None
    protocols = {name: data[name] for name in (WHOLE_PROTOCOL, SHAPES_PROTOCOL)}
    settings = data.get("settings")
    return Production(path, values, protocols, checkpoint, settings if isinstance(settings, dict) else {})


def check_thresholds(thresholds: Sequence[Threshold]) -> None:
    """Raises InputError for a threshold that can be seen to be wrong before anything is measured."""
    for threshold in thresholds:
        name = threshold.metric
        if not known(name):
            near = difflib.get_close_matches(name, CATALOGUE, n=1, cutoff=0.0)[0]
            raise InputError(f"evaluation.thresholds: there is no metric {name}; did you mean {near}?")
        if threshold.worse_than_production is not None and entry(name).better is None:
            raise InputError(
                f"evaluation.thresholds: {name} has no better and worse, so worse_than_production means nothing; "
                "give min or max"
            )


def decide(section: Section, thresholds: Sequence[Threshold], production: Production | None) -> Verdict:
    """Applies every threshold. A number that is not there holds: what was not measured cannot be vouched for.

    Raises InputError as `check_thresholds`.
    """
    check_thresholds(thresholds)
    good, bad = [], []
    for threshold in thresholds:
        value = section.metrics.get(threshold.metric)
        if value is None or not math.isfinite(value.value):
            why = section.unavailable.get(threshold.metric, "it could not be measured")
            bad.append(f"{threshold.metric} has no value: {why}")
            continue
        for holds, reason in _conditions(threshold, value, section, production):
            (good if holds else bad).append(reason)
    if not thresholds:
        good.append("no thresholds are set (evaluation.thresholds)")
    described = None
    if production is not None:
        described = {
            "metrics": str(production.file),
            "checkpoint_sha256": production.checkpoint_sha256,
            "comparable": production.protocols[SHAPES_PROTOCOL] == protocols(section)[SHAPES_PROTOCOL],
        }
    return Verdict(HOLD if bad else PROMOTE, bad + good, described)


def _conditions(
    threshold: Threshold, measured: Interval, section: Section, production: Production | None
) -> list[tuple[bool, str]]:
    """(whether it holds, a line saying so) for each bound of a threshold."""
    name, value = threshold.metric, measured.value
    found = []
    if threshold.min is not None:
        holds = value >= threshold.min
        found.append((holds, _line(name, value, "at least" if holds else "below the minimum", threshold.min)))
    if threshold.max is not None:
        holds = value <= threshold.max
        found.append((holds, _line(name, value, "at most" if holds else "above the maximum", threshold.max)))
    if threshold.worse_than_production is not None:
        found.append(_relative(threshold, measured, section, production))
    return found


def _relative(
    threshold: Threshold, measured: Interval, section: Section, production: Production | None
) -> tuple[bool, str]:
    name = threshold.metric
    if production is None:
        return (
            True,
            f"{name} is {show(name, measured.value)}; there is no model in production to compare with",
        )
    needed = WHOLE_PROTOCOL if entry(name).group == IMAGES else SHAPES_PROTOCOL
    if production.protocols[needed] != protocols(section)[needed]:
        return False, (
            f"{name} cannot be compared with production: {production.file} was measured with other settings or data"
            f"{_differences(section, production, needed == WHOLE_PROTOCOL)}; evaluate the production model again with these"
        )
    theirs = production.values.get(name)
    if theirs is None or not math.isfinite(theirs.value):
        return False, f"{name} cannot be compared with production: {production.file} has no value for it"
    metric = entry(name)
    allowed = threshold.worse_than_production * abs(theirs.value)
    worse = metric.badness(measured.value) - metric.badness(theirs.value)
    # Half widths of independent intervals add like standard errors.
    noise = math.hypot(_half_width(measured), _half_width(theirs))
    holds = worse <= allowed + noise
    comparison = f"{name} is {show(name, measured.value)}, {show(name, theirs.value)} in production"
    if worse <= 0:
        return holds, f"{comparison}: no worse"
    limit = f"{threshold.worse_than_production:.3g} of that and the intervals' {noise:.3g} are allowed"
    return holds, f"{comparison}: worse by {worse:.3g}, {'but' if holds else 'and only'} {limit}"


def _differences(section: Section, production: Production, pictures: bool) -> str:
    """Which settings differ, in brackets; nothing where the file of the production model does not have them."""
    if not production.settings:
        return ""
    ours, theirs = section.settings, production.settings
    names = sorted(
        name
        for name in ours.keys() | theirs.keys()
        if ours.get(name) != theirs.get(name) and (pictures or not name.startswith(PICTURE_SETTINGS))
    )
    told = (f"{name} {theirs.get(name, 'not set')} instead of {ours.get(name, 'not set')}" for name in names)
    return f" ({'; '.join(told)})"


def _half_width(interval: Interval) -> float:
    width = (interval.high - interval.low) / 2
    return width if math.isfinite(width) else 0.0


def _line(name: str, value: float, relation: str, bound: float) -> str:
    return f"{name} is {show(name, value)}, {relation} {show(name, bound)}"


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"--production {path} cannot be read ({why}); give the metrics.json of the model in production"
        ) from None
    if not isinstance(data, dict):
        raise InputError(
            f"--production {path} holds no metrics; give the metrics.json of the model in production"
        )
    return data
