"""The page of an evaluation: what it says, what it escapes, and where the viewer goes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.evaluate.distributions import Distribution, cumulative, distribution_svg, plot_rows
from components.evaluate.evaluation import Evaluation, write
from components.evaluate.gate import Verdict
from components.evaluate.page import Titles, evaluation_html
from components.evaluate.results import Opinion, Section, flat, full, protocols
from components.evaluate.sheets import Pair, Sheets
from get3d_model.metrics.bootstrap import Interval

PICTURE = np.full((8, 8, 3), 200, np.uint8)
PAIR = Pair("seed 3", PICTURE, "car <b>", PICTURE, 0.123456)
NAN = math.nan


def page(section: Section | None = None, viewer: str = "", excluded: int = 0) -> str:
    section = section or Section(
        metrics={"cd_cov": Interval(0.5, 0.25, 0.75), "own_measure": Interval(1.0, NAN, NAN)},
        controls={"train": {"cd_cov": Interval(1.0, 0.9, 1.0)}},
        unavailable={"fid_ori": "unavailable: get <weights>", "fid_3d": "unavailable: get <weights>"},
        facts={"references": 5},
        excluded=[(f"mesh {i}", "damaged") for i in range(excluded)],
    )
    return evaluation_html(
        Titles("cars & co", 480.0, "a" * 64, 0.9),
        section,
        Verdict(
            "hold", ["cd_cov is < 60%"], {"metrics": "m.json", "checkpoint_sha256": None, "comparable": False}
        ),
        Sheets([("0", PICTURE)], {}, [PAIR], [PAIR]),
        [("text", "<svg></svg>")],
        viewer,
    )


def test_what_it_says() -> None:
    text = page(excluded=25)
    for words in (
        "cars &amp; co", ">Hold<", "cd_cov is &lt; 60%", "90% bootstrap interval", "25.0% to 75.0%", "90.0% to 100%",
        "Only 5 held-out shapes: one of them counts for 20%", "own measure", "get &lt;weights&gt;", "as above",
        "car &lt;b&gt;", "distance 0.123", "measured with other settings or data", "25 could not be measured",
        "the first 20", "mesh 19", "<svg></svg>",
    ):  # fmt: skip
        assert words in text, words
    assert "mesh 20" not in text and "to nan" not in text
    assert "Render again" not in text
    assert "3 mesh files have changed since" in page(Section(facts={"changed_meshes": 3}))


def test_what_is_nearest_to_every_sample_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"seed": 7, "shape": "van <i>", "shape_distance": 0.01234, "picture": "bus, view 3", "picture_distance": 0.5},
        {"seed": 8, "picture": "cab, view 0", "picture_distance": 0.25},
    ]  # fmt: skip
    section = Section(metrics={"cd_cov": Interval(0.5, 0.25, 0.75)}, details={"nearest_training": rows})
    assert full(section)["nearest_training"] == rows
    text = page(section)
    assert "of each of the 2 samples" in text and "van &lt;i&gt;" in text and ">0.0123<" in text
    assert '<td>8</td><td>–</td><td class="number">–</td><td>cab, view 0</td>' in text
    monkeypatch.setattr("components.evaluate.page.NEAREST_SHOWN", 1)
    text = page(section)
    assert "the first 1 of 2 samples; metrics_full.json has all" in text and "cab, view 0" not in text
    assert "Every sample" not in page()


@pytest.mark.parametrize(("viewer", "shown"), [("", False), ("<model-viewer></model-viewer>", True)])
def test_the_viewer_has_its_place(viewer: str, shown: bool) -> None:
    text = page(viewer=viewer)
    assert ('id="viewer"' in text) is shown and viewer in text
    assert not shown or text.index('id="samples"') < text.index(viewer) < text.index('id="neighbors"')


def test_the_second_opinion_stands_beside_or_says_why_not() -> None:
    metrics = {"fid_ori": Interval(12.5, 12.0, 13.0), "kid_ori_x1000": Interval(3.25, 3.0, 3.5)}
    asked = Section(
        metrics=metrics,
        second={
            "fid_ori": Opinion("torch-fidelity 0.4.0", 12.5005),
            "kid_ori_x1000": Opinion("torch-fidelity 0.4.0", 3.0, 0.125),
        },
    )
    text = page(asked)
    for words in ("by torch-fidelity 0.4.0.", ">12.5005<", ">+5.0e−04<", ">3 ± 0.1<", ">−2.5e−01<"):
        assert words in text, words
    whole = full(asked)["second_opinions"]
    assert (
        whole["fid_ori"]["difference"] == pytest.approx(5e-4) and flat(asked)["second_kid_ori_x1000"] == 3.0
    )
    # It is no setting: with and without it, numbers are comparable.
    without = replace(asked, second=dict.fromkeys(metrics, Opinion("torch-fidelity is <not> there")))
    assert "No second opinion on FID and KID: torch-fidelity is &lt;not&gt; there." in page(without)
    assert full(without)["second_opinions"]["fid_ori"]["value"] is None
    assert flat(without)["second_fid_ori"] is None and protocols(without) == protocols(asked)
    assert "second opinion" not in page().lower()


def test_another_network_than_the_published_one_is_named() -> None:
    value, settings = Interval(1.5, 1.0, 2.0), {"inception_sha256": "b" * 64}
    other = page(Section(settings=settings, metrics={"other_network_fid_ori": value}))
    assert "of another network (SHA-256 bbbbbbbbbbbb…) than the Inception-v3 of 2015-12-05" in other
    assert "FID-Ori, another network<code>other_network_fid_ori</code>" in other
    assert "another network" not in page(Section(settings=settings, metrics={"fid_ori": value}))


def test_cumulative_shares_and_percentiles() -> None:
    values = np.random.default_rng(0).permutation(1000).astype(float)
    x, share = cumulative(values)
    assert len(x) == 100 and share[-1] == 1.0 and (np.diff(x) > 0).all()
    np.testing.assert_allclose(share, (x + 1) / 1000)
    distribution = Distribution("d", "D", "units", "", {"held out": values, "none": np.zeros(0)})
    rows = plot_rows(distribution)
    assert rows[25] == {"percent": 50, "held_out": 499.5} and len(rows) == 51
    svg = distribution_svg(distribution)
    assert svg.startswith("<svg") and "held out (1000)" in svg and "none" not in svg.split("held out")[1]
    assert svg == distribution_svg(distribution)
    assert distribution_svg(Distribution("d", "D", "u", "", {"none": np.zeros(0)})) == ""


def test_plots_of_an_earlier_evaluation_do_not_stay(tmp_path: Path) -> None:
    """Without training shapes, say, there is no distance to them: the old curve would pass for a new one."""
    section = Section(metrics={"cd_cov": Interval(0.5, 0.25, 0.75)})
    sheets = Sheets([("0", PICTURE)], {}, [], [])
    curves = [Distribution(name, name, "", "", {"samples": np.arange(3.0)}) for name in ("one", "other")]
    for kept in (2, 1):
        found = Evaluation(section, sheets, curves[:kept])
        write(found, Verdict("promote", [], None), Titles("cars", 1.0, "a" * 64, 0.9), tmp_path)
        assert sorted(path.stem for path in (tmp_path / "plots").iterdir()) == ["one", "other"][:kept]
