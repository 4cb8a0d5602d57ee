"""Styles beyond single seeds: ways between two shapes, neighbours of a shape, geometry and texture recombined.

Shape legend: B shapes, S steps, Z latent width, D w width
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from get3d_model.errors import InputError
from get3d_model.inference import Sampler, Styles, interpolate_styles
from get3d_model.latents import CODE_PARTS, latent_codes, neighbours, slerp
from get3d_model.limits import check_psi, check_seed
from get3d_model.networks.mapping import truncate

SPACES = ("z", "w")


def interpolate(
    sampler: Sampler,
    first_seed: int,
    last_seed: int,
    steps: int,
    space: str = "w",
    truncation_psi: float = 1.0,
    class_number: int | None = None,
) -> Styles:
    """`steps` shapes from one seed to another, both ends counted: linear in w, or spherical in z.

    Through z every shape on the way is a likely sample, and the way bends in w; through w the change is the most
    even. A class-conditional model keeps the class (the first seed's, unless one is given) through z.
    Raises InputError for less than two steps or another space.
    """
    _check_space(space)
    if steps < 2:
        raise InputError(f"a walk has at least 2 steps, not {steps}")
    if space == "w":
        first, last = (
            sampler.styles([seed], truncation_psi, class_number) for seed in (first_seed, last_seed)
        )
        return interpolate_styles(first, last, steps)
    code_B2Z, class_B = _codes(sampler, [first_seed, last_seed], class_number)
    weight_S = torch.linspace(0.0, 1.0, steps, dtype=torch.float64)
    walk_S2Z = torch.stack([slerp(code_B2Z[0, part], code_B2Z[1, part], weight_S) for part in (0, 1)], dim=1)
    return sampler.map(walk_S2Z, truncation_psi, None if class_B is None else class_B[:1].expand(steps))


def perturb(
    sampler: Sampler,
    seed: int,
    count: int,
    sigma: float,
    part: str = "both",
    space: str = "z",
    truncation_psi: float = 1.0,
    class_number: int | None = None,
    noise_seed: int = 0,
) -> Styles:
    """The shape of a seed, then `count` shapes around it.

    sigma: size of the steps; in z in units of a code's spread (see `neighbours`), in w as a share of the way from
    the average to a random w. part: "geometry", "texture" or "both". The same arguments give the same shapes.
    Raises InputError for values out of range.
    """
    _check_space(space)
    check_psi(truncation_psi)
    check_seed(noise_seed)
    if part not in CODE_PARTS:
        raise InputError(f"part {part!r} is not one of {', '.join(CODE_PARTS)}")
    if count < 1:
        raise InputError(f"count must be at least 1, not {count}")
    if not 0.0 <= sigma <= 10.0:
        raise InputError(f"sigma {sigma} is out of range; use 0 (no change) to 10")
    code_B2Z, class_B = _codes(sampler, [seed], class_number)
    class_B = None if class_B is None else class_B.expand(count + 1)
    random = torch.Generator().manual_seed(noise_seed)
    if space == "z":
        moved_B2Z = neighbours(code_B2Z[0], count, sigma, part, random)
        return sampler.map(torch.cat([code_B2Z, moved_B2Z]), truncation_psi, class_B)
    random_B2Z = torch.randn(count, *code_B2Z.shape[1:], generator=random)
    styles = sampler.map(torch.cat([code_B2Z, random_B2Z]), 1.0, class_B)

    def moved(w_BD: Tensor, mapping: torch.nn.Module, index: int) -> Tensor:
        average = mapping.w_avg if class_B is None else mapping.w_avg[class_B.to(mapping.w_avg.device)]
        around_BD = w_BD[:1] + sigma * (w_BD - average)
        around_BD = torch.cat([w_BD[:1], around_BD[1:]])
        chosen_BD = around_BD if index in CODE_PARTS[part] else w_BD[:1].expand_as(w_BD)
        return truncate(chosen_BD, average, truncation_psi)

    generator = sampler.generator
    return Styles(
        moved(styles.w_geo_BD, generator.mapping_geo, 0),
        moved(styles.w_tex_BD, generator.mapping, 1),
        styles.class_B,
    )


def swap(
    sampler: Sampler,
    geometry_seeds: Sequence[int],
    texture_seeds: Sequence[int],
    truncation_psi: float = 1.0,
    class_number: int | None = None,
) -> Styles:
    """Every geometry code with every texture code, row by row: shape r * len(texture_seeds) + c has the geometry of
    geometry_seeds[r] and the texture of texture_seeds[c]. Its class, if any, is that of its geometry seed, so the
    same geometry seed gives the same geometry in the whole row.
    """
    rows, columns = len(geometry_seeds), len(texture_seeds)
    geometry_R2Z, class_R = _codes(sampler, geometry_seeds, class_number)
    texture_C2Z, _ = _codes(sampler, texture_seeds, class_number)
    code_B2Z = torch.stack(
        [
            geometry_R2Z[:, 0].repeat_interleave(columns, dim=0),
            texture_C2Z[:, 1].repeat(rows, 1),
        ],
        dim=1,
    )
    class_B = None if class_R is None else class_R.repeat_interleave(columns)
    return sampler.map(code_B2Z, truncation_psi, class_B)


def _codes(sampler: Sampler, seeds: Sequence[int], class_number: int | None) -> tuple[Tensor, Tensor | None]:
    code_B2Z, class_B = latent_codes(seeds, sampler.generator.z_dim, sampler.generator.num_classes)
    return code_B2Z, sampler.classes(class_B, class_number)


def _check_space(space: str) -> None:
    if space not in SPACES:
        raise InputError(f"space {space!r} is not one of {', '.join(SPACES)}")
