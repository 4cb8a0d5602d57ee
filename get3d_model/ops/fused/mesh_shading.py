"""Textured, lit and averaged samples of many views of many meshes, straight from the rasteriser's output.

What `rendering/shading.py` does on the CPU, in one pass: a program takes a tile of 8 x 4 pixels with all their samples,
looks a face's record and its texture up for every covered sample and writes one packed RGBA word per pixel. Tiles where
nothing is covered end at once. The records are those of `rendering/batch_inputs.py`.

Shape legend: I images, F faces of all meshes, T texels of all textures and levels, M meshes, L levels, R side of the
    irradiance map, H W pixels, P pixels of a tile, S samples per pixel and axis, K samples per pixel, a power of two
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_WIDTH, TILE_HEIGHT = 8, 4
RECORD = tl.constexpr(24)
LEVELS = tl.constexpr(16)


@triton.jit
def _bilinear(texels, first, height, width, x, y, ok):
    """Linear colour of a level at texel position (x, y) of that level, repeating; x, y from -0.5 on."""
    left = tl.floor(x - 0.5)
    top = tl.floor(y - 0.5)
    fx = x - 0.5 - left
    fy = y - 0.5 - top
    x0 = (left.to(tl.int32) + width) % width
    y0 = (top.to(tl.int32) + height) % height
    x1 = tl.where(x0 + 1 < width, x0 + 1, 0)
    y1 = tl.where(y0 + 1 < height, y0 + 1, 0)
    red = tl.zeros_like(x)
    green = tl.zeros_like(x)
    blue = tl.zeros_like(x)
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            row = y1 if i == 1 else y0
            column = x1 if j == 1 else x0
            weight = (fy if i == 1 else 1.0 - fy) * (fx if j == 1 else 1.0 - fx)
            at = (first + row * width + column).to(tl.int64) * 4
            red += weight * tl.load(texels + at, mask=ok, other=0.0).to(tl.float32)
            green += weight * tl.load(texels + at + 1, mask=ok, other=0.0).to(tl.float32)
            blue += weight * tl.load(texels + at + 2, mask=ok, other=0.0).to(tl.float32)
    return red, green, blue


@triton.jit
def _lookup(texels, sizes, mesh, x, y, level, ok):
    """Trilinear lookup at texel position (x, y) of level 0."""
    head = sizes + mesh * (LEVELS * 3)
    base_height = tl.load(head).to(tl.float32)
    base_width = tl.load(head + 1).to(tl.float32)
    last = tl.load(sizes + mesh * (LEVELS * 3) + (LEVELS - 1) * 3 + 2)  # the last slot holds the last level
    fine = tl.minimum(level.to(tl.int32), last)
    share = tl.where(fine < last, tl.minimum(level - fine.to(tl.float32), 1.0), 0.0)
    at = head + fine * 3
    height = tl.load(at, mask=ok, other=1)
    width = tl.load(at + 1, mask=ok, other=1)
    first = tl.load(at + 2, mask=ok, other=0)
    red, green, blue = _bilinear(
        texels, first, height, width, x * (width.to(tl.float32) / base_width),
        y * (height.to(tl.float32) / base_height), ok,
    )  # fmt: skip
    between = ok & (share > 0.0)
    at = head + tl.minimum(fine + 1, last) * 3
    height = tl.load(at, mask=between, other=1)
    width = tl.load(at + 1, mask=between, other=1)
    first = tl.load(at + 2, mask=between, other=0)
    red2, green2, blue2 = _bilinear(
        texels, first, height, width, x * (width.to(tl.float32) / base_width),
        y * (height.to(tl.float32) / base_height), between,
    )  # fmt: skip
    red = tl.where(between, red + share * (red2 - red), red)
    green = tl.where(between, green + share * (green2 - green), green)
    blue = tl.where(between, blue + share * (blue2 - blue), blue)
    return red, green, blue


@triton.jit
def _light(lights, light_map, nx, ny, nz, ok, MAP: tl.constexpr):
    """Light (r, g, b) by unit normal; see `rendering/shading.py`. MAP: side of the irradiance map, 0 without one."""
    if MAP == 0:
        sky = tl.load(lights)
        ground = tl.load(lights + 1)
        light = ground + (sky - ground) * (0.5 + 0.5 * ny)
        for k in tl.static_range(2):
            cosine = tl.load(lights + 3 + 4 * k) * nx
            cosine += tl.load(lights + 4 + 4 * k) * ny + tl.load(lights + 5 + 4 * k) * nz
            light += tl.load(lights + 2 + 4 * k) * tl.maximum(cosine, 0.0)
        return light, light, light
    else:
        scale = 1.0 / (tl.abs(nx) + tl.abs(ny) + tl.abs(nz))
        x = nx * scale
        z = nz * scale
        folded_x = (1.0 - tl.abs(z)) * tl.where(x >= 0.0, 1.0, -1.0)
        folded_z = (1.0 - tl.abs(x)) * tl.where(z >= 0.0, 1.0, -1.0)
        x = tl.where(ny < 0.0, folded_x, x)
        z = tl.where(ny < 0.0, folded_z, z)
        column = tl.minimum(tl.maximum((x + 1.0) * (0.5 * (MAP - 1)), 0.0), MAP - 1.001)
        row = tl.minimum(tl.maximum((z + 1.0) * (0.5 * (MAP - 1)), 0.0), MAP - 1.001)
        c = column.to(tl.int32)
        r = row.to(tl.int32)
        fc = column - c.to(tl.float32)
        fr = row - r.to(tl.float32)
        red = tl.zeros_like(nx)
        green = tl.zeros_like(nx)
        blue = tl.zeros_like(nx)
        for i in tl.static_range(2):
            for j in tl.static_range(2):
                weight = (fr if i == 1 else 1.0 - fr) * (fc if j == 1 else 1.0 - fc)
                at = ((r + i) * MAP + c + j) * 3
                red += weight * tl.load(light_map + at, mask=ok, other=0.0)
                green += weight * tl.load(light_map + at + 1, mask=ok, other=0.0)
                blue += weight * tl.load(light_map + at + 2, mask=ok, other=0.0)
        return red, green, blue


@triton.jit
def _encode_srgb(linear):
    linear = tl.minimum(tl.maximum(linear, 0.0), 1.0)
    power = tl.exp2(tl.log2(tl.maximum(linear, 1e-6)) * (1.0 / 2.4))
    encoded = tl.where(linear <= 0.0031308, linear * 12.92, 1.055 * power - 0.055)
    return (encoded * 255.0 + 0.5).to(tl.int32)


@triton.jit
def _shade_kernel(
    rast, views, shifts, records, texels, sizes, lights, light_map, out, H, W, tiles_x, sample_area,
    S: tl.constexpr, K: tl.constexpr, MAP: tl.constexpr, TW: tl.constexpr, TH: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.arange(0, TW * TH)
    py = (tile // tiles_x) * TH + pixel // TW
    px = (tile % tiles_x) * TW + pixel % TW
    inside = (py < H) & (px < W)
    sample = tl.arange(0, K)
    row = py[:, None] * S + (sample // S)[None, :]
    column = px[:, None] * S + (sample % S)[None, :]
    ok = inside[:, None] & (sample < S * S)[None, :]
    at = ((image * H * S + row) * (W * S) + column) * 4
    triangle = tl.load(rast + at + 3, mask=ok, other=0.0).to(tl.int32)
    ok = ok & (triangle > 0)
    covered = tl.sum(ok.to(tl.int32), axis=1)
    if tl.sum(covered, axis=0) > 0:
        u = tl.load(rast + at, mask=ok, other=0.0)
        v = tl.load(rast + at + 1, mask=ok, other=0.0)
        depth = tl.load(rast + at + 2, mask=ok, other=0.0)
        t = 1.0 - u - v
        view = views + image * 8
        face = records + (triangle - 1 + tl.load(shifts + image * 2)).to(tl.int64) * RECORD
        mesh = tl.load(shifts + image * 2 + 1)
        facing = tl.load(face, mask=ok, other=0.0) * tl.load(view)
        facing += tl.load(face + 1, mask=ok, other=0.0) * tl.load(view + 1)
        facing += tl.load(face + 2, mask=ok, other=0.0) * tl.load(view + 2)
        facing -= tl.load(face + 3, mask=ok, other=0.0)
        nx = u * tl.load(face + 4, mask=ok, other=0.0) + v * tl.load(face + 7, mask=ok, other=0.0)
        ny = u * tl.load(face + 5, mask=ok, other=0.0) + v * tl.load(face + 8, mask=ok, other=0.0)
        nz = u * tl.load(face + 6, mask=ok, other=0.0) + v * tl.load(face + 9, mask=ok, other=0.0)
        nx += t * tl.load(face + 10, mask=ok, other=0.0)
        ny += t * tl.load(face + 11, mask=ok, other=1.0)
        nz += t * tl.load(face + 12, mask=ok, other=0.0)
        scale = 1.0 / tl.maximum(tl.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
        scale = tl.where(facing >= 0.0, scale, -scale)
        light_r, light_g, light_b = _light(lights, light_map, nx * scale, ny * scale, nz * scale, ok, MAP)
        x = u * tl.load(face + 13, mask=ok, other=0.0) + v * tl.load(face + 15, mask=ok, other=0.0)
        y = u * tl.load(face + 14, mask=ok, other=0.0) + v * tl.load(face + 16, mask=ok, other=0.0)
        x += t * tl.load(face + 17, mask=ok, other=0.0)
        y += t * tl.load(face + 18, mask=ok, other=0.0)
        # w from z/w: z = -(P22 w) + P23 in clip space. The determinant of the corners' (x, y, w) is `facing`, made with
        # the cross product of two edges, times that of the map from world to (x, y, w).
        w = tl.load(view + 5) / (depth + tl.load(view + 4))
        det = tl.maximum(tl.abs(facing) * tl.load(view + 3), 1e-30)
        density = tl.load(face + 19, mask=ok, other=0.0) * sample_area / det * w * w * w
        limit = tl.load(face + 20, mask=ok, other=0.0)
        level = 0.5 * tl.log2(tl.maximum(density, 1.0))
        level = tl.where(ok, tl.maximum(tl.minimum(level, limit), 0.0), 0.0)
        red, green, blue = _lookup(texels, sizes, mesh, tl.where(ok, x, 0.5), tl.where(ok, y, 0.5), level, ok)
        total = tl.maximum(covered, 1).to(tl.float32)
        r = _encode_srgb(tl.sum(tl.where(ok, red * light_r, 0.0), axis=1) / total)
        g = _encode_srgb(tl.sum(tl.where(ok, green * light_g, 0.0), axis=1) / total)
        b = _encode_srgb(tl.sum(tl.where(ok, blue * light_b, 0.0), axis=1) / total)
        a = (covered.to(tl.float32) * (255.0 / (S * S)) + 0.5).to(tl.int32)
        word = r | (g << 8) | (b << 16) | (a << 24)
        tl.store(out + (image * H + py) * W + px, word, mask=inside & (covered > 0))


def shade_samples(
    rast_IHW4: Tensor, views_I8: Tensor, shifts_I2: Tensor, records_F24: Tensor, texels_T4: Tensor,
    sizes_ML3: Tensor, lights_10: Tensor, map_RR3: Tensor, samples: int, sample_area: float,
) -> Tensor:  # fmt: skip
    """IHW4 uint8, sRGB with straight alpha; 0 where nothing is covered.

    rast_IHW4: float32, `samples` rows and columns per pixel. views_I8: float32 (camera centre 3, |det| of the world's map to
    clip (x, y, w), entries (2, 2) and (2, 3) of the projection, 0, 0). shifts_I2: int32 (what to add to a triangle's index
    for its record, mesh). records_F24, texels_T4 (float16), sizes_ML3 (int32): see `batch_inputs`.
    lights_10, map_RR3: float32, of a `LightSource`; R is 0 without a map. sample_area: of one sample in NDC.
    """
    images, height, width = (int(size) for size in rast_IHW4.shape[:3])
    height, width = height // samples, width // samples
    out_IHW = torch.zeros((images, height, width), dtype=torch.int32, device=rast_IHW4.device)
    tiles_x, tiles_y = -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)
    _shade_kernel[(tiles_x * tiles_y, images)](
        rast_IHW4, views_I8, shifts_I2, records_F24, texels_T4, sizes_ML3, lights_10, map_RR3, out_IHW, height, width,
        tiles_x, sample_area, S=samples, K=1 << (samples * samples - 1).bit_length(), MAP=len(map_RR3), TW=TILE_WIDTH,
        TH=TILE_HEIGHT,
    )  # fmt: skip
    return out_IHW.view(torch.uint8).view(images, height, width, 4)
