"""Promote or hold: every kind of threshold, met and missed, with the line that says so."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from components.evaluate.gate import Production, Verdict, decide, read_production
from components.evaluate.results import Section, flat, full, merge, protocols
from get3d_model.errors import InputError
from get3d_model.evaluation_settings import Threshold
from get3d_model.metrics.bootstrap import Interval


def section(settings: dict | None = None, **metrics: tuple[float, float, float]) -> Section:
    return Section(
        metrics={name: Interval(*values) for name, values in metrics.items()},
        settings=settings or {"samples": 10},
        facts={"checkpoint_sha256": "c" * 64, "seed": 0},
    )


def in_production(measured: Section, **metrics: tuple[float, float, float]) -> Production:
    values = {name: Interval(*v) for name, v in metrics.items()}
    return Production(Path("metrics.json"), values, protocols(measured), "p" * 64)


def test_absolute_thresholds() -> None:
    measured = section(cd_cov=(0.5, 0.4, 0.6), fid_3d=(30.0, 28.0, 32.0))
    met = decide(measured, [Threshold("cd_cov", min=0.5), Threshold("fid_3d", max=30)], None)
    assert met == Verdict("promote", ["cd_cov is 50.0%, at least 50.0%", "fid_3d is 30, at most 30"], None)
    missed = decide(measured, [Threshold("cd_cov", min=0.4, max=0.45), Threshold("fid_3d", max=29)], None)
    assert missed.decision == "hold"
    assert missed.reasons == [
        "cd_cov is 50.0%, above the maximum 45.0%", "fid_3d is 30, above the maximum 29",
        "cd_cov is 50.0%, at least 40.0%",
    ]  # fmt: skip
    assert decide(measured, [], None).reasons == ["no thresholds are set (evaluation.thresholds)"]


@pytest.mark.parametrize(
    ("name", "mine", "theirs", "allowed", "decision", "words"),
    [
        # Lower is better. The interval's half widths, 2 and 2, are 2.83 together.
        ("fid_3d", (30, 28, 32), (31, 29, 33), 0.0, "promote", "no worse"),
        ("fid_3d", (33, 31, 35), (31, 29, 33), 0.0, "promote", "worse by 2, but"),
        ("fid_3d", (35, 33, 37), (31, 29, 33), 0.0, "hold", "worse by 4, and only"),
        ("fid_3d", (35, 33, 37), (31, 29, 33), 0.1, "promote", "worse by 4, but"),
        # Higher is better.
        ("cd_cov", (0.30, 0.29, 0.31), (0.40, 0.39, 0.41), 0.1, "hold", "worse by 0.1"),
        ("cd_cov", (0.50, 0.49, 0.51), (0.40, 0.39, 0.41), 0.0, "promote", "no worse"),
        # Half is best.
        ("cd_1nna", (0.40, 0.4, 0.4), (0.55, 0.55, 0.55), 0.0, "hold", "worse by 0.05"),
        ("cd_1nna", (0.46, 0.46, 0.46), (0.55, 0.55, 0.55), 0.0, "promote", "no worse"),
        # Without an interval only the share that is allowed counts.
        ("fid_3d", (31.5, math.nan, math.nan), (31, 31, 31), 0.0, "hold", "worse by 0.5"),
    ],
)
def test_relative_thresholds(name, mine, theirs, allowed, decision, words) -> None:
    measured = section(**{name: mine})
    production = in_production(measured, **{name: theirs})
    verdict = decide(measured, [Threshold(name, worse_than_production=allowed)], production)
    assert verdict.decision == decision and words in verdict.reasons[0], verdict
    assert verdict.production == {
        "metrics": "metrics.json", "checkpoint_sha256": "p" * 64, "comparable": True,
    }  # fmt: skip


def test_what_cannot_be_compared_holds_and_no_production_does_not() -> None:
    measured, limit = section(fid_3d=(30, 28, 32)), [Threshold("fid_3d", worse_than_production=0.1)]
    assert decide(measured, limit, None).decision == "promote"
    assert "no model in production" in decide(measured, limit, None).reasons[0]
    other = in_production(section({"samples": 11}), fid_3d=(99, 99, 99))
    verdict = decide(measured, limit, other)
    assert verdict.decision == "hold" and "other settings or data" in verdict.reasons[0]
    assert verdict.production["comparable"] is False
    without = in_production(measured)
    assert "no value for it" in decide(measured, limit, without).reasons[0]
    missing = Section(unavailable={"fid_3d": "unavailable: get weights"}, settings={"samples": 10})
    verdict = decide(missing, limit, other)
    assert (verdict.decision, verdict.reasons) == ("hold", ["fid_3d has no value: unavailable: get weights"])


def test_what_differs_from_production_is_named(tmp_path: Path) -> None:
    theirs = section({"samples": 11, "split": "val", "image_samples": 5}, cd_cov=(0.5, 0.4, 0.6))
    for name, content in (("metrics", flat(theirs)), ("metrics_full", full(theirs))):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    production = read_production(tmp_path / "metrics.json")
    measured = section({"samples": 10, "split": "val", "normalize": "box"}, cd_cov=(0.5, 0.4, 0.6))
    verdict = decide(measured, [Threshold("cd_cov", worse_than_production=0.1)], production)
    # Not image_samples, which a measure of shapes does not depend on.
    assert (
        "or data (normalize not set instead of box; samples 11 instead of 10); evaluate" in verdict.reasons[0]
    )


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        (Threshold("fid3d", max=1), "no metric fid3d; did you mean fid_3d"),
        (
            Threshold("triangles_median", worse_than_production=0.1),
            "triangles_median has no better and worse",
        ),
    ],
)
def test_thresholds_that_mean_nothing(threshold: Threshold, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decide(section(), [threshold], None)


def test_production_is_read_with_the_intervals_beside_it(tmp_path: Path) -> None:
    measured = section(fid_3d=(30.0, 28.0, 32.0), jsd=(math.nan, math.nan, math.nan))
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(flat(measured)))
    assert read_production(path).values["fid_3d"] == Interval(30.0, 30.0, 30.0)
    (tmp_path / "metrics_full.json").write_text(json.dumps(full(measured)))
    for file in (path, tmp_path / "metrics_full.json"):
        production = read_production(file)
        assert production.values["fid_3d"] == Interval(30.0, 28.0, 32.0)
        assert math.isnan(production.values["jsd"].value)
        assert production.checkpoint_sha256 == "c" * 64
        assert production.protocols == protocols(measured)
    # That of another model lends nothing.
    (tmp_path / "metrics_full.json").write_text(
        json.dumps(full(merge([measured, Section(facts={"checkpoint_sha256": "d" * 64})])))
    )
    assert read_production(path).values["fid_3d"] == Interval(30.0, 30.0, 30.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read \\(No such file"),
        ("{", "cannot be read"),
        ("[]", "holds no metrics"),
        ("{}", "no metrics.json of `get3d evaluate`"),
        ('{"protocol_sha256": "a", "protocol_shapes_sha256": "b", "metrics": {"fid_3d": 3}}', "is damaged"),
    ],
)
def test_bad_production_files(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "m.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_production(tmp_path / "m.json")
    assert "\n" not in str(caught.value)


def test_settings_of_pictures_do_not_keep_shapes_from_being_compared() -> None:
    """The model in production was measured where the network's weights were not there."""
    measured = section({"samples": 10, "inception_sha256": "i"}, fid_3d=(30, 28, 32), cd_cov=(0.5, 0.4, 0.6))
    production = in_production(section({"samples": 10}), fid_3d=(30, 28, 32), cd_cov=(0.5, 0.4, 0.6))
    limits = [Threshold(name, worse_than_production=0.1) for name in ("cd_cov", "fid_3d")]
    assert decide(measured, limits[:1], production).decision == "promote"
    assert "fid_3d cannot be compared" in decide(measured, limits, production).reasons[0]
