"""Jobs on a cluster, from submitting to the end, against a stand-in for its API (kube_api.py)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.train import cluster_job
from components.train.cluster_job import ClusterJob
from components.train.follow import JobCancelled, JobFailed, Limits, follow
from components.train.indexed_job import IndexedJob
from components.train.volcano import VolcanoJob
from get3d_model.errors import InputError
from tests.components.kube_api import Cluster
from tests.components.train_profiles import FULL, spec

KINDS: list[type[ClusterJob]] = [VolcanoJob, IndexedJob]
LIMITS = Limits(schedule_s=20.0, poll_s=0.02, drain_s=5.0)


def shell(script: str) -> Callable[[int, list[str]], list[str]]:
    """Pods run this instead of their command; $NODE is which one it is."""
    return lambda node, command: ["bash", "-c", f"NODE={node}; {script}"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Cluster]]:
    clusters: list[Cluster] = []
    monkeypatch.setattr("components.train.pods._POLL_S", 0.02)

    def begin(script: str, **options: Any) -> Cluster:
        cluster = Cluster(command=shell(script), **options)
        clusters.append(cluster.__enter__())
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "kubeconfig")))
        return cluster

    yield begin
    for cluster in clusters:
        cluster.__exit__()


def run(job: ClusterJob, caught: list[int] | None = None, limits: Limits = LIMITS) -> list[str]:
    written: list[str] = []
    job.written = written  # for the threads of a test
    try:
        written.append(job.submit())
        follow(job, limits, written.append, caught if caught is not None else [])
    finally:
        job.close()
    return written


def when(condition: Callable[[], bool], action: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Does the action in a thread as soon as the condition holds."""

    def wait() -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not condition():
            time.sleep(0.02)
        action()

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_runs_to_its_end(kind: type[ClusterJob], start: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = start(
        'echo "[0]:this is rank $NODE of 2 (node $NODE, local rank 0)"; echo "[0]:hello"; sleep 0.2'
    )
    written = run(kind(spec(tmp_path, FULL)))
    assert "submitted to namespace team-a" in written[0] and written[-1].endswith("succeeded")
    for rank in range(2):
        assert written.count(f"[rank {rank}] hello") == 1
    (job,) = cluster.jobs.values()
    assert job["metadata"]["namespace"] == "team-a"
    if kind is IndexedJob:
        (service,) = cluster.services
        (owner,) = service["metadata"]["ownerReferences"]
        assert owner["uid"] == job["metadata"]["uid"] and owner["kind"] == "Job"
        assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    group = "batch.volcano.sh/v1alpha1" if kind is VolcanoJob else "batch/v1"
    assert f"POST /apis/{group}/namespaces/team-a/jobs" in cluster.requests


@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_that_fails_fails_the_job_with_its_words(
    kind: type[ClusterJob], start: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = start(
        'echo "[0]:this is rank $NODE of 2 (node $NODE, local rank 0)"; '
        '[ $NODE = 0 ] && exec sleep 60; echo "[0]:get3d train: the disk is full; make space"; exit 1'
    )
    job = kind(spec(tmp_path, FULL, max_retries=0))
    with pytest.raises(JobFailed) as error:
        run(job)
    assert str(error.value).endswith("rank 1 on node 1: the disk is full; make space")
    assert ("PodFailed" if kind is VolcanoJob else "BackoffLimitExceeded") in str(error.value)
    assert "last lines of rank 1 on node 1:" in job.written
    # Kept for a look; its other pod has ended.
    assert job.name in cluster.jobs
    deadline = time.monotonic() + 10
    while any(pod.phase == "Running" for pod in cluster.pods):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_pod_out_of_memory_is_said_so(start: Callable[..., Cluster], tmp_path: Path) -> None:
    start('echo "[0]:working"; kill -KILL $$')
    with pytest.raises(JobFailed, match=r"BackoffLimitExceeded.*pod get3d-train-\S+: OOMKilled"):
        run(IndexedJob(spec(tmp_path, FULL, nodes=1)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_finds_no_place_is_cancelled_with_the_reason(
    kind: type[ClusterJob], start: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = start("sleep 60", capacity=1)
    job = kind(spec(tmp_path, {**FULL, "termination_grace_s": 2}))
    with pytest.raises(
        JobFailed, match=r"not scheduled within 0.5 s .*Unschedulable: 0/3 nodes are available"
    ):
        run(job, limits=Limits(schedule_s=0.5, poll_s=0.02))
    # An Indexed Job has the pod that found a place; Volcano starts all or none.
    count = 0 if kind is VolcanoJob else 1
    assert any(f"pending, {count} of 2 nodes run: Unschedulable" in line for line in job.written)
    assert cluster.jobs == {} and cluster.pods_of(job.name) == []


def test_no_pods_at_all_and_an_event_that_says_why(
    start: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = start("true")
    monkeypatch.setattr(cluster, "_control", None)
    cluster._stop.set()  # no controller at work
    time.sleep(0.05)
    cluster.events = [
        {
            "metadata": {"name": "e", "namespace": "team-a"}, "involvedObject": {}, "reason": "FailedCreate",
            "message": "exceeded quota: gpus", "type": "Warning",
        }
    ]  # fmt: skip
    with pytest.raises(JobFailed, match=r"FailedCreate: exceeded quota: gpus"):
        run(VolcanoJob(spec(tmp_path, FULL)), limits=Limits(schedule_s=0.2, poll_s=0.02))


@pytest.mark.parametrize("kind", [IndexedJob])
def test_a_signal_cancels_the_job_and_its_last_words_are_heard(
    kind: type[ClusterJob], start: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = start(
        'trap \'echo "[0]:saved"; exit 143\' TERM; echo "[0]:ready"; while :; do sleep 0.02; done'
    )
    job, caught = kind(spec(tmp_path, FULL)), []
    job.written = []

    when(lambda: sum("ready" in line for line in job.written) == 2, lambda: caught.append(15))
    with pytest.raises(JobCancelled):
        run(job, caught)
    assert sum("saved" in line for line in job.written) == 2
    assert cluster.jobs == {} and cluster.services == []
    assert any(
        line.startswith("DELETE") and "propagationPolicy=Background" in line for line in cluster.requests
    )


@pytest.mark.parametrize("kind", [VolcanoJob])
def test_a_preempted_pod_comes_back(
    kind: type[ClusterJob], start: Callable[..., Cluster], tmp_path: Path
) -> None:
    mark = tmp_path / "again"
    cluster = start(
        f'trap \'echo "[0]:saved $NODE"; touch {mark}; exit 143\' TERM; [ -e {mark} ] && echo "[0]:resumed $NODE" && exit 0; '
        '[ $NODE = 0 ] && echo "[0]:first 0"; while [ ! -e ' + str(mark) + " ]; do sleep 0.02; done; "
        '[ $NODE = 0 ] && sleep 0.3; echo "[0]:done $NODE"'
    )
    job = kind(spec(tmp_path, FULL))
    job.written = []
    when(
        lambda: any("first 0" in line for line in job.written),
        lambda: cluster.preempt(cluster.pods_of(job.name)[0], grace_s=10),
    )
    written = run(job)
    heard = [line.rpartition("] ")[2] for line in written if line.startswith("[")]
    assert "saved 0" in heard and "resumed 0" in heard, "the log goes on with the pod that replaced it"
    assert written[-1].endswith("succeeded")


def test_log_streams_that_break_lose_and_repeat_nothing(
    start: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = start('for i in $(seq 30); do echo "[0]:line $i"; sleep 0.01; done')
    cluster.cut_after = 7
    written = run(IndexedJob(spec(tmp_path, FULL, nodes=1)))
    heard = [line.rpartition("line ")[2] for line in written if "line " in line]
    assert heard == [str(i) for i in range(1, 31)]
    assert any("sinceSeconds" in line for line in cluster.requests)


def test_an_api_server_that_fails_for_a_while_is_no_end(
    start: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = start("sleep 0.6")
    job = VolcanoJob(spec(tmp_path, FULL))
    cluster.failing = {f"GET /apis/batch.volcano.sh/v1alpha1/namespaces/team-a/jobs/{job.name}": 5}
    written = run(job)
    assert any("the API server does not answer" in line for line in written) and written[-1].endswith(
        "succeeded"
    )


def test_an_api_server_that_stays_away_ends_the_launcher_not_the_job(
    start: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_job, "PATIENCE_S", 0.2)
    mark = tmp_path / "enough"
    cluster = start(f"while [ ! -e {mark} ]; do sleep 0.05; done")
    job = VolcanoJob(spec(tmp_path, FULL))
    cluster.failing = {f"GET /apis/batch.volcano.sh/v1alpha1/namespaces/team-a/jobs/{job.name}": 1000}
    with pytest.raises(
        InputError, match=r"has not answered for 0 s .* may still run: run the same command again"
    ):
        run(job, limits=Limits(20.0, poll_s=0.02, drain_s=0.2))
    assert job.name in cluster.jobs
    # Run again: the job is found by what it does, and not started twice.
    cluster.failing = {}
    again = VolcanoJob(spec(tmp_path, FULL))
    again.written = []
    when(lambda: any("running" in line for line in again.written), mark.touch)
    written = run(again)
    assert "already there" in written[0] and again.name == job.name and len(cluster.jobs) == 1
    assert written[-1] == f"job {job.name}: succeeded"


@pytest.mark.parametrize("kind", [IndexedJob])
def test_two_jobs_never_write_into_one_folder(
    kind: type[ClusterJob], start: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = start("sleep 60")
    first = kind(spec(tmp_path, FULL))
    first.submit()
    with pytest.raises(
        InputError, match=rf"job {first.name} in namespace team-a is training into /data/runs/a"
    ):
        kind(spec(tmp_path, FULL, data="s3://bucket/other")).submit()
    assert kind(spec(tmp_path, FULL, out="/data/runs/b")).submit().endswith("team-a")
    assert len(cluster.jobs) == 2


@pytest.mark.parametrize("kind", [VolcanoJob])
def test_jobs_whose_launcher_is_gone_are_found_by_their_folder(
    kind: type[ClusterJob], start: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = start("exec sleep 60")
    first, other = kind(spec(tmp_path, FULL)), kind(spec(tmp_path, FULL, out="/data/runs/b"))
    for job in (first, other):
        job.submit()
    assert kind(spec(tmp_path, FULL, data="s3://bucket/other", nodes=1)).cancel_all() == [first.name]
    assert list(cluster.jobs) == [other.name]
    assert kind(spec(tmp_path, FULL)).cancel_all() == []


def test_a_job_that_somebody_deletes(start: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = start("sleep 60")
    job = VolcanoJob(spec(tmp_path, FULL))
    threading.Timer(0.5, lambda: cluster.delete(job.name)).start()
    with pytest.raises(JobFailed, match="the job was deleted"):
        run(job)


def test_no_cluster_and_no_rights(
    start: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(InputError, match="no Kubernetes cluster to talk to"):
        VolcanoJob(spec(tmp_path, FULL)).submit()
    cluster = start("true")
    config = tmp_path / "kubeconfig"
    config.write_text(config.read_text().replace("stand-in", "other"))
    with pytest.raises(
        InputError, match="the cluster refuses listing jobs in namespace team-a: 401 Unauthorized"
    ):
        IndexedJob(spec(tmp_path, FULL)).submit()
    config.write_text(config.read_text().replace(cluster.url, "http://127.0.0.1:9"))
    with pytest.raises(InputError, match="the cluster cannot be reached"):
        IndexedJob(spec(tmp_path, FULL)).submit()
