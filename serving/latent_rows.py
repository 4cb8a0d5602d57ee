"""From requests to styles: seeds, latents and their mixtures.

Shape legend: K latents that are mixed, Z latent width, D w width
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from get3d_model.errors import InputError
from get3d_model.inference import Sampler, Styles
from get3d_model.latents import latent_codes
from serving.codec import SampleRequest

_SLOTS = {"geometry": 0, "texture": 1}


def styles_of(sampler: Sampler, request: SampleRequest) -> Styles:
    """The styles of one request, a batch of one. truncation_psi must be given.

    Latents are mixed in w, after truncation. Raises InputError for what this model does not have.
    """
    shares_tex = request.weights if request.weights_tex is None else request.weights_tex
    geo = _mixed(sampler, request, "geometry", *request.latents_geo(), request.weights)
    tex = _mixed(sampler, request, "texture", *request.latents_tex(), shares_tex)
    return Styles(geo, tex, _class(sampler, request, 1))


def class_number(sampler: Sampler, request: SampleRequest) -> int | None:
    """The class asked for, or the one that the (first) seed draws; None for a model without classes.

    Raises InputError.
    """
    if request.class_name is not None:
        return sampler.class_number(request.class_name)
    if not sampler.generator.num_classes:
        return None
    seeds = request.seed if isinstance(request.seed, tuple) else (request.seed,)
    if seeds[0] is None:
        raise InputError(f"class is needed beside latents: the model {sampler.identity.name} has classes")
    return int(latent_codes(seeds[:1], sampler.generator.z_dim, sampler.generator.num_classes)[1][0])


def _class(sampler: Sampler, request: SampleRequest, count: int) -> Tensor | None:
    number = class_number(sampler, request)
    return None if number is None else torch.full((count,), number, dtype=torch.int64)


def _mixed(
    sampler: Sampler,
    request: SampleRequest,
    part: str,
    source: str,
    values: Any,
    shares: tuple[float, ...] | None,
) -> Tensor:
    """w of one part, 1D."""
    generator = sampler.generator
    if source.startswith("w_"):
        w_KD = _checked(source, values, sampler.config.model.w_dim, sampler).to(sampler.device)
    else:
        if source.startswith("z_"):
            z_KZ = _checked(source, values, generator.z_dim, sampler)
        else:
            z_KZ = latent_codes(values, generator.z_dim)[0][:, _SLOTS[part]]
        # The other part's place is filled with the same vector; what comes of it is not used.
        styles = sampler.map(
            z_KZ[:, None].expand(-1, 2, -1), request.truncation_psi, _class(sampler, request, len(z_KZ))
        )
        w_KD = styles.w_geo_BD if part == "geometry" else styles.w_tex_BD
    if len(w_KD) == 1:
        return w_KD
    share_K1 = torch.tensor(shares, dtype=torch.float64)[:, None]
    share_K1 = (share_K1 / share_K1.sum()).float().to(w_KD.device)
    return (w_KD * share_K1).sum(dim=0, keepdim=True)


def _checked(source: str, values: Any, width: int, sampler: Sampler) -> Tensor:
    latents_KZ = torch.tensor(values, dtype=torch.float32)
    if latents_KZ.shape[1] != width:
        raise InputError(
            f"{source} has {latents_KZ.shape[1]} values per latent; the model {sampler.identity.name} has {width}"
        )
    return latents_KZ
