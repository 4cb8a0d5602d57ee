"""Reading `config.pbtxt`, and choosing in it which versions Triton serves. No torch."""

from __future__ import annotations

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from get3d_model.errors import InputError


def served_versions(config: str, present: list[int]) -> list[int]:
    """Those of the versions `present` that Triton serves under this configuration, ascending. Raises InputError."""
    parsed = _parse(config)
    policy, kind = parsed.version_policy, parsed.version_policy.WhichOneof("policy_choice")
    if kind == "specific":
        return sorted(set(policy.specific.versions) & set(present))
    if kind == "all":
        return sorted(present)
    newest = policy.latest.num_versions if kind == "latest" else 1
    return sorted(present)[-newest:] if newest else []


def with_served_versions(config: str, versions: list[int], name: str | None = None) -> str:
    """The configuration that serves just these versions, under `name` where one is given. Raises InputError."""
    parsed = _parse(config)
    parsed.ClearField("version_policy")
    parsed.version_policy.specific.versions.extend(sorted(versions))
    if name is not None:
        parsed.name = name
    return "# Written by `get3d deploy`.\n" + text_format.MessageToString(parsed)


def with_limits(config: str, max_batch_size: int, queue_size: int, queue_timeout_s: float) -> str:
    """The configuration with the batch and the queue of one version; what it says of the machine stays. Raises InputError.

    A repository has one configuration, its newest version's; an older one may have been made for another batch.
    """
    parsed = _parse(config)
    policy = parsed.dynamic_batching.default_queue_policy
    wanted = max_batch_size, queue_size, round(queue_timeout_s * 1e6)
    if (parsed.max_batch_size, policy.max_queue_size, policy.default_timeout_microseconds) == wanted:
        return config
    parsed.max_batch_size, policy.max_queue_size, policy.default_timeout_microseconds = wanted
    return "# Written by `get3d deploy`.\n" + text_format.MessageToString(parsed)


def _parse(config: str) -> model_config_pb2.ModelConfig:
    try:
        return text_format.Parse(config, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise InputError(f"config.pbtxt cannot be read ({error}); export the model again") from None
