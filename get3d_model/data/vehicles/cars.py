"""Cars: their proportions, drawn from ranges. Lengths in metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from get3d_model.data.vehicles.body import Cabin, Hull, Tub
from get3d_model.data.vehicles.designs import Design, Lamp, cabin_windows, door_lines

Range = tuple[float, float]


@dataclass(frozen=True)
class CarShape:
    """Ranges from which a car's proportions are drawn.

    bonnet: nose to windscreen; screen: horizontal run of the windscreen; deck: tail to rear window; back: run
    of the rear window; glasshouse: height of the windows; nose, tail: heights; doors: on each side.
    """

    length: Range
    width: Range
    sill: float
    wheel: Range
    belt: Range
    glasshouse: Range
    bonnet: Range
    screen: Range
    deck: Range
    back: Range
    nose: Range
    tail: float
    doors: int
    front_overhang: float = 0.80
    rear_overhang: float = 0.78
    squareness: float = 3.2
    tumblehome: float = 0.20


SHAPES = {
    "saloon": CarShape(
        length=(4.15, 4.5),
        width=(1.8, 1.9),
        sill=0.25,
        wheel=(0.35, 0.38),
        belt=(0.95, 1.01),
        glasshouse=(0.45, 0.52),
        bonnet=(1.10, 1.25),
        screen=(0.6, 0.75),
        deck=(0.62, 0.8),
        back=(0.45, 0.65),
        nose=(0.68, 0.78),
        tail=0.90,
        doors=4,
    ),
    "hatchback": CarShape(
        length=(3.6, 3.9),
        width=(1.75, 1.85),
        sill=0.25,
        wheel=(0.34, 0.38),
        belt=(0.95, 1.02),
        glasshouse=(0.48, 0.54),
        bonnet=(0.92, 1.02),
        screen=(0.58, 0.7),
        deck=(0.10, 0.18),
        back=(0.32, 0.5),
        nose=(0.70, 0.80),
        tail=0.90,
        doors=2,
        front_overhang=0.76,
        rear_overhang=0.62,
    ),
    "estate": CarShape(
        length=(4.2, 4.5),
        width=(1.8, 1.88),
        sill=0.25,
        wheel=(0.35, 0.38),
        belt=(0.96, 1.01),
        glasshouse=(0.48, 0.54),
        bonnet=(1.10, 1.2),
        screen=(0.6, 0.7),
        deck=(0.08, 0.14),
        back=(0.25, 0.38),
        nose=(0.70, 0.78),
        tail=0.92,
        doors=4,
        front_overhang=0.80,
        rear_overhang=0.86,
    ),
    "suv": CarShape(
        length=(4.1, 4.5),
        width=(1.9, 2.0),
        sill=0.38,
        wheel=(0.43, 0.47),
        belt=(1.16, 1.24),
        glasshouse=(0.5, 0.58),
        bonnet=(1.05, 1.15),
        screen=(0.38, 0.52),
        deck=(0.08, 0.14),
        back=(0.14, 0.28),
        nose=(0.95, 1.04),
        tail=1.08,
        doors=4,
        front_overhang=0.82,
        rear_overhang=0.80,
        squareness=4.2,
        tumblehome=0.15,
    ),
    "sports": CarShape(
        length=(4.0, 4.3),
        width=(1.88, 1.98),
        sill=0.18,
        wheel=(0.34, 0.36),
        belt=(0.85, 0.89),
        glasshouse=(0.36, 0.41),
        bonnet=(1.30, 1.45),
        screen=(0.72, 0.85),
        deck=(0.30, 0.5),
        back=(0.75, 1.0),
        nose=(0.60, 0.66),
        tail=0.84,
        doors=2,
        front_overhang=0.86,
        rear_overhang=0.78,
        squareness=2.7,
        tumblehome=0.25,
    ),
    "city": CarShape(
        length=(3.0, 3.3),
        width=(1.65, 1.75),
        sill=0.24,
        wheel=(0.33, 0.36),
        belt=(0.96, 1.02),
        glasshouse=(0.54, 0.6),
        bonnet=(0.72, 0.82),
        screen=(0.45, 0.6),
        deck=(0.05, 0.10),
        back=(0.28, 0.42),
        nose=(0.74, 0.82),
        tail=0.92,
        doors=2,
        front_overhang=0.66,
        rear_overhang=0.52,
        squareness=2.6,
        tumblehome=0.22,
    ),
}


def _draw(random: np.random.Generator, bounds: Range) -> float:
    return float(random.uniform(*bounds))


def car(kind: str, shape: CarShape, random: np.random.Generator, tub: Tub | None = None) -> Design:
    """A car with a cabin on a lower body; with a tub and no cabin it is open."""
    length, width = _draw(random, shape.length), _draw(random, shape.width)
    wheel, belt = _draw(random, shape.wheel), _draw(random, shape.belt)
    half = length / 2.0
    front_belt, rear_belt = half - _draw(random, shape.bonnet), -half + _draw(random, shape.deck)
    roof = belt + _draw(random, shape.glasshouse)
    nose = _draw(random, shape.nose)
    tail = min(shape.tail, belt - 0.02)
    axles = (-half + shape.rear_overhang, half - shape.front_overhang)
    top = (
        (-half, tail - 0.02),
        (-half + 0.14, tail + 0.02),
        (rear_belt - 0.02, belt - 0.005),
        (0.0, belt),
        (front_belt, belt - 0.01),
        (half - 0.5, nose + 0.6 * (belt - nose)),
        (half - 0.12, nose + 0.02),
        (half, nose - 0.05),
    )
    hull = Hull(
        length=length,
        width=width,
        sill=shape.sill,
        top=top,
        axles=axles,
        wheel_radius=wheel,
        arch_gap=0.05,
        shoulder=0.16,
        squareness=shape.squareness,
        tub=tub,
        bow=float(random.uniform(0.10, 0.20)),
        nose=float(random.uniform(0.05, 0.10)),
    )
    half_belt = 0.87 * width / 2.0
    cabin = Cabin(
        rear_belt=rear_belt,
        front_belt=front_belt,
        rear_roof=rear_belt + _draw(random, shape.back),
        front_roof=front_belt - _draw(random, shape.screen),
        belt=belt - 0.01,
        roof=roof,
        half_belt=half_belt,
        half_roof=half_belt - shape.tumblehome * (roof - belt) * 2.0 + 0.02,
        corner=float(random.uniform(0.14, 0.22)),
        crown=0.03,
    )
    middle = 0.5 * (axles[0] + axles[1]) + 0.02
    posts, edges = [middle], [middle, front_belt - 0.02]
    if shape.doors == 4:
        rear_edge = axles[0] + hull.arch_radius * 0.5
        edges.append(max(rear_edge, cabin.rear(belt) + 0.1))
        if rear_belt < axles[0] - 0.25:
            posts.insert(0, axles[0] + 0.02)
    else:
        edges[0] = middle - 0.45
        posts = [middle - 0.40]
    windows = cabin_windows(cabin, posts, 0.15, float(random.uniform(0.12, 0.2)))
    lamp_y = 0.5 * (nose + shape.sill) + 0.13
    return Design(
        kind=kind,
        hull=hull,
        cabin=cabin if tub is None else None,
        cargo=None,
        windows=windows if tub is None else {"side": [], "front": [], "rear": []},
        panel_lines=door_lines(hull, edges, shape.sill + 0.10, belt - 0.03),
        handles=[
            (edge + (0.16 if shape.doors == 2 else 0.14), belt - 0.13) for edge in edges if edge != max(edges)
        ],
        glass_from=np.inf,
        head=Lamp(
            0.37 * width,
            lamp_y,
            *random.uniform((0.12, 0.085), (0.19, 0.12)),
            float(random.uniform(0.4, 1.0)),
        ),
        tail=Lamp(
            0.38 * width,
            tail - 0.16,
            *random.uniform((0.12, 0.07), (0.19, 0.11)),
            float(random.uniform(0.3, 0.8)),
        ),
        grille=(float(random.uniform(0.22, 0.42)), lamp_y - 0.09, lamp_y + 0.05),
        bumper=(shape.sill + 0.14, 0.085),
        wheel_width=0.24 if kind != "sports" else 0.27,
        mirror=(front_belt - 0.44, belt + 0.08),
    )


def roadster(random: np.random.Generator) -> Design:
    shape = SHAPES["sports"]
    return car("roadster", shape, random, Tub(-0.78, 0.55, 0.16, 0.48))


def pickup(random: np.random.Generator) -> Design:
    length, width, wheel = random.uniform(4.7, 5.0), random.uniform(1.92, 2.0), random.uniform(0.40, 0.44)
    half, belt, sill = length / 2.0, random.uniform(1.22, 1.30), 0.40
    crew = bool(random.random() < 0.5)
    axles = (-half + 1.05, half - 0.84)
    front_belt = half - 1.22
    rear_belt = front_belt - (1.95 if crew else 1.45)
    nose = belt - random.uniform(0.12, 0.2)
    bed = belt - 0.02
    top = (
        (-half, bed),
        (rear_belt - 0.1, bed),
        (0.0, belt),
        (front_belt, belt - 0.01),
        (half - 0.4, nose + 0.05),
        (half, nose - 0.06),
    )
    # The floor lies over the wheel arches.
    tub = Tub(-half + 0.12, rear_belt - 0.06, 0.10, 2.0 * wheel + 0.06 + 0.05)
    hull = Hull(
        length=length,
        width=width,
        sill=sill,
        top=top,
        axles=axles,
        wheel_radius=wheel,
        arch_gap=0.06,
        shoulder=0.14,
        squareness=4.5,
        tub=tub,
        bow=0.09,
        rake=0.03,
    )
    roof = belt + random.uniform(0.5, 0.56)
    cabin = Cabin(
        rear_belt=rear_belt,
        front_belt=front_belt,
        rear_roof=rear_belt + 0.10,
        front_roof=front_belt - random.uniform(0.42, 0.55),
        belt=belt - 0.01,
        roof=roof,
        half_belt=0.435 * width,
        half_roof=0.435 * width - 0.12,
        corner=0.14,
        crown=0.03,
    )
    door = front_belt - 0.02
    edges = [door, door - 1.05] + ([rear_belt + 0.08] if crew else [])
    posts = [door - 1.05] if crew else []
    return Design(
        kind="pickup",
        hull=hull,
        cabin=cabin,
        cargo=None,
        windows=cabin_windows(cabin, posts, 0.14, 0.12),
        panel_lines=door_lines(hull, edges, sill + 0.1, belt - 0.03),
        handles=[(edge + 0.14, belt - 0.14) for edge in edges[1:]],
        glass_from=np.inf,
        head=Lamp(0.39 * width, nose - 0.14, random.uniform(0.10, 0.15), random.uniform(0.09, 0.12), 0.45),
        tail=Lamp(0.45 * width, bed - 0.18, 0.06, 0.15, 0.4),
        grille=(0.52, nose - 0.28, nose - 0.05),
        bumper=(sill + 0.12, 0.10),
        wheel_width=0.28,
        mirror=(front_belt - 0.42, belt + 0.12),
    )
