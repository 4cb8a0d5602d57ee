"""Vans, buses and trucks: one hull from sill to roof. Lengths in metres."""

from __future__ import annotations

import itertools

import numpy as np

from get3d_model.data.vehicles.body import Hull
from get3d_model.data.vehicles.designs import CargoBox, Design, Lamp, door_lines, quad


def van(random: np.random.Generator) -> Design:
    length, width, wheel = random.uniform(4.3, 4.8), random.uniform(1.9, 2.0), random.uniform(0.36, 0.39)
    half, roof, belt = length / 2.0, random.uniform(1.95, 2.3), 1.10
    bonnet = random.uniform(0.35, 0.7)
    screen = random.uniform(0.55, 0.75)
    cowl = half - bonnet
    top = (
        (-half, roof - 0.02),
        (-half + 0.1, roof),
        (cowl - screen - 0.1, roof),
        (cowl - screen, roof - 0.06),
        (cowl, belt + 0.02),
        (half, belt - 0.16 - 0.12 * bonnet),
    )
    axles = (-half + 0.85, half - 0.80)
    hull = Hull(
        length=length,
        width=width,
        sill=0.28,
        top=top,
        axles=axles,
        wheel_radius=wheel,
        arch_gap=0.05,
        shoulder=0.30,
        top_smoothing=0.07,
        squareness=3.6,
        bevel=0.07,
        bow=0.12,
        tumble=0.05,
    )
    low, high = belt + 0.06, min(roof - 0.36, belt + 0.68)
    slope = (cowl - screen - cowl) / (roof - belt)

    def screen_z(y: float) -> float:
        return cowl + slope * (y - belt)

    door_rear = cowl - 1.18
    cab = quad(door_rear + 0.06, screen_z(low) - 0.16, screen_z(high) - 0.16, door_rear + 0.06, low, high)
    side = [cab]
    if random.random() < 0.6:
        rear = -half + 0.22
        cut = 0.5 * (rear + door_rear)
        side += [quad(cut + 0.05, door_rear - 0.06, door_rear - 0.06, cut + 0.05, low, high)]
        side += [quad(rear, cut - 0.05, cut - 0.05, rear, low, high)]
    wide = width / 2.0 - 0.20
    front = quad(-wide - 0.06, wide + 0.06, wide, -wide, belt + 0.07, roof - 0.24)
    back = [
        quad(0.04, wide, wide - 0.02, 0.04, low, high),
        quad(-wide, -0.04, -0.04, 0.02 - wide, low, high),
    ]
    edges = [door_rear, screen_z(low) - 0.08]
    lines = door_lines(hull, edges, 0.42, high + 0.06) + door_lines(
        hull, [door_rear - 0.04, door_rear - 1.1], 0.42, high + 0.06
    )
    return Design(
        kind="van",
        hull=hull,
        cabin=None,
        cargo=None,
        windows={"side": side, "front": [front], "rear": back},
        panel_lines=lines,
        handles=[(door_rear + 0.15, belt - 0.08), (door_rear - 0.18, belt - 0.08)],
        glass_from=belt,
        head=Lamp(
            0.38 * width,
            0.76,
            random.uniform(0.11, 0.16),
            random.uniform(0.09, 0.13),
            float(random.uniform(0.5, 1.0)),
        ),
        tail=Lamp(0.46 * width, 1.0, 0.055, random.uniform(0.16, 0.24), 0.4),
        grille=(0.34, 0.66, 0.84),
        bumper=(0.44, 0.10),
        wheel_width=0.25,
        mirror=(screen_z(low) - 0.25, belt + 0.16),
    )


def bus(random: np.random.Generator) -> Design:
    length, width, wheel = random.uniform(6.6, 7.8), random.uniform(2.25, 2.4), 0.46
    half, roof, belt = length / 2.0, random.uniform(2.65, 2.95), 1.25
    top = (
        (-half, roof - 0.03),
        (-half + 0.2, roof),
        (half - 0.5, roof),
        (half, roof - random.uniform(0.05, 0.3)),
    )
    hull = Hull(
        length=length,
        width=width,
        sill=0.34,
        top=top,
        axles=(-half + 1.9, half - 1.5),
        wheel_radius=wheel,
        arch_gap=0.06,
        shoulder=0.25,
        top_smoothing=0.1,
        squareness=4.0,
        bevel=0.13,
        bow=0.14,
        rake=0.04,
        nose=0.03,
        tumble=0.03,
        flare=0.0,
    )
    low, high = belt, roof - 0.48
    count = int(random.integers(5, 8))
    edges = np.linspace(-half + 0.35, half - 1.0, count + 1)
    side = [quad(a + 0.04, b - 0.04, b - 0.04, a + 0.04, low, high) for a, b in itertools.pairwise(edges)]
    door = [quad(half - 0.90, half - 0.56, half - 0.56, half - 0.90, 0.55, high)]
    door += [quad(half - 0.50, half - 0.22, half - 0.22, half - 0.50, 0.55, high)]
    wide = width / 2.0 - 0.16
    front = quad(-wide, wide, wide - 0.03, 0.03 - wide, belt - 0.2, roof - 0.42)
    back = quad(0.1 - wide, wide - 0.1, wide - 0.1, 0.1 - wide, belt + 0.15, roof - 0.5)
    return Design(
        kind="bus",
        hull=hull,
        cabin=None,
        cargo=None,
        windows={"side": side + door, "front": [front], "rear": [back]},
        panel_lines=[
            [(-half + 0.3, 0.62), (half - 1.0, 0.62)],
            [(-half + 0.5, 0.62), (-half + 0.5, 1.1)],
            [(-0.4, 0.62), (-0.4, 1.1)],
        ],
        handles=[],
        glass_from=belt - 0.75,
        head=Lamp(0.38 * width, 0.78, 0.14, 0.11, float(random.uniform(0.5, 1.0))),
        tail=Lamp(0.44 * width, 0.95, 0.08, 0.20, 0.4),
        grille=(0.5, 0.62, 0.78),
        bumper=(0.46, 0.12),
        wheel_width=0.30,
        mirror=(half - 0.25, roof - 0.75),
    )


def box_truck(random: np.random.Generator) -> Design:
    length, width, wheel = random.uniform(5.2, 5.9), random.uniform(2.1, 2.2), random.uniform(0.42, 0.46)
    half, belt, cab_roof = length / 2.0, 1.30, random.uniform(2.05, 2.2)
    bonnet = random.choice([0.12, 0.75])
    cowl, cab_rear = half - bonnet, half - bonnet - 1.55
    run = random.uniform(0.28, 0.45)
    deck = 0.95
    top = (
        (-half, deck),
        (cab_rear - 0.06, deck),
        (cab_rear - 0.05, cab_roof),
        (cowl - run, cab_roof),
        (cowl, belt + 0.05),
        (half - 0.05, belt - 0.12 if bonnet > 0.5 else belt),
        (half, belt - 0.25 if bonnet > 0.5 else belt - 0.04),
    )
    axles = (-half + 1.15, half - 0.85)
    hull = Hull(
        length=length,
        width=width * 0.93,
        sill=0.44,
        top=top,
        axles=axles,
        wheel_radius=wheel,
        arch_gap=0.07,
        shoulder=0.18,
        top_smoothing=0.045,
        squareness=4.0,
        bevel=0.07,
        bow=0.10,
        tumble=0.04,
        flare=0.0,
    )
    cargo = CargoBox(-half - 0.02, cab_rear - 0.12, deck - 0.02, random.uniform(2.5, 2.9), width)
    low, high = belt + 0.08, cab_roof - 0.22
    slope = -run / (cab_roof - belt)
    door_rear = cab_rear + 0.14
    cab = quad(
        door_rear,
        cowl + slope * (low - belt) - 0.14,
        cowl + slope * (high - belt) - 0.14,
        door_rear,
        low,
        high,
    )
    wide = hull.width / 2.0 - 0.16
    front = quad(-wide, wide, wide - 0.03, 0.03 - wide, belt + 0.10, cab_roof - 0.18)
    return Design(
        kind="box_truck",
        hull=hull,
        cabin=None,
        cargo=cargo,
        windows={"side": [cab], "front": [front], "rear": []},
        panel_lines=door_lines(hull, [door_rear - 0.05, cowl - 0.06], 0.6, high + 0.05),
        handles=[(door_rear + 0.16, belt - 0.06)],
        glass_from=belt,
        head=Lamp(0.39 * hull.width, 0.86, 0.13, 0.11, float(random.uniform(0.45, 1.0))),
        tail=Lamp(0.42 * hull.width, 0.76, 0.13, 0.07, 0.4),
        grille=(0.5, 0.74, 1.02),
        bumper=(0.55, 0.12),
        wheel_width=0.30,
        mirror=(cowl - 0.12, belt + 0.25),
    )
