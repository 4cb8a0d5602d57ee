"""Tensors inside nested tuples and dataclasses."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from get3d_model.structures import map_tensors, tensors_of


@dataclass(frozen=True)
class Pair:
    first: Tensor
    rest: tuple[Tensor, Tensor | None]


def test_tensors_are_found_in_order_and_structure_stays():
    a, b = torch.ones(2), torch.zeros(3)
    structure = (Pair(a, (b, None)), None, a)
    assert [item is other for item, other in zip(tensors_of(structure), (a, b, a), strict=True)] == [True] * 3
    doubled = map_tensors(lambda x: x * 2, structure)
    assert isinstance(doubled[0], Pair) and doubled[0].rest[1] is None and doubled[1] is None
    assert torch.equal(doubled[0].first, 2 * a)


def test_what_cannot_hold_tensors_is_refused():
    with pytest.raises(TypeError, match="str"):
        map_tensors(lambda x: x, ("text",))
