"""One rank of a two-process run: trains, then checks that all ranks hold the same parameters."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from get3d_model.config import load_config
from get3d_model.training.distributed import world_from_environment
from get3d_model.training.trainer import Trainer


def main(params: str, data: str, out: str, *options: str) -> None:
    world = world_from_environment()
    trainer = Trainer(load_config(Path(params)), Path(data), Path(out), world)
    before = torch.cat([p.detach().flatten().clone() for p in trainer.modules.generator.parameters()])
    trainer.resume("--restart-on-change" in options)
    trainer.run()
    for module in (trainer.modules.generator, trainer.modules.generator_ema, trainer.modules.discriminator):
        mine = torch.cat([p.detach().flatten() for p in module.parameters()])
        others = [torch.empty_like(mine) for _ in range(world.size)]
        dist.all_gather(others, mine)
        assert all(torch.equal(other, mine) for other in others), f"ranks differ in {type(module).__name__}"
    after = torch.cat([p.detach().flatten() for p in trainer.modules.generator.parameters()])
    assert not torch.equal(before, after)
    print(f"rank {world.rank} of {world.size} done at step {trainer.step}", flush=True)
    world.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
