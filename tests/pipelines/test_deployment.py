"""`get3d doctor` looks at a deployment that is not well; one that is: tests/e2e/test_monitoring.py."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from pipelines import cli
from pipelines.deployment import RULES, Replicas
from tests.components.remote_servers import free_port, no_http


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What is said about each thing, `ok` or `BAD` first."""
    return {
        line[4:24].strip(): f"{line[:3].strip()} {line[25:]}" for line in capsys.readouterr().out.splitlines()
    }


def test_what_is_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    arguments = ["--url", nobody, "--metrics", f"http://{nobody}/metrics", "--prometheus", f"http://{nobody}"]
    assert cli.main(["doctor", *arguments, "--folder", str(tmp_path / "none")]) == 2
    output, errors = capsys.readouterr()
    assert (
        errors == "get3d doctor: 4 thing(s) are wrong with the deployment; the lines above say what to do\n"
    )
    said = [line for line in output.splitlines() if line.startswith("BAD")]
    assert [line.split()[1] for line in said] == ["server", "metrics", "prometheus", "disk"]
    assert "get3d serve" in said[0] and "get3d monitor" in said[2] and "no such folder" in said[3]


@pytest.mark.parametrize("option", ["--metrics", "--prometheus"])
def test_a_port_that_speaks_something_else(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with no_http() as address:
        for url in (f"http://{address}/metrics", f"http://{address}x"):
            assert cli.main(["doctor", option, url]) == 2
            assert lines(capsys)[option.removeprefix("--")].startswith(f"BAD {url}")


def test_metrics_of_another_program(capsys: pytest.CaptureFixture[str]) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"other 1\n")

        def log_message(self, format: str, *args: object) -> None:
            pass

    other = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=other.handle_request, daemon=True).start()
    assert cli.main(["doctor", "--metrics", f"http://127.0.0.1:{other.server_port}/metrics"]) == 2
    assert "has no metrics of a served model" in lines(capsys)["metrics"]
    other.server_close()


def test_remotes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is there, one that is not, and a repository without any."""
    repository = tmp_path / "repository"
    repository.mkdir()
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)
    from dvc.repo import Repo

    Repo.init(str(repository)).close()
    assert cli.main(["doctor", "--remotes", str(repository)]) == 2
    assert "has no DVC remote; run: dvc remote add" in lines(capsys)["remotes"]
    (tmp_path / "store").mkdir()
    config = "\n".join(
        f"['remote \"{n}\"']\n    url = {tmp_path / p}" for n, p in (("good", "store"), ("bad", "no/such/x"))
    )
    (repository / ".dvc" / "config").write_text(config + "\n")
    assert cli.main(["doctor", "--remotes", str(repository)]) == 2
    told = lines(capsys)
    assert told["remote good"].startswith("ok ") and told["remote bad"].startswith("BAD ")


@contextmanager
def metrics_endpoint(package: str) -> Iterator[str]:
    """The address of a server's metrics as Triton writes them, of a model with two versions."""
    labels = f'model="get3d",package="{package}",torch="2.13.0",checkpoint="ab12"'
    text = f'get3d_build_info{{{labels},version="1"}} 1\nget3d_build_info{{{labels},version="2"}} 1\n'
    text += 'get3d_shm_size_bytes{model="get3d"} 100\nget3d_shm_used_bytes{model="get3d"} 10\n'
    with answering(lambda path: text) as url:
        yield f"{url}/metrics"


@contextmanager
def answering(answer: Callable[[str], str]) -> Iterator[str]:
    """The address of a server that answers each path so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer(self.path).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_replicas_that_run_different_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        metrics_endpoint("1.0") as first,
        metrics_endpoint("1.0") as second,
        metrics_endpoint("1.1") as third,
    ):
        assert cli.main(["doctor", "--metrics", first, "--metrics", second]) == 0
        assert lines(capsys)["replicas"] == "ok 2 with the same packages: 1.0 with torch 2.13.0"
        assert cli.main(["doctor", "--metrics", first]) == 0
        assert "replicas" not in lines(capsys), "one alone agrees with itself"
        assert (
            cli.main(["doctor", *(word for url in (first, second, third) for word in ("--metrics", url))])
            == 2
        )
        said = lines(capsys)["replicas"]
    assert said.startswith(f"BAD packages differ: 1.0 with torch 2.13.0 at {first}, {second}; 1.1 with torch")
    assert third in said and "get3d deploy" in said


def test_servers_that_prometheus_knows(capsys: pytest.CaptureFixture[str]) -> None:
    """Two, with one package and two checkpoints. Made-up answers; the real Prometheus: tests/e2e/test_monitoring.py."""
    common = {"version": "3", "package": "1.0", "torch": "2.13.0"}
    builds = [{**common, "instance": f"{name}:8002", "checkpoint": name * 4} for name in "ab"]
    answers: dict[str, object] = {
        "status/buildinfo": {"version": "2.42"}, "targets": {"activeTargets": []}, "rules": {"groups": []},
        "alertmanagers": {"activeAlertmanagers": []}, "alerts": {"alerts": []},
        "query": {"result": [{"metric": build, "value": [0, "1"]} for build in builds]},
    }  # fmt: skip

    def answer(path: str) -> str:
        return json.dumps({"data": answers[path.removeprefix("/api/v1/").partition("?")[0]]})

    with answering(answer) as url:
        assert cli.main(["doctor", "--prometheus", url]) == 2
    same, differ = [line for line in capsys.readouterr().out.splitlines() if "replicas" in line]
    assert same.startswith("ok ") and same.endswith("2 with the same packages: 1.0 with torch 2.13.0")
    assert differ.startswith("BAD")
    assert "3 (checkpoint aaaa) at a:8002; 3 (checkpoint bbbb) at b:8002" in differ


def test_what_others_have_in_the_same_prometheus(capsys: pytest.CaptureFixture[str]) -> None:
    """As on a cluster: an alert that fires always, a rule of somebody else that fails; and no training runs now."""
    groups = [{"name": group["name"], "rules": []} for group in yaml.safe_load(RULES.read_text())["groups"]]
    broken = {"name": "theirs", "health": "err"}
    targets = [("get3d-serving", "up"), ("get3d-training", "down"), ("node", "down")]
    alerts = ["Watchdog"]
    answers: dict[str, object] = {
        "status/buildinfo": {"version": "2.42"}, "query": {"result": []},
        "targets": {"activeTargets": [
            {"labels": {"job": job, "instance": "a:1"}, "health": health, "lastError": "refused"} for job, health in targets
        ]},
        "rules": {"groups": [*groups, {"name": "others", "rules": [broken]}]},
        "alertmanagers": {"activeAlertmanagers": [{"url": "http://a:9093"}]},
    }  # fmt: skip

    def answer(path: str) -> str:
        fire = {"alerts": [{"state": "firing", "labels": {"alertname": name}} for name in alerts]}
        return json.dumps(
            {"data": {**answers, "alerts": fire}[path.removeprefix("/api/v1/").partition("?")[0]]}
        )

    with answering(answer) as url:
        assert cli.main(["doctor", "--prometheus", url]) == 0
        told = lines(capsys)
        assert told["targets"] == "ok get3d-serving, no training runs" and told["alerts"].startswith(
            "ok none"
        )
        alerts.append("Get3dModelDead")
        groups[0]["rules"] = [{"name": "ours", "health": "err"}]
        answers["targets"]["activeTargets"][0]["health"] = "down"
        assert cli.main(["doctor", "--prometheus", url]) == 2
        told = lines(capsys)
    assert told["targets"] == "BAD get3d-serving a:1: refused" and told["rules"] == "BAD fail: ours"
    assert told["alerts"] == "BAD firing: Get3dModelDead; see docs/runbook.md"


def test_what_only_one_replica_tells_is_not_compared() -> None:
    replicas = Replicas()
    replicas.tell("a:1", "served versions", "1, 2")
    replicas.tell("b:1", "served versions", "1, 2")
    replicas.tell("a:1", "versions that answer", "2")
    assert [(finding.ok, finding.detail) for finding in replicas.compared()] == [
        (True, "2 with the same served versions: 1, 2")
    ]


def test_a_name_that_has_no_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--url", "no-such-host.invalid:8001", "--resolve"]) == 2
    assert "no-such-host.invalid: has no address" in capsys.readouterr().err
