"""Kernel: texture, light and average the samples of each pixel.

Everything is in linear light; the mean is over the covered samples, which equals averaging premultiplied
colours and dividing by alpha. Only covered samples are shaded.

Shape legend: F faces, V vertices, L levels, T texels, H W pixels, S samples per pixel and axis,
    N M = H S, W S samples of a strip of one view
"""

from __future__ import annotations

import math

import numpy as np

from get3d_model.jit import kernel


@kernel
def _bilinear_base(base_HW3, linear_256, x, y):
    """Linear colour of level 0 at texel position (x, y), repeating."""
    height, width, _ = base_HW3.shape
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    fx, fy = x - 0.5 - left, y - 0.5 - top
    x0, y0 = int(left) % width, int(top) % height
    x1 = x0 + 1 if x0 + 1 < width else 0
    y1 = y0 + 1 if y0 + 1 < height else 0
    w00, w01, w10, w11 = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    r = w00 * linear_256[base_HW3[y0, x0, 0]] + w01 * linear_256[base_HW3[y0, x1, 0]]
    g = w00 * linear_256[base_HW3[y0, x0, 1]] + w01 * linear_256[base_HW3[y0, x1, 1]]
    b = w00 * linear_256[base_HW3[y0, x0, 2]] + w01 * linear_256[base_HW3[y0, x1, 2]]
    r += w10 * linear_256[base_HW3[y1, x0, 0]] + w11 * linear_256[base_HW3[y1, x1, 0]]
    g += w10 * linear_256[base_HW3[y1, x0, 1]] + w11 * linear_256[base_HW3[y1, x1, 1]]
    b += w10 * linear_256[base_HW3[y1, x0, 2]] + w11 * linear_256[base_HW3[y1, x1, 2]]
    return r, g, b


@kernel
def _bilinear_level(texels_T3, height, width, first, x, y):
    """Linear colour of a level from 1 on at texel position (x, y) of that level, repeating."""
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    fx, fy = x - 0.5 - left, y - 0.5 - top
    x0, y0 = int(left) % width, int(top) % height
    x1 = x0 + 1 if x0 + 1 < width else 0
    y1 = y0 + 1 if y0 + 1 < height else 0
    i00, i01 = first + y0 * width + x0, first + y0 * width + x1
    i10, i11 = first + y1 * width + x0, first + y1 * width + x1
    w00, w01, w10, w11 = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    r = w00 * texels_T3[i00, 0] + w01 * texels_T3[i01, 0] + w10 * texels_T3[i10, 0] + w11 * texels_T3[i11, 0]
    g = w00 * texels_T3[i00, 1] + w01 * texels_T3[i01, 1] + w10 * texels_T3[i10, 1] + w11 * texels_T3[i11, 1]
    b = w00 * texels_T3[i00, 2] + w01 * texels_T3[i01, 2] + w10 * texels_T3[i10, 2] + w11 * texels_T3[i11, 2]
    return r, g, b


@kernel
def _lookup(base_HW3, texels_T3, sizes_L3, linear_256, x, y, level):
    """Trilinear lookup at texel position (x, y) of level 0."""
    if level <= 0.0:
        return _bilinear_base(base_HW3, linear_256, x, y)
    last = len(sizes_L3) - 1
    fine = min(int(level), last)
    share = min(level - fine, 1.0) if fine < last else 0.0
    height, width, first = sizes_L3[fine]
    if fine == 0:
        r, g, b = _bilinear_base(base_HW3, linear_256, x, y)
    else:
        scale_x, scale_y = width / base_HW3.shape[1], height / base_HW3.shape[0]
        r, g, b = _bilinear_level(texels_T3, height, width, first, x * scale_x, y * scale_y)
    if share > 0.0:
        height, width, first = sizes_L3[fine + 1]
        scale_x, scale_y = width / base_HW3.shape[1], height / base_HW3.shape[0]
        r2, g2, b2 = _bilinear_level(texels_T3, height, width, first, x * scale_x, y * scale_y)
        r, g, b = r + share * (r2 - r), g + share * (g2 - g), b + share * (b2 - b)
    return r, g, b


@kernel
def _light(lights, map_RR3, nx, ny, nz):
    """Light (r, g, b) on a surface with unit normal n; `lights` is `Lighting.as_array`, used where there is no map."""
    size = len(map_RR3)
    if size == 0:
        light = lights[1] + (lights[0] - lights[1]) * (0.5 + 0.5 * ny)
        light += lights[2] * max(0.0, lights[3] * nx + lights[4] * ny + lights[5] * nz)
        light += lights[6] * max(0.0, lights[7] * nx + lights[8] * ny + lights[9] * nz)
        return light, light, light
    # The inverse of lighting.octahedral_normals.
    scale = 1.0 / (abs(nx) + abs(ny) + abs(nz))
    x, z = nx * scale, nz * scale
    if ny < 0.0:
        folded = (1.0 - abs(z)) * (1.0 if x >= 0.0 else -1.0)
        z = (1.0 - abs(x)) * (1.0 if z >= 0.0 else -1.0)
        x = folded
    column = min(max((x + 1.0) * 0.5 * (size - 1), 0.0), size - 1.001)
    row = min(max((z + 1.0) * 0.5 * (size - 1), 0.0), size - 1.001)
    c, r = int(column), int(row)
    fc, fr = column - c, row - r
    w00, w01, w10, w11 = (1 - fr) * (1 - fc), (1 - fr) * fc, fr * (1 - fc), fr * fc
    red = w00 * map_RR3[r, c, 0] + w01 * map_RR3[r, c + 1, 0]
    green = w00 * map_RR3[r, c, 1] + w01 * map_RR3[r, c + 1, 1]
    blue = w00 * map_RR3[r, c, 2] + w01 * map_RR3[r, c + 1, 2]
    red += w10 * map_RR3[r + 1, c, 0] + w11 * map_RR3[r + 1, c + 1, 0]
    green += w10 * map_RR3[r + 1, c, 1] + w11 * map_RR3[r + 1, c + 1, 1]
    blue += w10 * map_RR3[r + 1, c, 2] + w11 * map_RR3[r + 1, c + 1, 2]
    return red, green, blue


@kernel
def _encode_srgb(linear):
    linear = min(max(linear, 0.0), 1.0)
    encoded = linear * 12.92 if linear <= 0.0031308 else 1.055 * linear ** (1.0 / 2.4) - 0.055
    return np.uint8(encoded * 255.0 + 0.5)


@kernel
def shade_kernel(
    first_row,
    end_row,
    rast_NM4,
    samples,
    clip_V4,
    faces_F3,
    corners_F33,
    face_normals_F3,
    normals_F33,
    texels_F32,
    texel_area_F,
    max_level_F,
    flat_F,
    base_HW3,
    texels_T3,
    sizes_L3,
    linear_256,
    lights,
    map_RR3,
    camera_3,
    sample_area,
    out_HW4,
):
    """Fills pixel rows [first_row, end_row) of a strip (zeros on entry).

    sample_area: area of one sample in NDC. Mip level at a sample: the projective map from NDC to barycentrics
    has the Jacobian determinant w^3 / det(v_0, v_1, v_2) (rows (x, y, w)), times twice the face's texel area.
    A pixel whose samples all lie in one face is shaded at every second sample along each axis only, each standing for
    four: half way between them, with the mip level of their area.
    """
    width = out_HW4.shape[1]
    for row in range(first_row, end_row):
        previous = -1
        sign = 1.0
        density = 0.0
        for column in range(width):
            red = green = blue = 0.0
            covered = 0
            shaded = 0
            first_id = rast_NM4[row * samples, column * samples, 3]
            step = 1
            if samples % 2 == 0 and samples > 2 and first_id > 0:
                step = 2
                for sample in range(1, samples * samples):
                    if (
                        rast_NM4[row * samples + sample // samples, column * samples + sample % samples, 3]
                        != first_id
                    ):
                        step = 1
                        break
            side = samples // step
            for sample in range(side * side):
                y = row * samples + sample // side * step
                x = column * samples + sample % side * step
                face = int(rast_NM4[y, x, 3]) - 1
                if face < 0:
                    continue
                covered += step * step
                shaded += 1
                i0, i1, i2 = faces_F3[face, 0], faces_F3[face, 1], faces_F3[face, 2]
                if face != previous:
                    previous = face
                    # Two-sided: the side that is seen decides, not the interpolated normal.
                    facing = 0.0
                    for axis in range(3):
                        facing += face_normals_F3[face, axis] * (camera_3[axis] - corners_F33[face, 0, axis])
                    sign = 1.0 if facing >= 0.0 else -1.0
                    x0, y0, w0 = clip_V4[i0, 0], clip_V4[i0, 1], clip_V4[i0, 3]
                    x1, y1, w1 = clip_V4[i1, 0], clip_V4[i1, 1], clip_V4[i1, 3]
                    x2, y2, w2 = clip_V4[i2, 0], clip_V4[i2, 1], clip_V4[i2, 3]
                    det = x0 * (y1 * w2 - y2 * w1) + y0 * (w1 * x2 - w2 * x1) + w0 * (x1 * y2 - x2 * y1)
                    density = texel_area_F[face] * sample_area / max(abs(det), 1e-30)
                u = rast_NM4[y, x, 0]
                v = rast_NM4[y, x, 1]
                if step == 2:
                    # All four lie in this face; barycentrics are straight enough within a pixel.
                    u = np.float32(0.5) * (u + rast_NM4[y + 1, x + 1, 0])
                    v = np.float32(0.5) * (v + rast_NM4[y + 1, x + 1, 1])
                t = np.float32(1.0) - u - v
                nx = u * normals_F33[face, 0, 0] + v * normals_F33[face, 1, 0] + t * normals_F33[face, 2, 0]
                ny = u * normals_F33[face, 0, 1] + v * normals_F33[face, 1, 1] + t * normals_F33[face, 2, 1]
                nz = u * normals_F33[face, 0, 2] + v * normals_F33[face, 1, 2] + t * normals_F33[face, 2, 2]
                scale = sign / max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
                light_r, light_g, light_b = _light(lights, map_RR3, nx * scale, ny * scale, nz * scale)
                level = 0.0
                if not flat_F[face] and max_level_F[face] > 0.0:
                    w = u * clip_V4[i0, 3] + v * clip_V4[i1, 3] + t * clip_V4[i2, 3]
                    texels_per_sample = density * w * w * w * step * step
                    if texels_per_sample > 1.0:
                        level = min(0.5 * math.log2(texels_per_sample), max_level_F[face])
                tx = u * texels_F32[face, 0, 0] + v * texels_F32[face, 1, 0] + t * texels_F32[face, 2, 0]
                ty = u * texels_F32[face, 0, 1] + v * texels_F32[face, 1, 1] + t * texels_F32[face, 2, 1]
                r, g, b = _lookup(base_HW3, texels_T3, sizes_L3, linear_256, tx, ty, level)
                red += light_r * r
                green += light_g * g
                blue += light_b * b
            if covered > 0:
                out_HW4[row, column, 0] = _encode_srgb(red / shaded)
                out_HW4[row, column, 1] = _encode_srgb(green / shaded)
                out_HW4[row, column, 2] = _encode_srgb(blue / shaded)
                out_HW4[row, column, 3] = np.uint8(255.0 * covered / (samples * samples) + 0.5)
