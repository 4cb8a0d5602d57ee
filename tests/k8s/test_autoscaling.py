"""The two autoscalers' queries, run by promtool on made-up counters: both see the mean wait of a request."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.rendering import K8S, needs_kubectl, one

pytestmark = [
    needs_kubectl,
    pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool, of Debian's package prometheus"),
]
TARGET_S = 0.5


def adapter_rule() -> dict[str, Any]:
    (rule,) = yaml.safe_load((K8S / "components/autoscale-adapter/values.yaml").read_text())["rules"][
        "custom"
    ]
    return rule


def query_of(tool: str) -> str:
    """As Prometheus gets it."""
    if tool == "keda":
        (trigger,) = one("gpu-standalone", "ScaledObject", "get3d-triton")["spec"]["triggers"]
        return trigger["metadata"]["query"]
    # What the adapter fills in for the pods of a Deployment.
    query = adapter_rule()["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="get3d",pod=~"a|b"')
    return query.replace("<<.GroupBy>>", "pod")


def counters(wait_us: str, requests: str, pod: str) -> list[dict[str, str]]:
    labels = f'{{namespace="get3d",pod="{pod}",model="get3d",version="1"}}'
    return [
        {"series": f"nv_inference_queue_duration_us{labels}", "values": wait_us},
        {"series": f"nv_inference_request_success{labels}", "values": requests},
    ]


@pytest.mark.parametrize("tool", ["adapter", "keda"])
def test_the_query_is_the_mean_wait(tool: str, tmp_path: Path) -> None:
    # Pod a: 60 requests a minute that wait 2 s each; pod b: none. The adapter's value is per pod.
    series = [*counters("0+120000000x10", "0+60x10", "a"), *counters("0x10", "0x10", "b")]
    busy = [{"labels": '{pod="a"}', "value": 2}, {"labels": '{pod="b"}', "value": 0}]
    expected = busy if tool == "adapter" else [{"labels": "{}", "value": 2}]
    case = {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [{"expr": query_of(tool), "eval_time": "8m", "exp_samples": expected}],
    }
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [case]}))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_have_the_same_target() -> None:
    (metric,) = one("gpu", "HorizontalPodAutoscaler", "get3d-triton")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == adapter_rule()["name"]["as"]
    assert metric["pods"]["target"]["averageValue"] == f"{TARGET_S * 1000:.0f}m"
    (trigger,) = one("gpu-standalone", "ScaledObject", "get3d-triton")["spec"]["triggers"]
    assert float(trigger["metadata"]["threshold"]) == TARGET_S and trigger["metricType"] == "Value"
