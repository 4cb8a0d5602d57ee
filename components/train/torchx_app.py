"""TorchX application of a training run: `get3d train` on one or several nodes.

    torchx run -s local_cwd components/train/torchx_app.py:train --config params.yaml --data data/rendered \
        --out outputs/train --j 1x2

TorchX wraps it in torchrun (its `dist.ddp`): one process per GPU, restarted together after a failure, and then
resumed from the newest checkpoint.
"""

import torchx.specs as specs
from torchx.components import dist


def train(
    config: str = "params.yaml",
    data: str = "data/rendered",
    out: str = "outputs/train",
    j: str = "1x1",
    max_restarts: int = 3,
    init_from: str = "",
    restart_on_change: bool = False,
    metrics_textfile: str = "",
    image: str = "get3d-train:latest",
    h: str | None = None,
    cpu: int = 16,
    gpu: int = 0,
    memMB: int = 65536,
    rdzv_port: int = 29500,
    mounts: str = "",
    env: dict[str, str] | None = None,
    name: str = "/get3d-train",
) -> specs.AppDef:
    """GET3D training.

    Args:
        config: params file.
        data: rendered data set; every node sees it.
        out: folder for checkpoints, image grids and metrics; shared by all nodes.
        j: NODESxPROCESSES, one process per GPU.
        max_restarts: how often torchrun starts all processes again after one of them failed.
        init_from: checkpoint whose weights the run starts from; empty for none.
        restart_on_change: start afresh when the checkpoint in out belongs to another configuration or data set.
        metrics_textfile: also write the current metrics here as a Prometheus .prom file.
        image: container image; ignored by local_cwd.
        h: registered named resource, instead of cpu, gpu and memMB.
        cpu: processors per node.
        gpu: GPUs per node.
        memMB: memory per node in MB.
        rdzv_port: port on the first node where the processes of several nodes meet.
        mounts: mounts of the container, for instance type=volume,src=CLAIM,dst=/data.
        env: environment variables of the processes.
        name: EXPERIMENT/NAME of the job.
    """
    arguments = ["train", "--config", config, "--data", data, "--out", out]
    for option, value in (("--init-from", init_from), ("--metrics-textfile", metrics_textfile)):
        if value:
            arguments += [option, value]
    if restart_on_change:
        arguments.append("--restart-on-change")
    return dist.torchrun(
        *arguments,
        m="pipelines.cli",
        image=image,
        name=name,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        j=j,
        # torchrun reads its own --max-restarts from here. It has one thread per process unless told otherwise.
        env={"PET_MAX_RESTARTS": str(max_restarts), **(env or {})},
        rdzv_port=rdzv_port,
        mounts=mounts.split(",") if mounts else None,
    )
