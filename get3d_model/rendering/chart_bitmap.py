"""Charts on a bitmap: masks of their outlines, and the lowest free places for them.

Large ones first, each chart goes, in the one of four quarter turns that keeps it lowest, to the lowest free place,
gaps among the earlier ones included. A row of the bitmap is a few 64-bit words, and for every row there are
bitmaps of where 1, 2, 4, 8 ... free cells follow one another, so that all columns of a row are tried for a span
of a chart with two shifts.

Shape legend: C charts, B border edges of charts, M cells of all chart masks, S spans, W words of a bitmap row,
T tries
"""

from __future__ import annotations

import numpy as np

from get3d_model.jit import kernel

# All four turns are tried for this many of the largest charts, two for the others.
TURNED_CHARTS = 64


@kernel
def _mark(mask_M, first, columns, rows, x0, y0, x1, y1, margin):
    """Marks the cells that come within `margin` of a segment along x and along y; coordinates in cells."""
    if y0 > y1:
        x0, y0, x1, y1 = x1, y1, x0, y0
    slope = (x1 - x0) / (y1 - y0) if y1 > y0 else 0.0
    for row in range(max(int(np.floor(y0 - margin)), 0), min(int(np.floor(y1 + margin)), rows - 1) + 1):
        low, high = min(x0, x1), max(x0, x1)
        if y1 > y0:
            a = x0 + slope * (min(max(row - margin, y0), y1) - y0)
            b = x0 + slope * (min(max(row + 1.0 + margin, y0), y1) - y0)
            low, high = max(min(a, b), low), min(max(a, b), high)
        last = min(int(np.floor(high + margin)), columns - 1)
        for column in range(max(int(np.floor(low - margin)), 0), last + 1):
            mask_M[first + row * columns + column] = 1


@kernel
def _mask(border_B4, begin, end, scale, gutter, first, columns, rows, mask_M, wind_M):
    """The cells of one chart: those near its border, and those that the border winds around."""
    for index in range(begin, end):
        x0, y0 = border_B4[index, 0] * scale + gutter, border_B4[index, 1] * scale + gutter
        x1, y1 = border_B4[index, 2] * scale + gutter, border_B4[index, 3] * scale + gutter
        _mark(mask_M, first, columns, rows, x0, y0, x1, y1, gutter)
        # Row centres that the edge crosses: counter-clockwise borders go down on the left.
        low, high = min(y0, y1), max(y0, y1)
        for row in range(max(int(np.ceil(low - 0.5)), 0), min(int(np.ceil(high - 0.5)), rows)):
            x = x0 + (row + 0.5 - y0) / (y1 - y0) * (x1 - x0)
            column = min(max(int(x), 0), columns - 1)
            wind_M[first + row * columns + column] += 1 if y0 > y1 else -1
    for row in range(rows):
        winding = 0
        for column in range(columns):
            index = first + row * columns + column
            winding += wind_M[index]
            # Faces without area may leave a chart without a border: its box is taken.
            if winding > 0 or begin == end:
                mask_M[index] = 1


@kernel
def _turned(mask_M, first, columns, rows, turn, row, column):
    """The cell of a mask after quarter turns counter-clockwise; `columns`, `rows` before them."""
    if turn == 0:
        return mask_M[first + row * columns + column]
    if turn == 1:
        return mask_M[first + (rows - 1 - column) * columns + row]
    if turn == 2:
        return mask_M[first + (rows - 1 - row) * columns + columns - 1 - column]
    return mask_M[first + column * columns + columns - 1 - row]


@kernel
def _find_spans(mask_M, first, columns, rows, turn, row_S, from_S, length_S):
    """Runs of marked cells of a turned mask, row by row; returns their number."""
    wide, tall = (rows, columns) if turn & 1 else (columns, rows)
    count = 0
    for row in range(tall):
        begin = -1
        for column in range(wide + 1):
            marked = column < wide and _turned(mask_M, first, columns, rows, turn, row, column) != 0
            if marked and begin < 0:
                begin = column
            elif not marked and begin >= 0:
                row_S[count], from_S[count], length_S[count] = row, begin, column - begin
                count += 1
                begin = -1
    return count


@kernel
def _shifted(taken, level, row, word, shift):
    """A word of a bitmap row moved `shift` columns to the left; zeros come in."""
    source, bits = word + (shift >> 6), shift & 63
    words = taken.shape[2]
    value = np.uint64(0)
    if source < words:
        value = taken[level, row, source] >> np.uint64(bits)
        if bits and source + 1 < words:
            value |= taken[level, row, source + 1] << np.uint64(64 - bits)
    return value


@kernel
def _level(length):
    """The largest power of two that is not above `length`, as an exponent."""
    level = 0
    while (2 << level) <= length:
        level += 1
    return level


@kernel
def _coprime_stride(count):
    """A stride that visits all of `count` items, far ones soon."""
    stride = max(1, int(0.38 * count))
    while True:
        a, b = stride, count
        while b:
            a, b = b, a % b
        if a == 1:
            return stride
        stride += 1


@kernel
def _lowest(
    taken, longest_free, row_S, from_S, length_S, spans, wide, tall, cells, row_limit, level_S, blocked_W
):
    """(row, column) of the lowest, then leftmost free place that ends below row_limit; row -1 when none."""
    words = len(blocked_W)
    longest = 0
    for span in range(spans):
        level_S[span] = _level(length_S[span])
        if length_S[span] > length_S[longest]:
            longest = span
    stride = _coprime_stride(spans)
    for y in range(min(row_limit, cells) - tall + 1):
        # The quick refusal of most rows.
        if longest_free[y + row_S[longest]] < length_S[longest]:
            continue
        for word in range(words):
            # Columns from which the chart would not reach beyond the right border.
            left = cells - wide + 1 - 64 * word
            if left >= 64:
                blocked_W[word] = np.uint64(0)
            elif left <= 0:
                blocked_W[word] = ~np.uint64(0)
            else:
                blocked_W[word] = ~np.uint64(0) << np.uint64(left)
        span = longest
        free = True
        for _ in range(spans):
            row = y + row_S[span]
            free = longest_free[row] >= length_S[span]
            if free:
                level = level_S[span]
                shift = from_S[span]
                more = shift + length_S[span] - (1 << level)
                every = ~np.uint64(0)
                for word in range(words):
                    blocked_W[word] |= _shifted(taken, level, row, word, shift) | _shifted(
                        taken, level, row, word, more
                    )
                    every &= blocked_W[word]
                free = every != ~np.uint64(0)
            if not free:
                break
            span += stride
            if span >= spans:
                span -= spans
        if free:
            for word in range(words):
                value = ~blocked_W[word]
                if value != np.uint64(0):
                    bit = 0
                    while not (value >> np.uint64(bit)) & np.uint64(1):
                        bit += 1
                    return y, 64 * word + bit
    return -1, 0


@kernel
def _place(taken, longest_free, row_S, from_S, length_S, spans, x, y, cells):
    """Marks the spans as taken and renews what is known of their rows."""
    levels, _, words = taken.shape
    for span in range(spans):
        row = y + row_S[span]
        for column in range(x + from_S[span], x + from_S[span] + length_S[span]):
            taken[0, row, column >> 6] |= np.uint64(1) << np.uint64(column & 63)
    for row in range(y + row_S[0], y + row_S[spans - 1] + 1):
        for level in range(1, levels):
            for word in range(words):
                taken[level, row, word] = taken[level - 1, row, word] | _shifted(
                    taken, level - 1, row, word, 1 << (level - 1)
                )
        run, longest = 0, 0
        for column in range(cells):
            run = run + 1 if not (taken[0, row, column >> 6] >> np.uint64(column & 63)) & np.uint64(1) else 0
            longest = max(longest, run)
        longest_free[row] = longest


@kernel
def marked_kernel(border_B4, start_C, size_C2, scale, gutter):
    """Cells that all charts take at a scale (cells per world unit), gutters included."""
    total = 0
    for chart in range(len(size_C2)):
        columns = int(scale * size_C2[chart, 0] + 2.0 * gutter) + 1
        rows = int(scale * size_C2[chart, 1] + 2.0 * gutter) + 1
        mask_M = np.zeros(columns * rows, np.uint8)
        wind_M = np.zeros(columns * rows, np.int16)
        _mask(border_B4, start_C[chart], start_C[chart + 1], scale, gutter, 0, columns, rows, mask_M, wind_M)
        for index in range(len(mask_M)):
            total += mask_M[index]
    return total


@kernel
def pack_kernel(
    border_B4, start_C, size_C2, order_C, scale, gutter, cells, turn_C, offset_C2, number, fits_T
):
    """Packs at one scale (cells per world unit) into turn_C and offset_C2; whether all charts fit.

    number: of this try among those that may run at once; fits_T[number] tells the others that it fits, and it is
    given up when an earlier one does.
    """
    charts = len(size_C2)
    shape_C2 = np.empty((charts, 2), np.int64)
    first_C = np.zeros(charts + 1, np.int64)
    longest = 0
    for chart in range(charts):
        for k in range(2):
            shape_C2[chart, k] = int(scale * size_C2[chart, k] + 2.0 * gutter) + 1
            if shape_C2[chart, k] > cells:
                return False
        longest = max(longest, shape_C2[chart, 0] * shape_C2[chart, 1])
        first_C[chart + 1] = first_C[chart] + shape_C2[chart, 0] * shape_C2[chart, 1]
    mask_M = np.zeros(first_C[charts], np.uint8)
    wind_M = np.zeros(first_C[charts], np.int16)
    for chart in range(charts):
        first, columns, rows = first_C[chart], shape_C2[chart, 0], shape_C2[chart, 1]
        _mask(
            border_B4, start_C[chart], start_C[chart + 1], scale, gutter, first, columns, rows, mask_M, wind_M
        )
    words = (cells + 63) // 64
    taken = np.zeros((_level(cells) + 1, cells, words), np.uint64)
    blocked_W = np.empty(words, np.uint64)
    longest_free = np.full(cells, cells, np.int32)
    row_S = np.empty((4, longest), np.int32)
    from_S = np.empty((4, longest), np.int32)
    length_S = np.empty((4, longest), np.int32)
    level_S = np.empty(longest, np.int32)
    spans_4 = np.zeros(4, np.int64)
    for rank in range(charts):
        if fits_T[:number].any():
            return False
        chart = order_C[rank]
        first, columns, rows = first_C[chart], shape_C2[chart, 0], shape_C2[chart, 1]
        best_top, best_turn, best_x, best_y = cells + 1, -1, 0, 0
        for turn in range(4 if rank < TURNED_CHARTS else 2):
            wide, tall = (rows, columns) if turn & 1 else (columns, rows)
            spans_4[turn] = _find_spans(
                mask_M, first, columns, rows, turn, row_S[turn], from_S[turn], length_S[turn]
            )
            # Only a lower top is of interest.
            y, x = _lowest(
                taken, longest_free, row_S[turn], from_S[turn], length_S[turn], spans_4[turn], wide, tall,
                cells, best_top - 1, level_S, blocked_W,
            )  # fmt: skip
            if y >= 0:
                best_top, best_turn, best_x, best_y = y + tall, turn, x, y
        if best_turn < 0:
            return False
        _place(
            taken, longest_free, row_S[best_turn], from_S[best_turn], length_S[best_turn], spans_4[best_turn],
            best_x, best_y, cells,
        )  # fmt: skip
        turn_C[chart] = best_turn
        # A turned mask has the unused part of its last column or row in front.
        spare_x = columns - scale * size_C2[chart, 0] - 2.0 * gutter
        spare_y = rows - scale * size_C2[chart, 1] - 2.0 * gutter
        offset_C2[chart, 0] = best_x + (spare_y if best_turn == 1 else (spare_x if best_turn == 2 else 0.0))
        offset_C2[chart, 1] = best_y + (spare_y if best_turn == 2 else (spare_x if best_turn == 3 else 0.0))
    fits_T[number] = True
    return True
