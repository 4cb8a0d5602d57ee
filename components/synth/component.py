"""The Kubeflow interface of the meshes: those on the shared volume, or procedural vehicles."""

from kfp import dsl

from components.artifacts import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def prepare_meshes(
    folder: str,
    fingerprint: str,
    meshes: dsl.Output[dsl.Dataset],
    synth_count: int = 0,
    synth_seed: int = 0,
    code: str = "",
) -> str:
    """Makes the procedural vehicles where they are wanted; meshes of one's own are left where they are.

    Args:
        folder: Folder or .zip with the meshes, on the shared volume.
        fingerprint: Changes when the meshes change.
        synth_count: Vehicles to make; 0 where the meshes are there already.
        synth_seed: Vehicle i depends on this and on i alone.
        code: Version of this step's code.

    Returns:
        meshes: Pointer to the folder.
        Output: The folder.
    """
    from components import artifacts
    from components.synth import main

    with artifacts.one_line_errors("synth"):
        if synth_count:
            artifacts.call(main.main, folder, "--count", synth_count, "--seed", synth_seed)
        facts = {"fingerprint": fingerprint, "synthetic": bool(synth_count)}
        meshes.metadata.update(artifacts.write_pointer(meshes.path, folder, facts))
    return folder
