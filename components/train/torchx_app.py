"""TorchX application of a training run: `get3d train` on one or several nodes.

    torchx run -s local_cwd components/train/torchx_app.py:train --config params.yaml --data data/rendered \
        --out outputs/train --j 1x2

TorchX wraps it in torchrun (its `dist.torchrun`, which was called `dist.ddp`): one process per GPU, restarted together
after a failure, and then resumed from the newest checkpoint. `get3d train-job` starts it and follows it.
"""

import torchx.specs as specs
from torchx.components import dist

ROLE = "trainer"


def train(
    config: str = "params.yaml",
    data: str = "data/rendered",
    out: str = "outputs/train",
    j: str = "1x1",
    max_restarts: int = 3,
    init_from: str = "",
    restart_on_change: bool = False,
    metrics_textfile: str = "",
    cache_dir: str = "",
    cache_gb: float = 0.0,
    image: str = "get3d-train:latest",
    h: str | None = None,
    cpu: float = 16,
    gpu: int = 0,
    memMB: int = 65536,
    rdzv_port: int = 29500,
    rdzv_timeout_s: int = 900,
    mounts: str = "",
    env: dict[str, str] | None = None,
    name: str = "/get3d-train",
) -> specs.AppDef:
    """GET3D training.

    Args:
        config: params file.
        data: rendered data set, a folder that every node sees or an address such as s3://bucket/set.
        out: folder for checkpoints, image grids and metrics; shared by all nodes.
        j: NODESxPROCESSES, one process per GPU.
        max_restarts: how often torchrun starts all processes again after one of them failed.
        init_from: checkpoint whose weights the run starts from; empty for none.
        restart_on_change: start afresh when the checkpoint in out belongs to another configuration or data set.
        metrics_textfile: also write the current metrics here as a Prometheus .prom file.
        cache_dir: local disk that shards of the data set are staged to; empty for the default of `get3d train`.
        cache_gb: how much of it; 0 for the default.
        image: container image; ignored by local_cwd.
        h: registered named resource, instead of cpu, gpu and memMB.
        cpu: processors per node.
        gpu: GPUs per node.
        memMB: memory per node in MB.
        rdzv_port: port on the first node where the processes of several nodes meet.
        rdzv_timeout_s: how long nodes wait for each other at the start.
        mounts: mounts of the container, for instance type=volume,src=CLAIM,dst=/data.
        env: environment variables of the processes.
        name: EXPERIMENT/NAME of the job.
    """
    arguments = ["--config", config, "--data", data, "--out", out]
    for option, value in (
        ("--init-from", init_from),
        ("--metrics-textfile", metrics_textfile),
        ("--cache-dir", cache_dir),
        ("--cache-gb", f"{cache_gb:g}" if cache_gb else ""),
    ):
        if value:
            arguments += [option, value]
    if restart_on_change:
        arguments.append("--restart-on-change")
    application = dist.torchrun(
        *arguments,
        m="components.train.rank",
        image=image,
        name=name,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        j=j,
        # torchrun reads its own --max-restarts from here. It has one thread per process unless told otherwise.
        # TorchX takes LOGLEVEL from wherever the job is submitted unless it is given.
        env={"PET_MAX_RESTARTS": str(max_restarts), "LOGLEVEL": "WARNING", **(env or {})},
        rdzv_port=rdzv_port,
        # Nodes start minutes apart; the default is to give up on the first one's store after one minute.
        rdzv_conf=f"join_timeout={rdzv_timeout_s},read_timeout={rdzv_timeout_s}",
        mounts=mounts.split(",") if mounts else None,
    )
    application.roles[0].name = ROLE
    return application
