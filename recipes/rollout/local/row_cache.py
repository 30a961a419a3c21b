"""Keys and values of a batch that changes all the time: one row a sample, one column a position."""

from __future__ import annotations

import torch
from torch import Tensor

ROW_STEP = 32
COLUMN_STEP = 128


class RowCache:
    """Preallocated keys and values, [rows, kv heads, columns, head width] a layer.

    Whoever writes keeps count of how far a row is filled: what lies beyond is finite, and means nothing.
    """

    def __init__(self, layers: int, kv_heads: int, head_dim: int, device: torch.device, dtype: torch.dtype) -> None:
        """An empty cache; `reserve` takes memory."""
        self._empty = torch.zeros(0, kv_heads, 0, head_dim, device=device, dtype=dtype)
        self.keys: list[Tensor] = [self._empty] * layers
        self.values: list[Tensor] = [self._empty] * layers

    @property
    def rows(self) -> int:
        """Rows that memory is held for."""
        return self.keys[0].shape[0]

    @property
    def columns(self) -> int:
        """Positions of each row that memory is held for."""
        return self.keys[0].shape[2]

    def reserve(self, rows: int, columns: int) -> None:
        """Have at least so many rows and columns, in coarse steps. The first `rows` keep what is there."""
        if rows <= self.rows and columns <= self.columns:
            return
        # Only the longest samples ask for more columns, when others are over: rows that nobody needs are left behind.
        rows = -(-rows // ROW_STEP) * ROW_STEP
        columns = max(self.columns, -(-columns // COLUMN_STEP) * COLUMN_STEP)
        for stored in (self.keys, self.values):
            for layer, old in enumerate(stored):
                # Zeros: attention weighs what it masks with 0, and 0 times whatever lay in memory may be NaN.
                new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
                new[: old.shape[0], :, : old.shape[2]] = old[:rows]
                stored[layer] = new

    def copy(self, targets: Tensor, sources: Tensor, width: int) -> None:
        """Overwrite the first `width` columns of the rows `targets` by those of the rows `sources`, as they are now.

        Args:
            targets, sources: int64 [m], on the cache's device.
        """
        for stored in (self.keys, self.values):
            for tensor in stored:
                tensor[targets, :, :width] = tensor[sources, :, :width]

    def clear(self) -> None:
        """Give the memory back."""
        self.keys = [self._empty] * len(self.keys)
        self.values = [self._empty] * len(self.values)
