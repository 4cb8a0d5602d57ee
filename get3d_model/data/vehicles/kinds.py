"""The kinds of vehicles and how a design of each is drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from get3d_model.data.vehicles.cars import SHAPES, car, pickup, roadster
from get3d_model.data.vehicles.commercial import box_truck, bus, van
from get3d_model.data.vehicles.designs import Design


def _car_maker(kind: str) -> Callable[[np.random.Generator], Design]:
    return lambda random: car(kind, SHAPES[kind], random)


# In the order in which vehicles are numbered.
MAKERS: dict[str, Callable[[np.random.Generator], Design]] = {
    "saloon": _car_maker("saloon"),
    "pickup": pickup,
    "hatchback": _car_maker("hatchback"),
    "van": van,
    "sports": _car_maker("sports"),
    "bus": bus,
    "suv": _car_maker("suv"),
    "roadster": roadster,
    "estate": _car_maker("estate"),
    "box_truck": box_truck,
    "city": _car_maker("city"),
}
