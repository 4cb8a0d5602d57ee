"""Makes docs/serving-api.md from the tables of the wire format: `python -m serving.api_doc [FILE]`."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

from get3d_model.files import write_bytes_atomic
from serving import metric_names
from serving.codec import (
    INPUTS,
    MAX_RESPONSE_BYTES,
    MODEL_NAME,
    OUTPUTS,
    InputSpec,
    SampleMetadata,
    TensorSpec,
)
from serving.tensors import REFUSALS

DEFAULT_FILE = Path(__file__).parent.parent / "docs" / "serving-api.md"

_HEAD = """# The served model's interface

Made by `python -m serving.api_doc` from `serving/tensors.py`; a test keeps it true.

Model `{model}` speaks Triton's gRPC and HTTP protocol (KServe v2). A request has N rows, at most `max_batch_size`; one row is one
mesh. Tensors that are left out take the served version's defaults (its `model_card.json`). Requests that name the same tensors can
share a batch; what a row delivers never depends on its batch, to the last bit.

## Request

Geometry comes from one of `seed`, `z_geo`, `w_geo`; texture from one of `seed_tex`, `z_tex`, `w_tex`, or from `seed`. Several latents
of a part (K of them) are mixed in w, after truncation, by `weights`. For several shapes send several rows or requests.

"""  # noqa: E501

_ERRORS = """
## Errors

| status | when |
| --- | --- |
| `INVALID_ARGUMENT` | a value, type, shape or size that is not possible; the text says which and what is. Other requests of the batch are not touched |
| `CANCELLED` | the client went away, or the request took longer than `limits.time_limit_s` of the model card or its own `timeout`; the work stops at the next stage |
| `UNAVAILABLE` | the queue is full (`limits.queue_size`), or the request waited longer than `limits.queue_timeout_s` or its own `timeout`; try again later |
| `INTERNAL` | a bug of ours; the server's log has the traceback |

`timeout` is Triton's own request parameter, in microseconds. `{refusals}`, a number, says how often a full queue has refused the
client since it last said so; it is counted, and nothing else comes of it. No input names a file, and none is ever unpickled.

## Sizes

A row whose texture and previews may take more than {row} MiB (uncompressed) is refused before any work. A batch so holds at most
`max_batch_size` times {row} MiB of answers in shared memory; Triton keeps what its largest batch took, so that is the budget to give
`/dev/shm` per instance (with the default of 8 rows {batch} MiB), plus 64 MiB for requests.

## Metrics

Beside Triton's own, with the labels `model` and `version`:

"""  # noqa: E501


def api_text() -> str:
    """The whole page."""
    row = MAX_RESPONSE_BYTES >> 20
    lines = [_HEAD.format(model=MODEL_NAME)]
    lines += _table(("input", "type", "shape", "meaning", "values"), [_input_row(spec) for spec in INPUTS])
    lines += [
        "\n## Answer\n\n`preview`, `latent_geo` and `latent_tex` are there only where `deliver` asks for them.\n\n"
    ]
    lines += _table(("output", "type", "shape", "meaning"), [_row(spec) for spec in OUTPUTS])
    names = ", ".join(f"`{item.name}`" for item in fields(SampleMetadata))
    lines.append(f"\n`metadata` has the fields {names}:\n\n```\n{_metadata_text()}\n```\n")
    lines.append(_ERRORS.format(row=row, batch=8 * row, refusals=REFUSALS))
    rows = [(f"`{name}`", kind, meaning) for name, (kind, meaning) in metric_names.TABLE.items()]
    lines += _table(("metric", "kind", "meaning"), rows)
    reasons, stages = (", ".join(names) for names in (metric_names.ERROR_REASONS, metric_names.STAGES))
    lines.append(f"\n`reason` is one of {reasons}; `stage` one of {stages}.\n")
    return "".join(lines)


def _row(spec: TensorSpec) -> tuple[str, ...]:
    shape = ", ".join(["N", *("any" if size < 0 else str(size) for size in spec.dims)])
    return f"`{spec.name}`", spec.wire_type, f"[{shape}]", spec.meaning


def _input_row(spec: InputSpec) -> tuple[str, ...]:
    return *_row(spec), spec.limits


def _metadata_text() -> str:
    lines = [line.strip() for line in (SampleMetadata.__doc__ or "").strip().splitlines()[1:]]
    return "\n".join(line for line in lines if line)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |\n" for cells in (head, ("---",) * len(head), *rows)]


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    write_bytes_atomic(Path(arguments[0]) if arguments else DEFAULT_FILE, api_text().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
