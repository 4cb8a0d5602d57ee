"""One vehicle from a seed and an index: design, colours, fittings, textures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from get3d_model.data.vehicles import assembly as parts_bin
from get3d_model.data.vehicles import fittings, wheels
from get3d_model.data.vehicles.assembly import Assembly
from get3d_model.data.vehicles.body import build_cabin, build_chassis, build_hull, part_of
from get3d_model.data.vehicles.cargo import add_cargo_box
from get3d_model.data.vehicles.designs import Design
from get3d_model.data.vehicles.finish import paint_sheet
from get3d_model.data.vehicles.geometry import Skin, Surface, joined
from get3d_model.data.vehicles.kinds import MAKERS
from get3d_model.data.vehicles.livery import PALETTE, Scheme, choose_scheme
from get3d_model.data.vehicles.paint import Colour, Sheet, lettering, mix
from get3d_model.gltf import ScenePart
from get3d_model.types import TexturedMesh

VehiclePart = ScenePart  # one material of a vehicle, with one transform per copy

PAINT_TEXELS, GLASS_TEXELS = 512, 384
# Metallic and roughness factors of the materials.
FINISH = {"paint": (0.1, 0.4), "glass": (0.0, 0.15), "rim": (0.6, 0.35), "lamps": (0.0, 0.2)}
RIM_METALS: list[Colour] = [
    (206, 210, 216),
    (206, 210, 216),
    (150, 155, 162),
    (112, 115, 122),
    (236, 236, 232),
    (206, 168, 86),
]
PLATE_LETTERS = "ABDEGHKLPRTVXZ"


def vehicle_kinds() -> tuple[str, ...]:
    """The kinds in the order of `index`: vehicle `index` is of kind `index % len(kinds)`."""
    return tuple(MAKERS)


def make_vehicle(index: int, seed: int) -> list[VehiclePart]:
    """The materials of one vehicle, each with its texture; the wheels are shown once per transform.

    y up, the front looks along +z, bounding box centred, longest side 1. Depends on (seed, index) alone.
    """
    random = np.random.default_rng([seed, index])
    kind = vehicle_kinds()[index % len(vehicle_kinds())]
    design = MAKERS[kind](random)
    start = int(np.random.default_rng(seed).integers(len(PALETTE)))
    scheme = choose_scheme(design, start + index, random)
    assembly = _body(design, scheme, random)
    for fit in _chosen_fittings(design, scheme, random):
        fit(assembly)
    textures = {
        "trim": parts_bin.trim_texture(scheme),
        "lamps": parts_bin.lamp_texture(),
        "plate": _plate(random),
    }
    textures |= {"tyre": wheels.tyre_texture(), "rim": _rim(scheme, random)}
    textures |= {name: sheet.texture() for name, sheet in assembly.sheets.items()}
    return _normalised(_parts(assembly, textures) + _wheels(design, textures))


def _body(design: Design, scheme: Scheme, random: np.random.Generator) -> Assembly:
    """Hull, cabin and chassis with their painted sheets."""
    hull = design.hull
    built = build_hull(hull)
    outer, glass = built.outer, None
    if design.cabin is not None:
        glass, roof = build_cabin(design.cabin)
        outer = joined([outer, roof])
    elif np.isfinite(design.glass_from):
        centre_F3 = outer.vertices_V3[outer.faces_F3].mean(axis=1)
        above_F = centre_F3[:, 1] > design.glass_from
        flat_F = np.abs(centre_F3[:, 1] - design.height) < 0.06
        glass, outer = part_of(outer, above_F & ~flat_F), part_of(outer, ~above_F | flat_F)
    skin = joined([piece for piece in (outer, built.under, glass) if piece is not None])
    assembly = Assembly(design, scheme, Skin.of(skin), random)
    half_z, half_x = hull.length / 2.0 + 0.02, hull.width / 2.0 + 0.05
    ends = ((-half_x, hull.sill - 0.03), (half_x, design.height + 0.02))
    bounds = {
        "side": ((-half_z, hull.sill - 0.03), (half_z, design.height + 0.02)),
        "top": ((-half_z, -half_x), (half_z, half_x)),
        "front": ends,
        "rear": ends,
    }
    assembly.sheets["paint"] = Sheet(bounds, PAINT_TEXELS)
    surfaces = {"paint": outer}
    if glass is not None:
        low_3, high_3 = glass.vertices_V3.min(axis=0) - 0.02, glass.vertices_V3.max(axis=0) + 0.02
        band = ((low_3[0], low_3[1]), (high_3[0], high_3[1]))
        side = ((low_3[2], low_3[1]), (high_3[2], high_3[1]))
        assembly.sheets["glass"] = Sheet({"side": side, "front": band, "rear": band}, GLASS_TEXELS)
        surfaces["glass"] = glass
    dirt = float(max(random.uniform(-0.8, 0.8), 0.0))
    for name, surface in surfaces.items():
        paint_sheet(assembly.sheets[name], design, scheme, dirt)
        assembly.add(name, *assembly.sheets[name].project(surface))
    inside = hull.width / 2.0 - design.wheel_width - 0.10
    assembly.trim(joined([built.under, build_chassis(hull, inside)]), parts_bin.RUBBER)
    if built.tub is not None:
        assembly.trim(built.tub, parts_bin.PLASTIC)
    if design.cargo is not None:
        add_cargo_box(assembly, design.cargo)
    return assembly


def _chosen_fittings(
    design: Design, scheme: Scheme, random: np.random.Generator
) -> list[Callable[[Assembly], None]]:
    """What this vehicle carries; the more, the more different the silhouettes."""
    kind, chance = design.kind, random.random(8)
    rugged = kind in ("suv", "pickup")
    bar = int(random.choice([parts_bin.PLASTIC, parts_bin.BODY, parts_bin.CHROME], p=[0.5, 0.3, 0.2]))
    chosen: list[Callable[[Assembly], None]] = [
        lambda a: fittings.bumper(a, True, bar),
        lambda a: fittings.bumper(a, False, bar),
        lambda a: fittings.lamps(a, design.head, True, parts_bin.HEAD),
        lambda a: fittings.lamps(a, design.tail, False, parts_bin.TAIL),
        lambda a: fittings.plate(a, True),
        lambda a: fittings.plate(a, False),
        fittings.mirrors,
    ]
    options = [
        (fittings.exhausts, kind not in ("bus", "box_truck") and chance[0] < 0.7),
        (fittings.arch_lips, (rugged and chance[1] < 0.8) or (kind in ("city", "van") and chance[1] < 0.3)),
        (
            fittings.roof_rack,
            kind in ("estate", "suv") and chance[2] < 0.65 and not (scheme.beacon or scheme.taxi),
        ),
        (
            fittings.wing,
            (kind == "sports" and chance[3] < 0.7) or (kind in ("hatchback", "saloon") and chance[3] < 0.3),
        ),
        (fittings.scoop, kind in ("sports", "roadster", "saloon", "pickup") and chance[4] < 0.25),
        (fittings.spare_wheel, kind == "suv" and chance[5] < 0.4),
        (fittings.bull_bar, rugged and chance[6] < 0.4),
        (fittings.side_steps, rugged and chance[7] < 0.6),
        (fittings.roll_bar, kind in ("pickup", "roadster") and chance[5] < 0.5),
        (fittings.bed_load, kind == "pickup" and chance[3] < 0.5),
        (fittings.cockpit, kind == "roadster"),
        (fittings.destination_sign, kind == "bus"),
        (fittings.roof_units, kind == "bus"),
        (fittings.side_tanks, kind == "box_truck"),
        (fittings.beacon, scheme.beacon),
        (fittings.taxi_sign, scheme.taxi),
    ]
    return chosen + [fit for fit, wanted in options if wanted]


def _plate(random: np.random.Generator) -> np.ndarray:
    letters = "".join(random.choice(list(PLATE_LETTERS), 3))
    ground = [(246, 246, 240), (250, 214, 60)][int(random.random() < 0.3)]
    return lettering(f"{letters} {int(random.integers(100, 999))}", (24, 26, 32), ground, 2)


def _rim(scheme: Scheme, random: np.random.Generator) -> np.ndarray:
    painted = mix(scheme.second, (255, 255, 255), 0.25)
    metal = painted if random.random() < 0.12 else RIM_METALS[int(random.integers(len(RIM_METALS)))]
    spokes = int(random.choice([5, 5, 6, 7, 10, 12]))
    return wheels.rim_texture(metal, spokes, 1.1 / spokes, float(random.choice([0.0, 0.0, 0.25])))


def _parts(assembly: Assembly, textures: dict[str, np.ndarray]) -> list[VehiclePart]:
    parts = []
    for material, pieces in assembly.pieces.items():
        surface = joined([piece for piece, _ in pieces])
        uvs_V2 = np.concatenate([uvs for _, uvs in pieces])
        parts.append(_part(material, surface, uvs_V2, textures[material], [np.eye(4)]))
    return parts


def _part(
    material: str, surface: Surface, uvs_V2: np.ndarray, texture_HW3: np.ndarray, transforms: list[np.ndarray]
) -> VehiclePart:
    mesh = TexturedMesh(
        surface.vertices_V3.astype(np.float32),
        surface.faces_F3.astype(np.int32),
        uvs_V2.astype(np.float32),
        texture_HW3,
    )
    metallic, roughness = FINISH.get(material, (0.0, 0.9))
    return VehiclePart(material, mesh, tuple(transforms), metallic, roughness)


def _wheels(design: Design, textures: dict[str, np.ndarray]) -> list[VehiclePart]:
    """Tyres and rims, one mesh each, placed at every corner; those on the left are turned round."""
    hull = design.hull
    segments = 18 if design.kind in ("suv", "pickup") else 20
    tyre, tyre_uvs, rim, rim_uvs = wheels.wheel_surfaces(hull.wheel_radius, design.wheel_width, segments)
    track = hull.width / 2.0 - design.wheel_width / 2.0 + 0.01
    places = [(sign, axle) for axle in hull.axles for sign in (1.0, -1.0)]
    transforms = []
    for sign, axle in places:
        transform_44 = np.diag([sign, 1.0, sign, 1.0])
        transform_44[:3, 3] = (sign * track, hull.wheel_radius, axle)
        transforms.append(transform_44)
    return [
        _part("tyre_wheels", tyre, tyre_uvs, textures["tyre"], transforms),
        _part("rim_wheels", rim, rim_uvs, textures["rim"], transforms),
    ]


def _normalised(parts: list[VehiclePart]) -> list[VehiclePart]:
    """Centres the whole and scales its longest side to 1, through the transforms of the copies."""
    points_V3 = np.concatenate(
        [part.mesh.vertices_V3 @ t[:3, :3].T + t[:3, 3] for part in parts for t in part.transforms]
    )
    low_3, high_3 = points_V3.min(axis=0), points_V3.max(axis=0)
    scale = 1.0 / float((high_3 - low_3).max())
    fit_44 = np.diag([scale, scale, scale, 1.0])
    fit_44[:3, 3] = -scale * (low_3 + high_3) / 2.0
    return [
        VehiclePart(
            part.name, part.mesh, tuple(fit_44 @ t for t in part.transforms), part.metallic, part.roughness
        )
        for part in parts
    ]


__all__ = ["PALETTE", "VehiclePart", "make_vehicle", "vehicle_kinds"]
