"""`get3d pipeline run` where it hurts: steps that are killed, a runner that is stopped, wrong input, a full disk."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from serving.repository import versions
from tests.components.version_project import git
from tests.e2e.pipeline_world import (
    ROOT,
    STEPS_OF_A_CACHED_RUN,
    World,
    environment,
    make_meshes,
    sample,
)

pytestmark = pytest.mark.e2e


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def kill_in(world: World, run_id: str, wanted: str, delay_s: float = 0.0) -> None:
    """Starts a run, and when a line that matches appears, kills the step with SIGKILL, as a node that dies does."""
    with subprocess.Popen(
        world.command(run_id), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if re.search(wanted, re.sub(r"\x1b\[\d+m", "", line)):
                break
        else:
            pytest.fail(f"never saw {wanted}: {''.join(lines)[-3000:]}")
        time.sleep(delay_s)
        for child in descendants(process):
            child.kill()
        rest = process.stdout.read()
        assert process.wait() == 2, "".join(lines)[-3000:] + rest


# (step, line after which it is killed, seconds later)
KILLS = [
    ("prepare-meshes", r"Executing task 'prepare-meshes'", 1.5),
    ("render", r"shard 1/3", 1.0),
    ("merge", r"Executing task 'merge'", 0.3),
    ("train", r"kimg 0\.01/0\.03", 0.5),
    ("evaluate", r"Executing task 'evaluate'", 2.5),
    ("export", r"Executing task 'export'", 2.5),
    ("deploy", r"Executing task 'deploy'", 1.5),
    ("version", r"data/rendered: .* objects transferred", 0.05),
]


def test_every_step_can_be_killed_and_the_next_run_goes_on(world: World) -> None:
    done: list[str] = []
    for step, line, delay_s in KILLS:
        run_id = f"kill-{step}"
        kill_in(world, run_id, line, delay_s)
        record = world.record(run_id)
        assert record["outcome"]["state"] == "FAILED", record
        states = world.states(run_id)
        assert "FAILURE" in states[step], states
        # What was finished before is not done again; the step that was killed last time is finished in this run.
        before = [name for name in done[:-1] if STEPS_OF_A_CACHED_RUN[name] == "CACHED"]
        assert {name: states[name] for name in before} == dict.fromkeys(before, "CACHED"), states
        assert not git(world.bare, "for-each-ref", "refs/heads/runs"), "half a run was recorded"
        done.append(step)
    last = world.run("last")
    assert last["outcome"]["state"] == "SUCCEEDED"
    assert sample(world.url)[:4] == b"glTF"
    clone = world.check_version("last")
    steps = [
        json.loads(line)["step"]
        for line in (clone / "outputs" / "train" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(set(steps)), "the training was not continued, or twice"
    leftovers = [
        p for p in clone.rglob("*") if p.suffix in (".tmp", ".part", ".old") and ".dvc" not in p.parts
    ]
    assert not leftovers


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_runs_on_when_the_runner_is_stopped(world: World, signal_number: int) -> None:
    process = subprocess.Popen(
        world.command("stopped"), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if "[rank 1]" in line:
                break
        below = descendants(process)
        assert len(below) > 3
        process.send_signal(signal_number)
        process.stdout.read()
        code = process.wait()
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive
    if signal_number == signal.SIGTERM:
        assert code == 128 + signal.SIGTERM
        assert world.record("stopped")["outcome"]["state"] == "INTERRUPTED"
    world.run("after")
    assert world.states("after")["train"] == "SUCCESS"


def garbage(world: World) -> list[str]:
    (world.folder / "meshes").mkdir()
    for name in "abcd":
        (world.folder / "meshes" / f"{name}.glb").write_bytes(b"no mesh")
    return ["--meshes", str(world.folder / "meshes")]


def empty_split(world: World) -> list[str]:
    make_meshes(world.folder / "meshes")
    (world.folder / "meshes" / "val.txt").write_text("")
    return ["--meshes", str(world.folder / "meshes")]


def unreachable_remote(world: World) -> list[str]:
    work = world.folder / "work"
    git(work, "checkout", "-q", "-b", "elsewhere")
    (work / ".dvc" / "config").write_text(
        "[core]\nremote = s\n['remote \"s\"']\nurl = ssh://u@127.0.0.1:1/x\n"
    )
    git(work, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "remote")
    git(work, "push", "-q", "origin", "elsewhere")
    return ["--git-revision", "elsewhere"]


def errors(run: dict[str, Any]) -> set[str]:
    """What the steps said of their ends; jobs of one fan-out may say the same."""
    return {line.strip() for line in run["stdout"].splitlines() if line.strip().startswith("get3d ")}


@pytest.mark.parametrize(
    ("mistake", "step", "words"),
    [
        (garbage, "merge", r"get3d data: .* hold no shape at all; of 4 meshes .* the first is .*a\.glb: is too short"),
        (empty_split, "render", r"get3d render: split file .*val\.txt lists no shape"),
        (unreachable_remote, "validate", r"get3d validate: .*DVC remote s \(ssh://u@127\.0\.0\.1:1/x\) failed"),
        (lambda world: ["--git-revision", "f" * 40], "validate", "get3d validate: .*no such commit, branch or tag"),
        (lambda world: ["--git-repository", "/nowhere"], "validate", "get3d validate: .*/nowhere cannot be cloned"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_of_the_right_step(
    mistake: Callable[[World], list[str]], step: str, words: str, world: World
) -> None:
    failed = world.run("wrong", *mistake(world), code=2)
    assert {n for n, state in world.states("wrong").items() if state == "FAILURE"} == {step}
    (said,) = errors(failed)
    assert re.search(words, said), failed["stdout"]
    assert "Traceback" not in failed["stdout"] and step in failed["stderr"]
    assert failed["outcome"]["state"] == "FAILED" and not versions(world.served)
    assert not git(world.bare, "for-each-ref", "refs/heads/runs")


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_space(world: World) -> None:
    """The workspace is a file system of its own, which is too small at first."""
    world.workspace.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=3m", "get3d-test", str(world.workspace)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("only who may mount a file system can fill one")
    try:
        for size, steps in (("3m", {"prepare-meshes"}), ("8m", {"train", "evaluate", "export"})):
            subprocess.run(["mount", "-o", f"remount,size={size}", str(world.workspace)], check=True)
            failed = world.run(f"full-{size}", code=2)
            (step,) = [name for name, state in world.states(f"full-{size}").items() if state == "FAILURE"]
            (said,) = errors(failed)
            assert step in steps and "No space left on device" in said and "make space" in said, said
        subprocess.run(["mount", "-o", "remount,size=2g", str(world.workspace)], check=True)
        world.run("space")
        world.check_version("space")
    finally:
        subprocess.run(["umount", "--lazy", str(world.workspace)], check=True)
