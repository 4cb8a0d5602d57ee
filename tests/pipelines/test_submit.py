"""`get3d pipeline submit` against a server that speaks Kubeflow's REST API over HTTP."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pipelines import cli
from tests.pipelines.kfp_server import KfpServer, kfp_server

PROFILE = """
image: registry.example.com/get3d:1.4
service_account: pipeline-runner
gpu: {count: 2, type: NVIDIA-H200}
pvcs: [{claim: get3d, path: /data}]
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(PROFILE)
    return path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once, for the tests that care for what happens afterwards."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "cluster.yaml").write_text(PROFILE)
    path = folder / "pipeline.yaml"
    assert (
        cli.main(["pipeline", "compile", "--profile", str(folder / "cluster.yaml"), "--out", str(path)]) == 0
    )
    return path


def submit(server: KfpServer, *arguments: object) -> int:
    return cli.main(
        ["pipeline", "submit", "--host", server.url, "--poll-s", "0.01", *(str(item) for item in arguments)]
    )


def test_a_run_is_submitted_and_followed(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = [
        ("PENDING", {}),
        ("RUNNING", {"validate": "RUNNING"}),
        ("RUNNING", {"validate": "SUCCEEDED", "train": "RUNNING"}),
        ("SUCCEEDED", {"validate": "SUCCEEDED", "train": "SUCCEEDED"}),
    ]
    with kfp_server(script=script) as server:
        code = submit(
            server, "--profile", profile, "--params", "demo", "--set", "training.r1_gamma=80", "--shards", 8,
            "--pipeline-root", "s3://bucket/root",
        )  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0
    ((identity, run),) = server.runs.items()
    assert run["runtime_config"]["parameters"] == {
        "params": "demo", "overrides": '{"training.r1_gamma": 80}', "shards": 8,
    }  # fmt: skip
    assert run["runtime_config"]["pipeline_root"] == "s3://bucket/root"
    assert run["service_account"] == "pipeline-runner"
    ((_, version),) = server.versions.items()
    executors = version["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
    assert {e["container"]["image"] for e in executors.values()} == {"registry.example.com/get3d:1.4"}
    assert version["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]
    assert f"{server.url}/#/runs/details/{identity}" in out
    steps = [line.split()[2:] for line in out.splitlines() if " s  " in line]
    assert steps == [
        ["validate", "RUNNING"],
        ["validate", "SUCCEEDED"],
        ["train", "RUNNING"],
        ["train", "SUCCEEDED"],
    ]


@pytest.mark.e2e
def test_equal_pipelines_are_one_version_and_others_are_added(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with kfp_server() as server:
        assert submit(server, "--profile", profile) == 0
        assert submit(server, "--profile", profile) == 0
        assert len(server.versions) == 1 and len(server.runs) == 2
        assert "is there already" in capsys.readouterr().out
        assert submit(server, "--profile", profile, "--retries", 0) == 0
        # Found again beyond the first page of the server's list.
        assert submit(server, "--profile", profile, "--retries", 0) == 0
    assert len(server.versions) == 2 and len(server.pipelines) == 1 and len(server.experiments) == 1
    assert len({version["display_name"] for version in server.versions.values()}) == 2


def test_pipelines_of_a_namespace_get_new_versions_too(package: Path) -> None:
    with kfp_server() as server:
        for _ in range(2):
            assert submit(server, "--package", package, "--namespace", "a") == 0
        assert submit(server, "--package", package, "--namespace", "b") == 0
        assert submit(server, "--package", package, "--pipeline-name", "other") == 0
    assert [p.get("namespace") for p in server.pipelines.values()] == ["a", "b", None]
    assert len(server.versions) == 3 and len(server.runs) == 4


def test_without_caching_no_step_is_cached(profile: Path) -> None:
    with kfp_server() as server:
        assert submit(server, "--profile", profile, "--no-cache") == 0
    (version,) = server.versions.values()
    spec = version["pipeline_spec"]["pipeline_spec"]
    graphs = [spec["root"], *spec["components"].values()]
    tasks = [task for graph in graphs for task in graph.get("dag", {}).get("tasks", {}).values()]
    leaves = [t for t in tasks if "dag" not in spec["components"][t["componentRef"]["name"]]]
    assert len(leaves) > 10
    assert not any(task.get("cachingOptions", {}).get("enableCache") for task in leaves)


def test_a_failed_run_is_a_failure_that_names_the_step(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = [("RUNNING", {"train": "RUNNING"}), ("FAILED", {"train": "FAILED"})]
    with kfp_server(script=script, messages={"train": "rank 3 ran out of memory"}) as server:
        assert submit(server, "--package", package) == 2
    error = capsys.readouterr().err
    assert "ended as FAILED: train (rank 3 ran out of memory)" in error and len(error.splitlines()) == 1


def test_a_cancelled_run_ends_the_wait(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with kfp_server(script=[("RUNNING", {}), ("CANCELED", {})]) as server:
        assert submit(server, "--package", package) == 2
    assert "ended as CANCELED" in capsys.readouterr().err


def test_following_survives_a_server_that_is_away(package: Path) -> None:
    script = [("RUNNING", {}), ("RUNNING", {}), ("SUCCEEDED", {})]
    with kfp_server(script=script) as server:
        assert submit(server, "--package", package, "--no-follow") == 0
        (run_id,) = server.runs
        assert run_id not in server.looks
        from pipelines.submit import follow, make_client

        client = make_client(server.url)
        server.failures += [503, 502, 429]
        follow(client, run_id, 0.01, 0.0, lambda: client)
        assert server.looks[run_id] == 3


def test_the_wait_has_an_end(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with kfp_server(script=[("RUNNING", {})]) as server:
        assert submit(server, "--package", package, "--timeout-s", 0.05) == 2
    assert "still RUNNING after 0.05 s; it goes on" in capsys.readouterr().err


def test_a_recurring_run(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with kfp_server() as server:
        assert submit(server, "--package", package, "--schedule", "0 0 2 * * 1", "--nodes", 4) == 0
        assert submit(server, "--package", package, "--every-s", 3600, "--max-concurrency", 2) == 0
        assert submit(server, "--package", package, "--schedule", "0 2 * * 1") == 2
        assert submit(server, "--package", package, "--every-s", 60, "--run-id", "once") == 2
    first, second = server.recurring.values()
    assert first["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * 1"}} and first["mode"] == "ENABLE"
    assert first["runtime_config"]["parameters"]["nodes"] == 4
    assert (
        second["trigger"] == {"periodic_schedule": {"interval_second": 3600}}
        and second["max_concurrency"] == 2
    )
    assert not server.runs
    out, err = capsys.readouterr()
    assert "#/recurringrun/details/" in out
    assert "six fields" in err and "leave out --run-id" in err


def test_tokens(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = tmp_path / "token"
    token.write_text("right\n")
    with kfp_server(token="right") as server:
        assert submit(server, "--package", package, "--namespace", "a", "--token-file", token) == 0
        token.write_text("wrong\n")
        assert submit(server, "--package", package, "--namespace", "a", "--token-file", token) == 2
        assert "401 no valid token; check --token-file" in capsys.readouterr().err
        # Without a namespace the client asks the server first whether there are several.
        begin = time.monotonic()
        assert submit(server, "--package", package, "--token-file", token) == 2
        assert time.monotonic() - begin < 5
        assert capsys.readouterr().err == (
            "get3d pipeline: connecting failed: 401 no valid token; check --token-file\n"
        )
        for content in (b"two words", b"\xff\xfe"):
            token.write_bytes(content)
            assert submit(server, "--package", package, "--token-file", token) == 2
            assert f"--token-file {token}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "training.r1_gama=80"], "unknown setting training.r1_gama; did you mean r1_gamma?"),
        (["--params", "nothing"], "neither YAML, nor a file, nor one of the presets"),
        (["--scheduler", "kubernetes"], "give its --profile"),
        (["--git-repository", "x", "--set", "nonsense"], "must be NAME=VALUE"),
        (["--poll-s", "-1"], "--poll-s must be at least 0.001 seconds, not -1"),
        (["--timeout-s", "nan"], "--timeout-s must be at least 0 seconds, not nan"),
        (["--every-s", "60", "--max-concurrency", "0"], "--max-concurrency must be at least 1, not 0"),
    ],
)
def test_what_is_wrong_shows_before_anything_is_uploaded(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with kfp_server() as server:
        assert submit(server, "--params", "demo", *arguments) == 2
        assert server.requests == []
    assert message in capsys.readouterr().err


def test_a_package_of_an_older_version_is_refused_by_name(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.yaml"
    old.write_text(package.read_text().replace("promote", "advance"))
    with kfp_server() as server:
        assert submit(server, "--package", old, "--promote", "never") == 2
        assert "has no parameter promote" in capsys.readouterr().err
        assert submit(server, "--package", old) == 0
        for content in (b"a: b", b"", b"\xff\xfe"):
            old.write_bytes(content)
            assert submit(server, "--package", old) == 2
            assert "is no compiled pipeline" in capsys.readouterr().err


def test_a_server_that_is_not_there(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with kfp_server() as server:
        pass
    assert submit(server, "--package", package) == 2
    error = capsys.readouterr().err
    assert "cannot be reached" in error and "check --host" in error and len(error.splitlines()) == 1


def test_overrides_reach_the_first_step_unchanged() -> None:
    from components.validate.main import override, override_lines

    values = {
        "training.r1_gamma": 80,
        "training.init_from": None,
        "name": "a: b",
        "model.initial_shape": [0.1, 0.2],
    }
    lines = override_lines(json.dumps(values))
    assert dict(override(line) for line in lines) == values
