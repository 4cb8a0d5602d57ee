"""What a server says of itself: Triton's version, and the versions of the model that it serves."""

from __future__ import annotations

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from get3d_model.errors import InputError
from serving.codec import MODEL_NAME
from serving.connection import Connection


def triton_version(connection: Connection, timeout_s: float) -> str:
    """Raises InputError where no server answers."""
    try:
        with triton.InferenceServerClient(**connection.client_options()) as stub:
            return stub.get_server_metadata(headers=connection.headers, client_timeout=timeout_s).version
    except InferenceServerException as error:
        raise InputError(f"{connection.url} does not answer ({' '.join(str(error).split())[:200]})") from None


def served_versions(connection: Connection, timeout_s: float, model: str = MODEL_NAME) -> list[int]:
    """Ascending. Raises InputError where the model is not served."""
    try:
        with triton.InferenceServerClient(**connection.client_options()) as stub:
            told = stub.get_model_metadata(model, headers=connection.headers, client_timeout=timeout_s)
    except InferenceServerException as error:
        raise InputError(f"{connection.url}: {' '.join(str(error).split())[:200]}") from None
    return sorted(int(version) for version in told.versions)
