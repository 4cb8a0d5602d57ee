"""Grafana's JSON model of a dashboard: rows of panels with queries, laid out from left to right in 24 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA_VERSION = 39
"""Of Grafana 10.4 and later; newer ones migrate it by themselves."""
GRID_WIDTH = 24
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
ALERTS_OF = 'ALERTS{{alertstate="firing",component="{component}"}}'


@dataclass(frozen=True)
class Query:
    """expr: PromQL, with the dashboard's variables. legend: with {{label}}."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """kind: timeseries, stat, bargauge, heatmap or table. unit: Grafana's name of it. width: of 24 columns.

    limits: (value, colour) from which on values have it, beside green. mappings: texts of values.
    """

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    about: str = ""
    limits: Sequence[tuple[float, str]] = ()
    mappings: Sequence[tuple[str, str]] = ()
    minimum: float | None = None


@dataclass(frozen=True)
class Row:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Variable:
    """query: whose answer is the choice, such as label_values(up, instance)."""

    name: str
    query: str


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    about: str
    variables: Sequence[Variable]
    rows: Sequence[Row]


def panels(dashboard: Dashboard) -> list[Panel]:
    return [panel for row in dashboard.rows for panel in row.panels]


def to_grafana(dashboard: Dashboard) -> dict[str, Any]:
    """Grafana's JSON model."""
    shown: list[dict[str, Any]] = []
    y = 0
    for row in dashboard.rows:
        shown.append(
            {
                "id": len(shown) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": [],
                "gridPos": {"x": 0, "y": y, "w": GRID_WIDTH, "h": 1},
            }
        )  # fmt: skip
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > GRID_WIDTH:
                x, y, height = 0, y + height, 0
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            shown.append(_panel(panel, len(shown) + 1, place))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["get3d"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "templating": {"list": [_source_variable(), *map(_variable, dashboard.variables)]},
        "annotations": {"list": [_annotation(dashboard)]},
        "links": [
            {
                "type": "dashboards",
                "tags": ["get3d"],
                "title": "GET3D",
                "asDropdown": True,
                "includeVars": True,
            }
        ],
        "panels": shown,
    }


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    steps = [{"color": "green", "value": None}, *({"color": c, "value": v} for v, c in panel.limits)]
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.minimum is not None:
        defaults["min"] = panel.minimum
    if panel.mappings:
        texts = {value: {"text": text, "index": index} for index, (value, text) in enumerate(panel.mappings)}
        defaults["mappings"] = [{"type": "value", "options": texts}]
    if panel.kind == "timeseries" and panel.limits:
        defaults["custom"] = {"thresholdsStyle": {"mode": "line"}}
    instant = panel.kind in ("stat", "bargauge", "table")
    targets = [
        {
            "refId": chr(ord("A") + index), "datasource": DATA_SOURCE, "expr": query.expr,
            "legendFormat": query.legend or "__auto", "instant": instant, "range": not instant,
            **({"format": "heatmap"} if panel.kind == "heatmap" else {}),
        }
        for index, query in enumerate(panel.queries)
    ]  # fmt: skip
    options: dict[str, Any] = {}
    if panel.kind == "timeseries":
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    elif panel.kind in ("stat", "bargauge"):
        named = any(query.legend for query in panel.queries)
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"], "values": False, "fields": ""},
            "textMode": "value_and_name" if named else "value",
            "orientation": "horizontal" if panel.kind == "bargauge" else "auto",
        }
    return {
        "id": number, "type": panel.kind, "title": panel.title, "description": panel.about, "gridPos": place,
        "datasource": DATA_SOURCE, "targets": targets, "options": options,
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }  # fmt: skip


def _source_variable() -> dict[str, Any]:
    return {
        "name": "datasource",
        "type": "datasource",
        "query": "prometheus",
        "label": "Prometheus",
        "hide": 0,
    }


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "name": variable.name, "type": "query", "datasource": DATA_SOURCE, "definition": variable.query,
        "query": {"query": variable.query, "refId": "variable"}, "refresh": 2, "sort": 1, "multi": True,
        "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def _annotation(dashboard: Dashboard) -> dict[str, Any]:
    component = dashboard.uid.removeprefix("get3d-")
    return {
        "name": "Alerts", "enable": True, "datasource": DATA_SOURCE, "iconColor": "red",
        "expr": ALERTS_OF.format(component=component), "titleFormat": "{{alertname}}", "step": "60s",
    }  # fmt: skip
