"""The kernel of the separable [1, 3, 3, 1] low-pass (low_pass.py).

A program owns a strip of columns and a block of channels and walks down the rows with the last four filtered rows
in registers: every input is read from memory once, and there is one write per output. A row's inputs are asked for
while the row before it is computed.

Shape legend: C channels, H W input size, h w output size
"""

from __future__ import annotations

import triton
import triton.language as tl

from get3d_model.ops.fused.common import GAIN, SLOPE

# SOURCE, what is read: the image itself; its activation act(x + bias); or the image times the slope of another.
PLAIN, ACTIVATED, SLOPED = 0, 1, 2
# TARGET, what is written: the filtered value; times the slope of another image (and its sum); the synthesis epilogue.
AS_IS, TIMES_SLOPE, EPILOGUE = 0, 1, 2


@triton.jit
def _load(
    src, other, row, column, channel, H, W, C, c_ok,
    SOURCE: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """One input per lane and channel as it lies in memory, and the image whose slope belongs to it."""
    if INNER:
        at = ((row * W + column) * C)[:, None] + channel[None, :]
        value = tl.load(src + at)
        x = tl.load(other + at) if SOURCE == 2 else value
    else:
        ok = ((row >= 0) & (row < H) & (column >= 0) & (column < W))[:, None] & c_ok[None, :]
        at = ((row * W + column) * C)[:, None] + channel[None, :]
        value = tl.load(src + at, mask=ok, other=0.0)
        x = tl.load(other + at, mask=ok, other=0.0) if SOURCE == 2 else value
    return value, x


@triton.jit
def _input(
    value, x, row, column, H, W, bias, bound,
    SOURCE: tl.constexpr, CLAMP: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """The input of the filter, zero outside the image; [lanes, channels].

    Activations come without their gain, which the caller puts into the filter's; `bound` is the limit without it.
    """
    value = value.to(tl.float32)
    if SOURCE == 1:
        value += bias[None, :]
        value = tl.maximum(value, value * SLOPE)
        if CLAMP:
            value = tl.minimum(tl.maximum(value, -bound), bound)
        if not INNER:
            ok = (row >= 0) & (row < H) & (column >= 0) & (column < W)
            value = tl.where(ok[:, None], value, 0.0)
    elif SOURCE == 2:
        value = _times_slope(value, x.to(tl.float32) + bias[None, :], bound, CLAMP)
    return value


@triton.jit
def _times_slope(value, v, bound, CLAMP: tl.constexpr):
    """value times the derivative of the activation (without its gain) at v."""
    value = tl.where(v > 0, value, value * SLOPE)
    if CLAMP:
        value = tl.where(tl.abs(tl.maximum(v, v * SLOPE)) < bound, value, 0.0)
    return value


@triton.jit
def _load_row(
    src, other, row, left, channel, H, W, C, c_ok, SOURCE: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """The seven neighbouring inputs per lane that one row's filter needs, and what belongs to them."""
    v0, x0 = _load(src, other, row, left, channel, H, W, C, c_ok, SOURCE, INNER)
    v1, x1 = _load(src, other, row, left + 1, channel, H, W, C, c_ok, SOURCE, INNER)
    v2, x2 = _load(src, other, row, left + 2, channel, H, W, C, c_ok, SOURCE, INNER)
    v3, x3 = _load(src, other, row, left + 3, channel, H, W, C, c_ok, SOURCE, INNER)
    v4, x4 = _load(src, other, row, left + 4, channel, H, W, C, c_ok, SOURCE, INNER)
    v5, x5 = _load(src, other, row, left + 5, channel, H, W, C, c_ok, SOURCE, INNER)
    v6, x6 = _load(src, other, row, left + 6, channel, H, W, C, c_ok, SOURCE, INNER)
    return v0, v1, v2, v3, v4, v5, v6, x0, x1, x2, x3, x4, x5, x6


@triton.jit
def _filtered(
    v0, v1, v2, v3, v4, v5, v6, x0, x1, x2, x3, x4, x5, x6, row, left, H, W, bias, bound,
    SOURCE: tl.constexpr, CLAMP: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """The horizontal filter of one row at four neighbouring columns: weights 1, 3, 3, 1 from `left` on."""
    a0 = _input(v0, x0, row, left, H, W, bias, bound, SOURCE, CLAMP, INNER)
    a1 = _input(v1, x1, row, left + 1, H, W, bias, bound, SOURCE, CLAMP, INNER)
    a2 = _input(v2, x2, row, left + 2, H, W, bias, bound, SOURCE, CLAMP, INNER)
    a3 = _input(v3, x3, row, left + 3, H, W, bias, bound, SOURCE, CLAMP, INNER)
    a4 = _input(v4, x4, row, left + 4, H, W, bias, bound, SOURCE, CLAMP, INNER)
    a5 = _input(v5, x5, row, left + 5, H, W, bias, bound, SOURCE, CLAMP, INNER)
    a6 = _input(v6, x6, row, left + 6, H, W, bias, bound, SOURCE, CLAMP, INNER)
    b12, b23, b34, b45 = a1 + a2, a2 + a3, a3 + a4, a4 + a5
    return a0 + a3 + 3.0 * b12, a1 + a4 + 3.0 * b23, a2 + a5 + 3.0 * b34, a3 + a6 + 3.0 * b45


@triton.jit
def _filtered_row(
    src, other, row, left, channel, H, W, C, c_ok, bias, bound,
    SOURCE: tl.constexpr, CLAMP: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """A row that is asked for and filtered at once."""
    v0, v1, v2, v3, v4, v5, v6, x0, x1, x2, x3, x4, x5, x6 = _load_row(
        src, other, row, left, channel, H, W, C, c_ok, SOURCE, INNER
    )
    return _filtered(v0, v1, v2, v3, v4, v5, v6, x0, x1, x2, x3, x4, x5, x6, row, left, H, W, bias, bound,
                     SOURCE, CLAMP, INNER)  # fmt: skip


@triton.jit
def _slopes(
    other, row, column, channel, h, w, C, c_ok, INNER: tl.constexpr,
):  # fmt: skip
    """The image whose slope belongs to one output per lane and channel."""
    at = ((row * w + column) * C)[:, None] + channel[None, :]
    if INNER:
        return tl.load(other + at)
    ok = ((row < h) & (column < w))[:, None] & c_ok[None, :]
    return tl.load(other + at, mask=ok, other=0.0)


@triton.jit
def _write(
    value, x, out, noise_hw, row, column, channel, h, w, C, c_ok, bias, scale, strength, bound,
    TARGET: tl.constexpr, CLAMP: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Finishes and stores one output per lane and channel; returns what TIMES_SLOPE sums."""
    at = ((row * w + column) * C)[:, None] + channel[None, :]
    in_image = (row < h) & (column < w)
    ok = in_image[:, None] & c_ok[None, :]
    if TARGET == 1:
        if not INNER:
            value = tl.where(ok, value, 0.0)
        value = _times_slope(value, x.to(tl.float32) + bias[None, :], bound, CLAMP)
    elif TARGET == 2:
        noise = tl.load(noise_hw + row * w + column, mask=in_image, other=0.0).to(tl.float32) * strength
        value = value * scale[None, :] + noise[:, None] + bias[None, :]
        value = tl.maximum(value, value * SLOPE) * GAIN
        if CLAMP:
            value = tl.minimum(tl.maximum(value, -bound * GAIN), bound * GAIN)
    if INNER:
        tl.store(out + at, value.to(out.dtype.element_ty))
    else:
        tl.store(out + at, value.to(out.dtype.element_ty), mask=ok)
    return value


@triton.jit
def _strip(
    src, other, out, noise_hw, sums, first_row, column, channel, H, W, h, w, C, pad, gain,
    c_ok, bias, scale, strength, bound,
    SOURCE: tl.constexpr, TARGET: tl.constexpr, CLAMP: tl.constexpr, SUMS: tl.constexpr,
    INNER: tl.constexpr, ROWS_: tl.constexpr,
):  # fmt: skip
    """Walks down a strip; INNER: every input and output lies inside the images, and nothing is masked."""
    left = column - pad
    top = first_row - pad
    p0, p1, p2, p3 = _filtered_row(
        src, other, top, left, channel, H, W, C, c_ok, bias, bound, SOURCE, CLAMP, INNER
    )
    q0, q1, q2, q3 = _filtered_row(
        src, other, top + 1, left, channel, H, W, C, c_ok, bias, bound, SOURCE, CLAMP, INNER
    )
    r0, r1, r2, r3 = _filtered_row(
        src, other, top + 2, left, channel, H, W, C, c_ok, bias, bound, SOURCE, CLAMP, INNER
    )
    # What the next step reads is under way while this one computes.
    v0, v1, v2, v3, v4, v5, v6, x0, x1, x2, x3, x4, x5, x6 = _load_row(
        src, other, top + 3, left, channel, H, W, C, c_ok, SOURCE, INNER
    )
    if TARGET == 1:
        y0 = _slopes(other, first_row, column, channel, h, w, C, c_ok, INNER)
        y1 = _slopes(other, first_row, column + 1, channel, h, w, C, c_ok, INNER)
        y2 = _slopes(other, first_row, column + 2, channel, h, w, C, c_ok, INNER)
        y3 = _slopes(other, first_row, column + 3, channel, h, w, C, c_ok, INNER)
    else:
        y0, y1, y2, y3 = v0, v0, v0, v0
    for step in range(ROWS_):
        row = first_row + step
        # The last one reads a row that exists, and drops it.
        ahead = tl.minimum(top + step + 4, H - 1) if INNER else top + step + 4
        n0, n1, n2, n3, n4, n5, n6, m0, m1, m2, m3, m4, m5, m6 = _load_row(
            src, other, ahead, left, channel, H, W, C, c_ok, SOURCE, INNER
        )
        if TARGET == 1:
            below = tl.minimum(row + 1, h - 1) if INNER else row + 1
            z0 = _slopes(other, below, column, channel, h, w, C, c_ok, INNER)
            z1 = _slopes(other, below, column + 1, channel, h, w, C, c_ok, INNER)
            z2 = _slopes(other, below, column + 2, channel, h, w, C, c_ok, INNER)
            z3 = _slopes(other, below, column + 3, channel, h, w, C, c_ok, INNER)
        else:
            z0, z1, z2, z3 = n0, n0, n0, n0
        s0, s1, s2, s3 = _filtered(
            v0, v1, v2, v3, v4, v5, v6, x0, x1, x2, x3, x4, x5, x6, top + step + 3, left, H, W, bias, bound,
            SOURCE, CLAMP, INNER,
        )  # fmt: skip
        w0 = _write((p0 + s0 + 3.0 * (q0 + r0)) * gain, y0, out, noise_hw, row, column, channel, h, w, C,
                    c_ok, bias, scale, strength, bound, TARGET, CLAMP, INNER)  # fmt: skip
        w1 = _write((p1 + s1 + 3.0 * (q1 + r1)) * gain, y1, out, noise_hw, row, column + 1, channel, h, w, C,
                    c_ok, bias, scale, strength, bound, TARGET, CLAMP, INNER)  # fmt: skip
        w2 = _write((p2 + s2 + 3.0 * (q2 + r2)) * gain, y2, out, noise_hw, row, column + 2, channel, h, w, C,
                    c_ok, bias, scale, strength, bound, TARGET, CLAMP, INNER)  # fmt: skip
        w3 = _write((p3 + s3 + 3.0 * (q3 + r3)) * gain, y3, out, noise_hw, row, column + 3, channel, h, w, C,
                    c_ok, bias, scale, strength, bound, TARGET, CLAMP, INNER)  # fmt: skip
        if SUMS:
            sums += w0 + w1 + w2 + w3
        p0, p1, p2, p3 = q0, q1, q2, q3
        q0, q1, q2, q3 = r0, r1, r2, r3
        r0, r1, r2, r3 = s0, s1, s2, s3
        v0, v1, v2, v3, v4, v5, v6 = n0, n1, n2, n3, n4, n5, n6
        x0, x1, x2, x3, x4, x5, x6 = m0, m1, m2, m3, m4, m5, m6
        y0, y1, y2, y3 = z0, z1, z2, z3
    return sums


@triton.jit
def low_pass_kernel(
    src, other, out, bias_C, sums_GC, scale_BC, noise_hw, strength,
    H, W, h, w, C, pad, gain, bound, column_blocks, row_blocks,
    SOURCE: tl.constexpr, TARGET: tl.constexpr, BIAS: tl.constexpr, SUMS: tl.constexpr, CLAMP: tl.constexpr,
    LANES: tl.constexpr, BLOCK_C: tl.constexpr, ROWS_: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = channel < C
    batch = (block // (column_blocks * row_blocks)).to(tl.int64)
    rest = block % (column_blocks * row_blocks)
    first_row = (rest // column_blocks) * ROWS_
    first_column = (rest % column_blocks) * LANES * 4
    column = first_column + tl.arange(0, LANES) * 4
    # Offsets inside one image fit 32 bits; only the image's own offset does not.
    src += batch * H * W * C
    out += batch * h * w * C
    other += batch * (h * w if TARGET == 1 else H * W) * C
    bias = tl.zeros((BLOCK_C,), tl.float32)
    if BIAS:
        bias = tl.load(bias_C + channel, mask=c_ok, other=0.0).to(tl.float32)
    scale = tl.zeros((BLOCK_C,), tl.float32)
    noise_strength = 0.0
    if TARGET == 2:
        scale = tl.load(scale_BC + batch * C + channel, mask=c_ok, other=0.0).to(tl.float32)
        noise_strength = tl.load(strength).to(tl.float32)
    sums = tl.zeros((LANES, BLOCK_C), tl.float32)
    last_row, last_column = first_row + ROWS_, first_column + LANES * 4
    inner = (first_row >= pad) & (first_column >= pad) & (last_row <= h) & (last_column <= w)
    inner = inner & (last_row + 3 - pad <= H) & (last_column + 3 - pad <= W)
    inner = inner & (tl.program_id(1) * BLOCK_C + BLOCK_C <= C)
    if inner:
        sums = _strip(
            src, other, out, noise_hw, sums, first_row, column, channel, H, W, h, w, C, pad, gain,
            c_ok, bias, scale, noise_strength, bound, SOURCE, TARGET, CLAMP, SUMS, True, ROWS_,
        )  # fmt: skip
    else:
        sums = _strip(
            src, other, out, noise_hw, sums, first_row, column, channel, H, W, h, w, C, pad, gain,
            c_ok, bias, scale, noise_strength, bound, SOURCE, TARGET, CLAMP, SUMS, False, ROWS_,
        )  # fmt: skip
    if SUMS:
        tl.store(sums_GC + block.to(tl.int64) * C + channel, tl.sum(sums, axis=0), mask=c_ok)
