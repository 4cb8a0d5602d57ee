"""The exit handler: the outcome is recorded, and a training job that nobody waits for any more is stopped."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from components.evaluate.component import gate
from components.finish.main import finish, main, read_outcome
from components.train.job_spec import JobSpec
from components.train.launch import make_job
from components.train.step import params_file
from tests.components.kube_api import Cluster
from tests.components.train_profiles import FULL


def write_plan(workspace: Path, run_id: str, training: Path) -> None:
    folder = workspace / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps({"training": str(training)}))


def test_the_outcome_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(tmp_path, "a", tmp_path / "training")
    assert main(["--workspace", str(tmp_path), "--run-id", "a", "--state", "SUCCEEDED"]) == 0
    outcome = read_outcome(tmp_path, "a")
    assert (outcome["state"], outcome["training_job"]) == ("SUCCEEDED", "none running")
    assert "SUCCEEDED" in capsys.readouterr().out


def test_the_outcome_says_what_the_gate_decided_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = ["fid_3d is 50, above the maximum 40", "empty_fraction is 0%, at most 5.0%"]
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "gate.json").write_text(json.dumps({"decision": "hold", "reasons": reasons}))
    evaluation, summary = (
        SimpleNamespace(path=str(tmp_path / name)) for name in ("evaluation", "summary.md")
    )
    decided = gate.python_func(evaluation, summary, run_id="a", workspace=str(tmp_path))
    assert (decided.decision, decided.reasons) == ("hold", reasons)
    assert main(["--workspace", str(tmp_path), "--run-id", "a", "--state", "SUCCEEDED"]) == 0
    outcome = read_outcome(tmp_path, "a")
    assert (outcome["gate"], outcome["gate_reasons"]) == ("hold", "; ".join(reasons))
    assert "gate: hold: fid_3d is 50, above the maximum 40; " in capsys.readouterr().out
    # Started again, and failed before the gate.
    assert finish(tmp_path, "a", "FAILED")["gate"] == "not reached"


def test_a_run_that_failed_before_its_plan_has_an_outcome_too(tmp_path: Path) -> None:
    assert finish(tmp_path, "b", "FAILED", "13 validate failed")["error"] == "13 validate failed"
    assert read_outcome(tmp_path, "b")["state"] == "FAILED"


@pytest.mark.parametrize("scheduler", ["kubernetes", "indexed-job"])
def test_a_job_whose_launcher_was_killed_is_stopped(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.train.pods._POLL_S", 0.02)
    training = Path("/data/training/0123")
    profile = tmp_path / "profile.yaml"
    profile.write_text(yaml.safe_dump(FULL))
    params = tmp_path / "params.yaml"
    params.write_text("name: demo\n")
    monkeypatch.setattr("components.train.step.params_file", lambda out: params)
    from components.cluster_profile import load_profile

    spec = JobSpec(params, "/data/set", str(training), 1, 4, profile=load_profile(profile))
    with Cluster(command=lambda node, command: ["sleep", "60"]) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "kubeconfig")))
        mine, other = make_job(scheduler, spec), make_job(scheduler, JobSpec(
            params, "/data/set", "/data/training/other", 1, 4, profile=load_profile(profile)
        ))  # fmt: skip
        try:
            for job in (mine, other):
                job.submit()
            deadline = time.monotonic() + 20
            while not (mine.pods() and other.pods()) and time.monotonic() < deadline:
                time.sleep(0.05)
            write_plan(tmp_path, "c", training)
            outcome = finish(tmp_path, "c", "FAILED", scheduler=scheduler, profile=profile)
            assert outcome["training_job"] == mine.name
            assert not mine.pods() and other.pods()
            # Nothing is left to stop.
            assert (
                finish(tmp_path, "c", "FAILED", scheduler=scheduler, profile=profile)["training_job"]
                == "none running"
            )
        finally:
            mine.close()
            other.close()


def test_a_cluster_that_cannot_be_asked_does_not_hide_the_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(tmp_path, "d", Path("/data/training/0123"))
    outcome = finish(tmp_path, "d", "FAILED", scheduler="kubernetes")
    assert "needs a cluster profile" in outcome["training_job"]
    assert "could not be stopped" in capsys.readouterr().err
    assert read_outcome(tmp_path, "d") == outcome


def test_the_params_of_a_job_stand_beside_its_folder() -> None:
    assert params_file(Path("/data/training/0123")) == Path("/data/training/0123.job/params.yaml")
