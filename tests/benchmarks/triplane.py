"""What the lattice lookup of the tri-planes saves over the general one, forward and backward; one JSON line.

python -m tests.benchmarks.triplane [--preset demo] [--batch 8] [--repeats 8]
"""

from __future__ import annotations

import argparse
import json
import platform

import torch

from get3d_model.config import CONFIG_DIR, load_config
from get3d_model.isosurface.grid import bcc_grid
from get3d_model.networks.grid_lookup import plane_lookup
from get3d_model.ops.triplane import PointLookup
from tests.benchmarks.training import median_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="demo", help="name of a file in get3d_model/configs")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=8)
    args = parser.parse_args()
    model = load_config(CONFIG_DIR / f"{args.preset}.yaml").model
    grid = bcc_grid(model.tet_res, model.grid_scale)
    size = model.tri_plane_resolution
    planes = torch.randn(args.batch, 3 * model.tri_plane_features, size, size, requires_grad=True)
    lookups = {
        "lattice_ms": plane_lookup(grid, size, mirror_symmetry=False),
        "points_ms": PointLookup(grid.vertices_N3 / grid.extent),
    }
    device = torch.device("cpu")
    times = {
        name: median_ms(lambda lookup=lookup: lookup(planes).sum().backward(), device, args.repeats)
        for name, lookup in lookups.items()
    }
    print(
        json.dumps(
            {
                "benchmark": "triplane",
                "config": args.preset,
                "batch": args.batch,
                "vertices": len(grid.vertices_N3),
                **times,
                "ratio": round(times["points_ms"] / times["lattice_ms"], 1),
                "threads": torch.get_num_threads(),
                "machine": platform.processor() or platform.machine(),
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
