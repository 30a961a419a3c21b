"""Samples into micro-batches: a row for each, padded on the right, or one after another in a single row.

A micro-batch of n tokens has n - 1 positions a sample (see `recipes.actors.interface`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from recipes.actors.interface import MicroBatch, TokenizedSample


def micro_batches(
    samples: Sequence[TokenizedSample], token_budget: int, pad_id: int, packed: bool = False
) -> list[tuple[list[int], MicroBatch]]:
    """Distribute samples, longest first, over micro-batches of at most `token_budget` tokens each, padding included.

    Args:
        packed: one after another in a single row, without padding.

    Returns:
        Pairs of the indices into `samples` and the micro-batch. A sample longer than the budget stands alone.
    """
    found = packs([len(sample.token_ids) for sample in samples], token_budget, packed)
    return [(pack, _fill([samples[i] for i in pack], pad_id, packed)) for pack in found]


def packs(lengths: Sequence[int], token_budget: int, packed: bool = False) -> list[list[int]]:
    """The indices of each micro-batch that `micro_batches` makes of samples of so many tokens, the longest first.

    Padded rows: neighbours in length, cut where the budget ends. Packed: each where it fits first.
    """
    found: list[list[int]] = []
    room: list[int] = []  # packed only
    for index in longest_first(lengths):
        length = lengths[index]
        if packed:
            place = next((n for n, free in enumerate(room) if free >= length), None)
        else:
            fits = found and (len(found[-1]) + 1) * lengths[found[-1][0]] <= token_budget
            place = len(found) - 1 if fits else None
        if place is None:
            found.append([index])
            room.append(token_budget - length)
        else:
            found[place].append(index)
            room[place] -= length
    return found


def positions(lengths: Sequence[int], multiple: int = 1, packed: bool = False) -> int:
    """Positions that a pass computes for one micro-batch of samples of so many tokens, padding included.

    Args:
        multiple: rows are padded to a multiple of this.
    """
    rows = [sum(lengths) - len(lengths)] if packed else [max(lengths) - 1] * len(lengths)
    return sum(-(-width // multiple) * multiple for width in rows)


def shares(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Indices of each data-parallel rank's samples, dealt by length so that ranks carry equal token counts."""
    order = longest_first(lengths)
    return [order[rank::ranks] for rank in range(ranks)]


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Indices by falling length; equal lengths keep their order."""
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def _fill(samples: Sequence[TokenizedSample], pad_id: int, packed: bool) -> MicroBatch:
    widths = [len(sample.token_ids) - 1 for sample in samples]
    shape = (1, sum(widths)) if packed else (len(samples), max(widths))
    ids_bt, labels_bt = (torch.full(shape, pad_id, dtype=torch.int64) for _ in range(2))
    mask_bt = torch.zeros(shape, dtype=torch.bool)
    per_token_bt = {name: torch.zeros(shape) for name in samples[0].per_token}
    places = []
    for sample, width, (row, start) in zip(samples, widths, _starts(widths, packed), strict=True):
        ids = torch.as_tensor(sample.token_ids)
        ids_bt[row, start : start + width] = ids[:-1]
        labels_bt[row, start : start + width] = ids[1:]
        place = (row, slice(start + sample.prompt_length - 1, start + width))
        mask_bt[place] = True
        for name, values in sample.per_token.items():
            per_token_bt[name][place] = values
        places.append(place)
    return MicroBatch(ids_bt, labels_bt, mask_bt, per_token_bt, places, widths if packed else None)


def _starts(widths: Sequence[int], packed: bool) -> Iterator[tuple[int, int]]:
    """The row and the first position of each sample."""
    start = 0
    for number, width in enumerate(widths):
        yield (0, start) if packed else (number, 0)
        start += width
