"""Rules and configuration through promtool; every alert has a case that must fire, and a page in the runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.metrics import DRIFT_BINS, known_series
from serving.drift import psi

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "monitoring" / "prometheus"
RULES = FOLDER / "rules.yml"
CASES = Path(__file__).parent / "rules"
RUNBOOK = ROOT / "docs" / "runbook.md"


def promtool(*arguments: str | Path, cwd: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool; apt-get install prometheus")
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60, cwd=cwd
    )


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def test_prometheus_accepts_configuration_and_rules() -> None:
    done = promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    done = promtool("check", "rules", "rules.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def run_cases(folder: Path, text: str, rules_file: Path = RULES) -> subprocess.CompletedProcess[str]:
    path = folder / "cases.yml"
    # Otherwise promtool takes the groups in any order, and an alert that comes before its recording rules finds older values.
    groups = [group["name"] for group in yaml.safe_load(rules_file.read_text())["groups"]]
    text = f"group_eval_order: [{', '.join(groups)}]\n{text}"
    path.write_text(text.replace("[RULES]", f"[{rules_file}]"))
    return promtool("test", "rules", path, cwd=folder)


@pytest.mark.parametrize("name", ["training", "serving", "pipeline"])
def test_alerts_fire_when_they_must_and_only_then(name: str, tmp_path: Path) -> None:
    done = run_cases(tmp_path, (CASES / f"{name}.yml").read_text())
    assert done.returncode == 0, done.stdout + done.stderr


def drift_case(share_of_first_bin: float) -> tuple[str, float]:
    """A case for promtool with the PSI of our own function; the reference has equal shares."""
    per_minute = [share_of_first_bin, *[(1 - share_of_first_bin) / 4] * 4]
    labels = 'model="get3d",version="1",statistic="area",instance="a",job="s"'
    series = []
    for number, share in zip(DRIFT_BINS, per_minute, strict=True):
        series.append(f'get3d_sampled_statistic_total{{{labels},bin="{number}"}}|0+{share * 1000:g}x1440')
        series.append(f'get3d_reference_share{{{labels},bin="{number}"}}|0.2x1440')
    expected = psi([0.2] * 5, [share * 1000 * 1440 for share in per_minute])
    fires = expected > 0.25
    summary = "The area of the meshes of version 1 are not those of the export (PSI 0.42)" if fires else ""
    exp = [
        {
            "exp_labels": {
                "severity": "warning", "component": "serving", "model": "get3d", "version": "1", "statistic": "area",
            },
            "exp_annotations": {"summary": summary, "runbook_url": "docs/runbook.md#get3dmodeldrift"},
        }
    ] if fires else []  # fmt: skip
    case = {
        "rule_files": ["RULES"],
        "evaluation_interval": "10m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [dict(zip(("series", "values"), s.split("|"), strict=True)) for s in series],
                "alert_rule_test": [{"eval_time": "24h", "alertname": "Get3dModelDrift", "exp_alerts": exp}],
                "promql_expr_test": [
                    {
                        "expr": "round(get3d:drift_psi:1d, 0.0001)",
                        "eval_time": "24h",
                        "exp_samples": [
                            {
                                "labels": '{model="get3d", version="1", statistic="area"}',
                                "value": round(expected, 4),
                            }
                        ],
                    }
                ],
            }
        ],
    }
    return yaml.safe_dump(case).replace("- RULES", f"- {RULES}"), expected


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_recorded_index_is_that_of_the_definition(share: float, tmp_path: Path) -> None:
    """Fires at one half, whose index is above 0.25; not at a quarter."""
    text, expected = drift_case(share)
    assert (expected > 0.25) == (share == 0.5)
    done = run_cases(tmp_path, text)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_cases_can_fail(tmp_path: Path) -> None:
    """An alert that never fires is found, and so is one that always does."""
    text = RULES.read_text()
    for change in ((">= 3", ">= 4"), (">= 3", ">= 0")):
        changed = tmp_path / "rules.yml"
        changed.write_text(text.replace(*change))
        assert changed.read_text() != text
        assert run_cases(tmp_path, (CASES / "pipeline.yml").read_text(), changed).returncode != 0


def test_every_alert_is_tested_both_ways() -> None:
    fired, silent = {"Get3dModelDrift"}, {"Get3dModelDrift"}
    for path in CASES.glob("*.yml"):
        for case in yaml.safe_load(path.read_text())["tests"]:
            for test in case.get("alert_rule_test", []):
                (fired if test["exp_alerts"] else silent).add(test["alertname"])
    assert fired == silent == alerts().keys()


def test_every_alert_has_a_page_in_the_runbook() -> None:
    headings = {line[3:].strip() for line in RUNBOOK.read_text().splitlines() if line.startswith("## ")}
    assert alerts().keys() <= headings, "docs/runbook.md lacks sections"
    assert {h for h in headings if h.startswith("Get3d")} == alerts().keys(), (
        "sections of alerts that are gone"
    )
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")


def names_in(expression: str) -> set[str]:
    """Names of series in a query: what is neither in quotes, braces or brackets, nor a function or a keyword."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', " ", expression)
    bare = re.sub(r"\boffset \d+[smhd]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"[a-zA-Z_:][\w:]*(?!\s*\()\b(?!\s*\()", bare)
    return set(words) - {"and", "or", "unless", "by", "on", "ignoring", "group_left", "bool", "e6"}


def test_rules_name_only_defined_metrics() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        assert names_in(rule["expr"]) <= known_series() | recorded, rule
    assert names_in('sum by (a) (rate(x_total{b="c"}[5m])) / up') == {"x_total", "up"}
