"""What is bolted on: bumpers, lamps, mirrors, racks, spoilers, cargo. Lengths in metres.

Each fitting is a function that adds its surfaces to an `Assembly`.
"""

from __future__ import annotations

import numpy as np

from get3d_model.data.vehicles.assembly import (
    AMBER,
    BLUE,
    BODY,
    CHROME,
    PALE,
    PANE,
    PLASTIC,
    RED,
    RUBBER,
    SECOND,
    SIGN,
    STEEL,
    TAN,
    WOOD,
    Assembly,
)
from get3d_model.data.vehicles.designs import Lamp
from get3d_model.data.vehicles.geometry import (
    bevelled_box,
    both_sides,
    ellipsoid,
    joined,
    lathe,
    loft,
    rounded_rectangle,
    sweep,
    tube,
)
from get3d_model.data.vehicles.wheels import wheel_surfaces


def bumper(assembly: Assembly, front: bool, swatch: int) -> None:
    """A rounded bar that follows the end of the body in plan."""
    hull = assembly.design.hull
    level, tall = assembly.design.bumper
    sign = 1.0 if front else -1.0
    axle = max(hull.axles) if front else min(hull.axles)
    pivot = axle + sign * (hull.arch_radius + 0.01) - sign * 0.05
    path_P3 = assembly.skin.outline(level, pivot, np.linspace(-1.25, 1.25, 13), front)
    if len(path_P3) < 4:
        return
    section_K2 = rounded_rectangle(0.055, tall, 0.035, corner=3, along=0)
    assembly.trim(sweep(section_K2, path_P3), swatch)


def lamps(assembly: Assembly, lamp: Lamp, front: bool, cell: int, depth: float = 0.05) -> None:
    """A pair of lenses let into the skin, turned with it."""
    sign = 1 if front else -1
    z = assembly.skin_z(lamp.x, lamp.y, front)
    inner, outer = (assembly.skin_z(lamp.x + d, lamp.y, front) for d in (-0.06, 0.06))
    lean = np.clip(np.arctan2(inner - outer, 0.12), -0.7, 0.7)
    lens = ellipsoid((lamp.radius_x, lamp.radius_y, depth), 12, 4, lamp.square)
    placed = lens.turned(1, float(lean)).moved(lamp.x, lamp.y, z - sign * 0.01)
    assembly.lamp(lens, cell, [placed, placed.mirrored()])


def plate(assembly: Assembly, front: bool) -> None:
    hull = assembly.design.hull
    level = assembly.design.bumper[0] + (0.0 if front else 0.20)
    sign = 1.0 if front else -1.0
    z = assembly.skin_z(0.0, level, front) + sign * (0.075 if front else 0.02)
    box = bevelled_box((0.5, 0.13, 0.03), 0.01).moved(0.0, min(level, hull.sill + 0.6), z)
    x_V, y_V = box.vertices_V3[:, 0] * sign, box.vertices_V3[:, 1]
    uvs = np.stack([(x_V + 0.25) / 0.5, (y_V - y_V.min()) / np.ptp(y_V)], axis=-1)
    assembly.add("plate", box, uvs)


def mirrors(assembly: Assembly) -> None:
    z, y = assembly.design.mirror
    x = assembly.skin_x(y, z)
    stalk = bevelled_box((0.14, 0.04, 0.06), 0.01).moved(x + 0.03, y - 0.03, z)
    tall = 0.16 if assembly.design.kind in ("bus", "box_truck") else 0.075
    shell = ellipsoid((0.085, tall, 0.06), 10, 5, 0.55).moved(x + 0.15, y + 0.02, z)
    assembly.trim(both_sides(stalk), PLASTIC)
    assembly.trim(both_sides(shell), BODY if assembly.random.random() < 0.7 else PLASTIC)


def exhausts(assembly: Assembly) -> None:
    hull = assembly.design.hull
    z = assembly.skin_z(0.5, hull.sill + 0.08, front=False)
    pipe = lathe(np.array([(0.0, 0.028), (0.16, 0.028), (0.16, 0.042), (0.0, 0.042)]), 10)
    pipe = pipe.turned(1, np.pi / 2.0).moved(0.0, hull.sill + 0.02, z + 0.10)
    places = [(0.5,), (0.45, 0.56), (0.5, -0.5), (0.05, -0.05)][int(assembly.random.integers(4))]
    assembly.trim(joined([pipe.moved(x=x) for x in places]), CHROME)


def arch_lips(assembly: Assembly) -> None:
    """Dark protruding lips over the wheels, as off-road cars have."""
    hull = assembly.design.hull
    section_K2 = rounded_rectangle(0.035, 0.03, 0.015, corner=1, along=0)
    lips = []
    for axle in hull.axles:
        path = []
        for angle in np.linspace(-0.15, np.pi + 0.15, 9):
            z = axle + (hull.arch_radius + 0.015) * np.cos(angle)
            y = hull.wheel_radius + (hull.arch_radius + 0.015) * np.sin(angle)
            path.append((assembly.skin_x(max(y, hull.sill + 0.03), z), y, z))
        lips.append(sweep(section_K2, np.array(path), up_3=(1, 0, 0)))
    assembly.trim(both_sides(joined(lips)), PLASTIC)


def roof_rack(assembly: Assembly) -> None:
    """Two rails on feet, sometimes with cross bars and a load."""
    cabin, random = assembly.design.cabin, assembly.random
    x = cabin.half_roof - 0.14
    rear, front = cabin.rear_roof + 0.12, cabin.front_roof - 0.15
    z = np.linspace(rear, front, 5)
    y = np.array([assembly.skin_y(x, at) for at in z])
    lift = np.array([0.0, 0.07, 0.075, 0.07, 0.0])
    swatch = CHROME if random.random() < 0.5 else PLASTIC
    assembly.trim(both_sides(tube(np.stack([np.full(5, x), y + lift, z], axis=-1), 0.022, 6)), swatch)
    if random.random() < 0.55:
        for at in z[[1, 3]]:
            assembly.trim(
                bevelled_box((2 * x, 0.03, 0.06), 0.01).moved(0.0, float(y.max()) + 0.085, float(at)), swatch
            )
        if random.random() < 0.6:
            load = bevelled_box((0.62, 0.26, 0.78 * (front - rear)), 0.09, taper=0.86)
            load = load.moved(0.1 * random.uniform(-1, 1), float(y.max()) + 0.22, 0.5 * (rear + front))
            assembly.trim(load, int(random.choice([PLASTIC, PALE, SECOND])))


def wing(assembly: Assembly) -> None:
    """A spoiler: a blade on two struts over the tail, or over the rear window of a hatchback."""
    hull, cabin, random = assembly.design.hull, assembly.design.cabin, assembly.random
    swatch = int(random.choice([BODY, SECOND, PLASTIC]))
    if cabin is not None and cabin.rear_belt < -hull.length / 2.0 + 0.3:
        y = assembly.skin_y(0.0, cabin.rear_roof + 0.1) + 0.01
        blade = bevelled_box((2 * cabin.half_roof - 0.06, 0.05, 0.30), 0.02).turned(0, 0.12)
        assembly.trim(blade.moved(0.0, y, cabin.rear_roof - 0.06), swatch)
        return
    z = -hull.length / 2.0 + 0.26
    y = assembly.skin_y(0.3, z)
    height = float(random.uniform(0.12, 0.30))
    blade = bevelled_box((0.86 * hull.width, 0.04, 0.24), 0.015).turned(0, 0.10)
    ends = both_sides(bevelled_box((0.03, 0.16, 0.26), 0.01).moved(0.43 * hull.width, 0.0, 0.0))
    struts = both_sides(
        bevelled_box((0.04, height + 0.06, 0.12), 0.01).moved(0.27 * hull.width, -height / 2.0, 0.0)
    )
    assembly.trim(joined([blade, ends, struts]).moved(0.0, y + height, z), swatch)


def scoop(assembly: Assembly) -> None:
    """An air intake on the bonnet."""
    hull = assembly.design.hull
    z = 0.5 * (max(hull.axles) + hull.length / 2.0) - 0.45
    box = bevelled_box((0.44, 0.12, 0.5), 0.05, taper=0.82).moved(0.0, assembly.skin_y(0.0, z) + 0.02, z)
    mouth = bevelled_box((0.34, 0.05, 0.04), 0.01).moved(0.0, assembly.skin_y(0.0, z) + 0.035, z + 0.235)
    assembly.trim(box, BODY)
    assembly.trim(mouth, RUBBER)


def spare_wheel(assembly: Assembly) -> None:
    """Carried on the tail door."""
    hull = assembly.design.hull
    tyre, tyre_uvs, rim, rim_uvs = wheel_surfaces(0.8 * hull.wheel_radius, 0.2, 12)
    y = hull.sill + 0.62
    z = assembly.skin_z(0.0, y, front=False) - 0.09
    for material, surface, uvs in (("tyre", tyre, tyre_uvs), ("rim", rim, rim_uvs)):
        assembly.add(material, surface.turned(1, np.pi / 2.0).moved(0.0, y, z), uvs)


def bull_bar(assembly: Assembly) -> None:
    """A tubular guard before the grille."""
    level, _ = assembly.design.bumper
    z = assembly.skin_z(0.0, level, front=True) + 0.10
    _, low, high = assembly.design.grille
    arch = [
        (-0.46, level, z),
        (-0.42, high - 0.04, z),
        (-0.3, high + 0.04, z),
        (0.3, high + 0.04, z),
        (0.42, high - 0.04, z),
        (0.46, level, z),
    ]
    bars = [tube(np.array(arch), 0.035, 8, up_3=(0, 0, 1))]
    bars.append(
        tube(np.array([(-0.44, low + 0.02, z), (0.0, low + 0.02, z), (0.44, low + 0.02, z)]), 0.03, 8)
    )
    assembly.trim(joined(bars), CHROME if assembly.random.random() < 0.5 else RUBBER)


def roll_bar(assembly: Assembly) -> None:
    """A hoop behind the cab or the seats."""
    hull = assembly.design.hull
    tub = hull.tub
    open_car = assembly.design.cabin is None
    z = tub.rear + 0.30 if open_car else tub.front - 0.14
    x = hull.width / 2.0 - tub.rail - 0.08
    rail = float(hull.height(z))
    top = rail + (0.32 if open_car else 0.42)
    hoop = [
        (-x, tub.floor, z),
        (-x, rail, z),
        (-x + 0.02, top - 0.12, z),
        (-x + 0.14, top, z),
        (x - 0.14, top, z),
        (x - 0.02, top - 0.12, z),
        (x, rail, z),
        (x, tub.floor, z),
    ]
    assembly.trim(
        tube(np.array(hoop), 0.036, 8, up_3=(0, 0, 1)), CHROME if assembly.random.random() < 0.6 else RUBBER
    )


def bed_load(assembly: Assembly) -> None:
    """Crates and drums on a cargo bed."""
    tub, random = assembly.design.hull.tub, assembly.random
    length, half = tub.front - tub.rear, assembly.design.hull.width / 2.0 - tub.rail
    for _ in range(int(random.integers(1, 4))):
        size = random.uniform(0.36, 0.6)
        x = random.uniform(-1, 1) * (half - size / 2 - 0.03)
        z = tub.rear + 0.3 + random.random() * (length - 0.9)
        if random.random() < 0.6:
            box = bevelled_box((size, size * 0.9, size), 0.03).moved(x, tub.floor + size * 0.45, z)
            assembly.trim(box, int(random.choice([WOOD, TAN, SECOND])))
        else:
            drum = lathe(
                np.array([(0.0, 0.0), (0.0, 0.2), (0.02, 0.22), (0.6, 0.22), (0.62, 0.2), (0.62, 0.0)]), 14
            )
            assembly.trim(
                drum.turned(2, np.pi / 2.0).moved(x * 0.8, tub.floor, z), int(random.choice([STEEL, SECOND]))
            )


def cockpit(assembly: Assembly) -> None:
    """Seats, steering wheel and windscreen of an open car."""
    hull, tub = assembly.design.hull, assembly.design.hull.tub
    swatch = int(assembly.random.choice([TAN, RUBBER, SECOND, PALE]))
    rail = float(hull.height(tub.front))
    for side in (-1, 1):
        x = side * 0.36
        cushion = bevelled_box((0.50, 0.18, 0.52), 0.07).moved(x, tub.floor + 0.10, -0.18)
        back = (
            bevelled_box((0.50, 0.62, 0.16), 0.07, taper=0.86)
            .turned(0, -0.18)
            .moved(x, tub.floor + 0.40, -0.50)
        )
        rest = bevelled_box((0.24, 0.15, 0.10), 0.04).moved(x, tub.floor + 0.80, -0.585)
        assembly.trim(joined([cushion, back, rest]), swatch)
    ring = lathe(np.array([(-0.016, 0.15), (0.016, 0.15), (0.016, 0.185), (-0.016, 0.185)]), 14)
    assembly.trim(
        ring.turned(1, -np.pi / 2.0).turned(0, 0.5).moved(-0.36, rail - 0.02, tub.front - 0.30), RUBBER
    )
    dash = bevelled_box((hull.width - 2 * tub.rail - 0.02, 0.22, 0.22), 0.06).moved(
        0.0, rail - 0.14, tub.front - 0.08
    )
    assembly.trim(dash, PLASTIC)
    half, foot, tall = hull.width / 2.0 - 0.20, tub.front + 0.10, 0.40
    lean = 0.38
    x = np.linspace(-half, half, 7)
    bow = foot - 0.12 * (x / half) ** 2
    low = np.stack([x, np.full(7, rail - 0.04), bow], axis=-1)
    high = np.stack([x * 0.88, np.full(7, rail + tall), bow - lean], axis=-1)
    thick = np.array([0.0, 0.02, 0.02])
    rings = np.stack([low, high, high + thick, low + thick], axis=1)
    assembly.trim(loft(rings), PANE)
    frame = [low[0] + (0, 0, 0.01), high[0], *high[1:-1], high[-1], low[-1] + (0, 0, 0.01)]
    assembly.trim(tube(np.array(frame), 0.026, 6, up_3=(0, 0.7, 0.7)), CHROME)


def beacon(assembly: Assembly) -> None:
    """A light bar on the roof: blue, white, red."""
    cabin = assembly.design.cabin
    z = 0.5 * (cabin.rear_roof + cabin.front_roof) + 0.15 if cabin else max(assembly.design.hull.axles) - 0.75
    y = assembly.skin_y(0.0, z) + 0.07
    assembly.trim(bevelled_box((1.0, 0.05, 0.22), 0.02).moved(0.0, y - 0.05, z), PLASTIC)
    for x, cell in ((-0.34, BLUE), (0.0, SIGN), (0.34, RED)):
        assembly.lamp(bevelled_box((0.30, 0.12, 0.22), 0.035, taper=0.85).moved(x, y + 0.02, z), cell)


def taxi_sign(assembly: Assembly) -> None:
    cabin = assembly.design.cabin
    z = 0.5 * (cabin.rear_roof + cabin.front_roof) + 0.1
    y = assembly.skin_y(0.0, z)
    assembly.trim(bevelled_box((0.5, 0.05, 0.2), 0.015).moved(0.0, y + 0.01, z), RUBBER)
    assembly.lamp(bevelled_box((0.46, 0.18, 0.18), 0.04, taper=0.8).moved(0.0, y + 0.11, z), SIGN)


def destination_sign(assembly: Assembly) -> None:
    """The lit line above a bus's windscreen."""
    y = assembly.design.height - 0.27
    z = assembly.skin_z(0.0, y, front=True)
    assembly.trim(bevelled_box((1.34, 0.24, 0.08), 0.02).moved(0.0, y, z - 0.01), RUBBER)
    assembly.lamp(bevelled_box((1.2, 0.13, 0.05), 0.01).moved(0.0, y, z + 0.02), AMBER)


def roof_units(assembly: Assembly) -> None:
    """Air conditioning boxes of a bus."""
    random = assembly.random
    for at in random.choice([-0.25, 0.0, 0.22], int(random.integers(1, 3)), replace=False):
        z = float(at) * assembly.design.hull.length
        box = bevelled_box((1.3, 0.2, 1.2), 0.07, taper=0.9).moved(0.0, assembly.skin_y(0.0, z) + 0.06, z)
        assembly.trim(box, int(random.choice([PALE, STEEL, BODY])))


def side_tanks(assembly: Assembly) -> None:
    """Fuel tank and steps of a truck."""
    hull = assembly.design.hull
    z = 0.5 * sum(hull.axles) - 0.05
    tank = lathe(np.array([(0.0, 0.0), (0.0, 0.2), (0.02, 0.22), (0.78, 0.22), (0.8, 0.2), (0.8, 0.0)]), 14)
    tank = tank.turned(1, np.pi / 2.0).moved(hull.width / 2.0 - 0.18, 0.55, z + 0.4)
    assembly.trim(both_sides(tank), CHROME)


def side_steps(assembly: Assembly) -> None:
    """Running boards between the wheels."""
    hull = assembly.design.hull
    low, high = min(hull.axles) + hull.arch_radius + 0.05, max(hull.axles) - hull.arch_radius - 0.05
    board = bevelled_box((0.16, 0.06, high - low), 0.02).moved(
        hull.width / 2.0 + 0.01, hull.sill + 0.02, 0.5 * (low + high)
    )
    assembly.trim(both_sides(board), CHROME if assembly.random.random() < 0.4 else PLASTIC)
