"""The pipeline `get3d-training`: one DAG for this machine, for DVC-less clusters and for Kubeflow.

    validate -> meshes -> render (fan-out) -> merge -> train -> evaluate -> gate -+- promote: export -> deploy -> version
                                                                                +- hold: version
    finish: the exit handler, whatever happened

Large data stays on the volume that every step mounts (`workspace`); artifacts are pointers, models and pages.
Caching is keyed by each step's settings and by the version of its code, which `validate` reads where the steps run.
"""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import yaml
from kfp import dsl

from components.cluster_profile import ClusterProfile
from components.data.component import merge
from components.deploy.component import deploy
from components.evaluate.component import evaluate, gate
from components.export.component import export
from components.finish.component import finish
from components.render.component import render
from components.synth.component import prepare_meshes
from components.train.component import train
from components.validate.component import validate
from components.version.component import version
from get3d_model.errors import InputError
from pipelines.placement import Needs, give_triton_secret, place

PIPELINE_NAME = "get3d-training"
SCHEDULERS = ("local_cwd", "kubernetes", "indexed-job")
LIGHT = Needs(light=True)


@dataclass(frozen=True)
class PipelineOptions:
    """What is fixed when the pipeline is compiled. profile: none: this machine.

    scheduler: where training runs: local_cwd (in the step's own pod, with the profile's GPUs), kubernetes (a Volcano
    job), indexed-job. render_parallelism: jobs at a time; 0: all. retries: of the steps that are safe to repeat.
    caching: False: every step runs every time.
    """

    profile: ClusterProfile | None = None
    scheduler: str = "local_cwd"
    render_parallelism: int = 0
    retries: int = 2
    caching: bool = True
    workspace: str = "/workspace"

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise InputError(f"scheduler must be one of {', '.join(SCHEDULERS)}, not {self.scheduler!r}")
        if self.scheduler != "local_cwd" and self.profile is None:
            raise InputError(f"scheduler {self.scheduler} starts a job on a cluster; give its --profile")
        if not self.workspace.startswith("/"):
            raise InputError(
                f"workspace must be an absolute folder that every step sees, not {self.workspace!r}"
            )
        if self.retries < 0 or self.render_parallelism < 0:
            raise InputError("retries and render_parallelism must be 0 or more")


def build_pipeline(options: PipelineOptions = PipelineOptions()) -> dsl.graph_component.GraphComponent:
    """The pipeline, with these options. Its parameters are described where they are used, in the components."""
    profile = options.profile
    profile_text = "" if profile is None else yaml.safe_dump(_plain(profile), sort_keys=False)
    in_pod = options.scheduler == "local_cwd"
    gpus = profile.gpu.count if profile is not None else 0
    mounts = () if profile is None else profile.pvcs
    volumes = ":".join(mount.path for mount in mounts if not mount.read_only)
    # The launcher of a job only waits; where there is no job, the step itself is the training node.
    train_needs = Needs(node=True) if in_pod else Needs(cpu="1", memory="4Gi")

    render_dataset = _render_graph(options)

    @dsl.pipeline(
        name=PIPELINE_NAME,
        description="From a folder of textured meshes to a served GET3D model, with a version of everything.",
    )
    def get3d_training(
        params: str = "demo",
        overrides: str = "",
        meshes: str = "",
        workspace: str = options.workspace,
        shards: int = 3,
        render_workers: int = 0,
        nodes: int = 1,
        procs_per_node: int = max(1, gpus),
        deploy_timeout_s: int = 300,
        promote: str = "auto",
        served_repository: str = "",
        triton_urls: str = "",
        git_repository: str = "",
        git_revision: str = "",
        run_id: str = "",
    ):
        """Renders, trains, measures, and where the gate says so exports and deploys; records a version of all.

        Args:
            params: Params file as text, the name of a preset (demo, vehicles_256, car_1024, ...), or a path.
            overrides: Settings to change, a line each (or JSON), such as training.r1_gamma: 80.
            meshes: Folder or .zip as the steps see it, dvc://REPO@REVISION:PATH, or s3://...; empty for procedural vehicles.
            workspace: Folder on the shared volume that every step sees.
            shards: Jobs that render, each a part of the meshes.
            render_workers: Processes of each of them; 0 for one per processor.
            nodes: Machines that train.
            procs_per_node: Training processes on each, one per GPU.
            deploy_timeout_s: Seconds that one step of deploying (load, answer, ...) may take on one server.
            promote: auto (the thresholds of params.yaml decide), always or never.
            served_repository: Model repository that Triton serves; empty when nothing is deployed.
            triton_urls: HOST:PORT of every Triton replica's gRPC, separated by commas.
            git_repository: Repository in which the run's version is recorded; empty for none.
            git_revision: Commit or branch that this run belongs to.
            run_id: Name of the run; empty for Kubeflow's own id.
        """
        job_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        last = finish(
            run_id=run_id,
            job_id=job_id,
            workspace=workspace,
            scheduler=options.scheduler,
            profile=profile_text,
        )
        place(last.set_caching_options(False), profile, LIGHT)
        with dsl.ExitHandler(last, name="run"):
            # Neither is cached: they look at what is there now, and say so to the cached steps after them.
            plan = validate(
                run_id=run_id, job_id=job_id, workspace=workspace, params=params, overrides=overrides, meshes=meshes,
                shards=shards, nodes=nodes, procs_per_node=procs_per_node, gpus=gpus, volumes=volumes,
                deploy_timeout_s=deploy_timeout_s, promote=promote,
                served_repository=served_repository, triton_urls=triton_urls,
                git_repository=git_repository, git_revision=git_revision,
            )  # fmt: skip
            place(plan.set_caching_options(False), profile, LIGHT)
            settings = plan.outputs
            source = prepare_meshes(
                folder=settings["meshes"], fingerprint=settings["mesh_fingerprint"],
                synth_count=settings["synth_count"], synth_seed=settings["synth_seed"], code=settings["meshes_code"],
            )  # fmt: skip
            _safe(options, source, Needs(memory="4Gi"))
            rendered = render_dataset(
                shards=settings["shards"], meshes=source.outputs["Output"],
                mesh_fingerprint=settings["mesh_fingerprint"], folder=settings["dataset"],
                config=settings["render_config"], workers=render_workers, code=settings["render_code"],
            )  # fmt: skip
            dataset = rendered.outputs["dataset"]
            trained = train(
                dataset=dataset, folder=settings["training"], config=settings["train_config"],
                nodes=nodes, procs_per_node=procs_per_node, scheduler=options.scheduler, profile=profile_text,
                code=settings["train_code"],
            )  # fmt: skip
            _safe(options, trained, train_needs)
            measured = evaluate(
                model=trained.outputs["model"], dataset=dataset, meshes=source.outputs["Output"],
                mesh_fingerprint=settings["mesh_fingerprint"], config=settings["evaluation_config"],
                production_metrics=settings["production_metrics"],
                production_fingerprint=settings["production_fingerprint"],
                code=settings["evaluate_code"],
            )  # fmt: skip
            _safe(options, measured, Needs(cpu="4", memory="16Gi", gpus=1))
            verdict = gate(
                evaluation=measured.outputs["evaluation"], promote=promote,
                run_id=settings["run_id"], workspace=workspace,
            )  # fmt: skip
            place(verdict.set_caching_options(False), profile, LIGHT)
            record = {
                "run_id": settings["run_id"], "params": settings["params"], "meshes": source.outputs["Output"],
                "dataset": dataset, "model": trained.outputs["model"],
                "evaluation": measured.outputs["evaluation"],
                "git_repository": git_repository, "git_revision": settings["git_revision"],
            }  # fmt: skip
            with dsl.If(verdict.outputs["decision"] == "promote", name="promoted"):
                exported = export(
                    model=trained.outputs["model"],
                    evaluation=measured.outputs["evaluation"],
                    config=settings["serving_config"],
                    code=settings["export_code"],
                )
                _safe(options, exported, Needs(cpu="2", memory="8Gi"))
                # Not repeated by itself: a failed smoke test has rolled back, and somebody should look.
                deployed = deploy(
                    repository=exported.outputs["repository"], evaluation=measured.outputs["evaluation"],
                    production=settings["production"],
                    production_record=settings["production_record"], served_repository=served_repository,
                    triton_urls=triton_urls, timeout_s=deploy_timeout_s,
                )  # fmt: skip
                place(deployed.set_caching_options(False), profile, LIGHT)
                give_triton_secret(deployed, profile)
                recorded = version(
                    **record, repository=exported.outputs["repository"], outcome=deployed.outputs["outcome"]
                )
                _safe(options, recorded.set_caching_options(False), Needs(cpu="2", memory="4Gi", light=True))
            with dsl.Else(name="held"):
                recorded = version(**record)
                _safe(options, recorded.set_caching_options(False), Needs(cpu="2", memory="4Gi", light=True))

    return get3d_training


def _render_graph(options: PipelineOptions) -> dsl.graph_component.GraphComponent:
    """The fan-out and the merge as a pipeline of their own.

    Inside it their settings are inputs: kfp's local runner takes the output of a task for the loop's item.
    """

    @dsl.pipeline(
        name="render-dataset", description="Renders all parts of a data set at once, and merges them."
    )
    def render_dataset(
        shards: list, meshes: str, mesh_fingerprint: str, folder: str, config: str, workers: int, code: str
    ) -> NamedTuple("Rendered", [("dataset", dsl.Dataset)]):
        with dsl.ParallelFor(shards, name="shards", parallelism=options.render_parallelism or None) as shard:
            part = render(
                meshes=meshes, mesh_fingerprint=mesh_fingerprint, folder=folder, shard=shard, config=config,
                workers=workers, code=code,
            )  # fmt: skip
            _safe(options, part, Needs(cpu="4", memory="8Gi"))
        whole = merge(parts=dsl.Collected(part.outputs["part"]), folder=folder, code=code)
        _safe(options, whole, Needs(memory="4Gi"))
        return NamedTuple("Rendered", [("dataset", dsl.Dataset)])(dataset=whole.outputs["dataset"])

    return render_dataset


def _safe(options: PipelineOptions, task: dsl.PipelineTask, needs: Needs) -> dsl.PipelineTask:
    """A step that may run twice: it continues, or writes the same again."""
    if not options.caching:
        task.set_caching_options(False)
    if options.retries:
        task.set_retry(
            options.retries, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration="600s"
        )
    return place(task, options.profile, needs)


def _plain(profile: ClusterProfile) -> dict:
    """Plain values of a profile, as its YAML file has them."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    return plain(dataclasses.asdict(profile))
