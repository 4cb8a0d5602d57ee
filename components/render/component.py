"""The Kubeflow interface of rendering: one part of a data set per task."""

from kfp import dsl

from components.artifacts import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def render(
    meshes: str,
    mesh_fingerprint: str,
    folder: str,
    shard: str,
    config: str,
    part: dsl.Output[dsl.Dataset],
    workers: int = 0,
    code: str = "",
):
    """Renders one part of the meshes to shards of RGBA views with cameras.

    Args:
        meshes: Folder or .zip with the meshes.
        mesh_fingerprint: Changes when the meshes change.
        folder: Where all parts of this data set go, on the shared volume.
        shard: I/N, part I of N, counted from 0.
        config: Params text with the sections render and cameras.
        workers: Processes that render; 0 for one per processor.
        code: Version of this step's code.

    Returns:
        part: Pointer to the rendered part.
    """
    from components import artifacts
    from components.render import main, step

    with artifacts.one_line_errors("render"), artifacts.params_file(config) as params:
        artifacts.call(
            main.main, meshes, folder, *step.options(params), "--shard", shard, *step.worker_options(workers)
        )
        part.metadata.update(artifacts.write_pointer(part.path, step.part(folder, shard), {"shard": shard}))
