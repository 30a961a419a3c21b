"""Cutting a batch of rows into runs of similar length, so that attention reads little padding."""

from __future__ import annotations

import numpy as np

BLOCK = 16  # rows; no run is cut finer


def spans(lengths: np.ndarray, call_cost: int) -> list[tuple[int, int]]:
    """Cut rows into runs, each read by one call of attention as far as its longest row.

    Args:
        lengths: [rows] columns of each row, at least one row.
        call_cost: cells of padding (rows × columns) that cost as much as one call more.

    Returns:
        (first row, row after the last) of every run, without gaps. A run of several blocks holds at most `call_cost`
        cells of padding.
    """
    starts = np.arange(0, len(lengths), BLOCK)
    tops, sums = np.maximum.reduceat(lengths, starts).tolist(), np.add.reduceat(lengths, starts).tolist()
    cuts, first, top, real = [], 0, tops[0], 0
    for start, block_top, block_sum in zip(starts.tolist(), tops, sums, strict=True):
        stop = min(start + BLOCK, len(lengths))
        together = max(top, block_top)
        if start > first and (stop - first) * together - (real + block_sum) > call_cost:
            cuts.append((first, start))
            first, together, real = start, block_top, 0
        top, real = together, real + block_sum
    return [*cuts, (first, len(lengths))]


def padding(lengths: np.ndarray, cuts: list[tuple[int, int]]) -> int:
    """Cells that attention reads beyond the rows' ends, where it reads in these runs."""
    return sum((stop - first) * int(lengths[first:stop].max()) for first, stop in cuts) - int(lengths.sum())
