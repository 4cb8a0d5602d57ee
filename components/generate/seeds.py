"""Seed lists as people type them."""

from __future__ import annotations

from get3d_model.errors import InputError

MAX_SEEDS = 100_000


def parse_seeds(text: str, option: str = "--seeds") -> list[int]:
    """`0-15`, `3`, `1,5,9-12` -> seeds in the order given. option: for messages. Raises InputError."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InputError(
                f"{option} {text!r}: {part.strip()!r} is not a seed or a range; write 0-15 or 1,5,9-12"
            )
        low, high = int(first), int(last) if dash else int(first)
        if high < low:
            raise InputError(f"{option} {text!r}: {part.strip()!r} runs backwards; write {high}-{low}")
        if len(seeds) + high - low + 1 > MAX_SEEDS:
            raise InputError(f"{option} {text!r}: more than {MAX_SEEDS} seeds; split the run")
        seeds.extend(range(low, high + 1))
    return seeds
