"""Training jobs that lose processes, and jobs on a stand-in cluster whose pods really train from a real S3 server."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from components.train.launch import main
from get3d_model.data.remote import push_dataset
from get3d_model.training.checkpoint import list_checkpoints, read_state
from tests.components.kube_api import Cluster
from tests.components.train_launcher import Launcher, arguments, gone, marked
from tests.components.train_profiles import write_profile
from tests.get3d_model.training.test_elastic import MARK, marked_processes

pytestmark = pytest.mark.e2e
REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def mark() -> Iterator[str]:
    with marked() as name:
        yield name


def test_a_killed_launcher_and_a_killed_rank_leave_no_process_and_lose_nothing(
    tiny_data: Path, tmp_path: Path, mark: str
) -> None:
    out = tmp_path / "out"
    command = arguments(tmp_path, tiny_data, 60)
    first = Launcher(mark, *command)
    first.wait_for("kimg 0.0")
    first.process.kill()
    # At once, while the processes of the first are saving; the launcher waits for their end.
    second = Launcher(mark, *command)
    second.wait_for("resuming from")
    assert len([1 for env in marked_processes(mark).values() if env.get("RANK")]) == 2, "only the second's"
    second.wait_for("kimg 0.1")
    (victim,) = [process for process, env in marked_processes(mark).items() if env.get("RANK") == "1"]
    os.kill(victim, signal.SIGKILL)
    assert second.end() == 0, "\n".join(second.lines)
    assert sum("resuming from" in line for line in second.lines) == 2
    assert read_state(list_checkpoints(out)[-1]).step == 60
    assert gone(mark, 5)


def test_a_rank_that_fails_ends_the_job_with_its_words(tiny_data: Path, tmp_path: Path, mark: str) -> None:
    command = arguments(tmp_path, tiny_data, 5, "--max-retries", "0")
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().replace("resolution: 16", "resolution: 32"))
    job = Launcher(mark, *command)
    assert job.end() == 2
    assert "holds images of 16 pixels, the configuration asks for 32" in job.lines[-1]
    assert (
        job.lines[-1].startswith("get3d train-job: job get3d-train-") and ", exit code 2: " in job.lines[-1]
    )
    assert gone(mark, 5)


@pytest.fixture
def s3_data(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The data set in a server of the S3 protocol."""
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_DEFAULT_REGION", "us-east-1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    # Servers of one process hold the same buckets.
    bucket = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(bucket)
    push_dataset(tiny_data, f"s3://{bucket}/set")
    yield f"s3://{bucket}/set"
    server.stop()


def test_two_nodes_on_this_machine_train_from_s3(s3_data: str, tmp_path: Path, mark: str) -> None:
    job = Launcher(
        mark,
        *arguments(tmp_path, s3_data, 4, "--nodes", "2", "--cache-dir", str(tmp_path / "cache")),
    )
    assert job.end() == 0, "\n".join(job.lines)
    assert any(f"reading {s3_data}: 3 shards" in line for line in job.lines)
    assert {f"this is rank {rank} of 4" in "".join(job.lines) for rank in range(4)} == {True}
    assert read_state(list_checkpoints(tmp_path / "out")[-1]).step == 4
    assert len(list((tmp_path / "cache").glob("*/shards/*.tar"))) == 3 and gone(mark, 5)


@pytest.mark.parametrize("scheduler", ["kubernetes", "indexed-job"])
def test_pods_train_are_preempted_and_go_on(
    scheduler: str, s3_data: str, tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Two pods of one process each. The first is preempted: it saves within its grace period, and the job goes on."""
    inside = {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
    environment = {
        **inside, MARK: mark, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY),
    }  # fmt: skip

    def here(node: int, command: list[str]) -> list[str]:
        """The pods' command, with this machine's folders, and a port that is free for sure."""
        return [word.replace("/scratch", f"{tmp_path}/scratch-{node}") for word in command]

    out = tmp_path / "out"
    profile = write_profile(
        tmp_path / "profile.yaml",
        {"image": "i", "pvcs": [{"claim": "c", "path": str(tmp_path)}], "termination_grace_s": 60},
    )
    options = arguments(
        tmp_path, s3_data, 60, "--scheduler", scheduler, "--profile", str(profile), "--nodes", "2"
    )
    options[options.index("--procs-per-node") + 1] = "1"
    with Cluster(command=here, environment=environment) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "kubeconfig")))

        def preempt() -> None:
            while not list_checkpoints(out):
                time.sleep(0.05)
            cluster.preempt(next(pod for pod in cluster.pods if pod.phase == "Running"), grace_s=60)

        threading.Thread(target=preempt, daemon=True).start()
        main(options)
        written = capsys.readouterr().out
        assert "interrupted by SIGTERM; saved" in written and "resuming from" in written
        assert read_state(list_checkpoints(out)[-1]).step == 60
        assert any(pod.disrupted for pod in cluster.pods)
        # Every pod copied the shards to a disk of its own.
        assert [len(list(tmp_path.glob(f"scratch-{node}/*/shards/*.tar"))) for node in range(2)] == [3, 3]
    assert gone(mark, 10)
