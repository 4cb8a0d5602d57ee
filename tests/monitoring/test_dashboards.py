"""Dashboards: the checked-in files are those of the code, and every query is one that Prometheus takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import dashboards, grafana_model
from monitoring.metrics import METRICS, known_series
from tests.monitoring.queries import filled
from tests.monitoring.test_rules import names_in, promtool, rules

GRAFANA = Path(dashboards.__file__).parent / "grafana"


def queries() -> list[tuple[str, str]]:
    return [
        (f"{board.uid}: {panel.title}", query.expr)
        for board in dashboards.DASHBOARDS
        for panel in grafana_model.panels(board)
        for query in panel.queries
    ]


def test_the_files_are_what_the_code_writes() -> None:
    for name, text in dashboards.files().items():
        assert (dashboards.FOLDER / name).read_text() == text, "run: python -m monitoring.dashboards"
    assert {path.name for path in dashboards.FOLDER.iterdir()} == dashboards.files().keys()


def test_every_query_parses(tmp_path: Path) -> None:
    """As recording rules, all in one call of promtool."""
    records = [{"record": f"panel:{n}", "expr": filled(expr)} for n, (_, expr) in enumerate(queries())]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    done = promtool("check", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr
    path.write_text(path.read_text().replace("rate(", "rate((", 1))
    assert promtool("check", "rules", path).returncode != 0, "a query that does not parse would not be found"


def test_queries_name_only_defined_metrics() -> None:
    known = known_series() | {rule["record"] for rule in rules() if "record" in rule}
    for where, expr in queries():
        assert names_in(filled(expr)) <= known, where
        assert "$" not in filled(expr), where


def test_every_metric_is_shown_or_used_by_a_rule() -> None:
    """What nobody looks at need not be exported."""
    used = {name for _, expr in queries() for name in names_in(filled(expr))}
    used |= {name for rule in rules() for name in names_in(rule["expr"])}
    unseen = {name for name in METRICS if not any(u == name or u.startswith(f"{name}_") for u in used)}
    allowed = {
        "get3d_training_step", "get3d_training_start_timestamp_seconds", "get3d_training_empty_shapes_total",
        "get3d_pipeline_step_timestamp_seconds", "get3d_probe_total",
    }  # fmt: skip
    assert unseen <= allowed


@pytest.mark.parametrize("board", dashboards.DASHBOARDS, ids=lambda board: board.uid)
def test_the_layout_is_one_that_grafana_draws(board: grafana_model.Dashboard) -> None:
    model: dict[str, Any] = json.loads((dashboards.FOLDER / f"{board.uid}.json").read_text())
    taken: dict[tuple[int, int], int] = {}
    for panel in model["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= grafana_model.GRID_WIDTH
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"panel {panel['title']} lies over another"
                taken[x, y] = panel["id"]
    assert len({panel["id"] for panel in model["panels"]}) == len(model["panels"])
    names = {variable["name"] for variable in model["templating"]["list"]}
    assert names == {"datasource", *(variable.name for variable in board.variables)}
    for variable in board.variables:
        assert any(
            f"${variable.name}" in query.expr for p in grafana_model.panels(board) for query in p.queries
        )


def test_provisioning_files() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/get3d.yml").read_text())["providers"]
    assert provider["type"] == "file" and provider["options"]["path"] == "${GET3D_DASHBOARDS}"
