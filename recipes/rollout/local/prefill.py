"""Prompts into the rows of samples that have just entered: each read once, and copied wherever it stands already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from recipes.rollout.local.batch import Batch
from recipes.rollout.local.decoder import Decoder

PREFILL_TOKENS = 8192  # of one pass, padding included, unless one prompt has more


def fill(decoder: Decoder, batch: Batch, first: int) -> None:
    """Give the rows from `first` on their prompts' keys and values, last token left aside.

    Args:
        decoder: reads them.
        batch: its rows before `first` run; those from there on are ordered by falling length of their prompts.
        first: the first row that is new.
    """
    samples = batch.samples
    row_of = {sample.prompt_key: row for row, sample in enumerate(samples[:first])}
    unread: list[int] = []
    copies: list[tuple[int, int]] = []
    for row, sample in enumerate(samples[first:], start=first):
        prompt = sample.request.prompt_ids
        if len(prompt) == 1:
            continue
        source = row_of.get(sample.prompt_key)
        if source is not None and samples[source].request.prompt_ids == prompt:
            copies.append((row, source))
        else:
            row_of[sample.prompt_key] = row
            unread.append(row)
    _read(decoder, batch, unread)
    _copy(batch, copies)


def _read(decoder: Decoder, batch: Batch, rows: Sequence[int]) -> None:
    prompts = [batch.samples[row].request.prompt_ids[:-1] for row in rows]
    for start, stop in _portions([len(prompt) for prompt in prompts]):
        width = len(prompts[start])
        ids_pt = torch.zeros(stop - start, width, dtype=torch.int64)
        for row_ids_t, prompt in zip(ids_pt, prompts[start:stop], strict=True):
            row_ids_t[: len(prompt)] = torch.tensor(prompt)
        batch.cache.reserve(len(batch), width)
        rows_p = torch.tensor(rows[start:stop], device=batch.device)
        decoder.read(ids_pt.to(batch.device), batch.cache, rows_p)


def _copy(batch: Batch, pairs: Sequence[tuple[int, int]]) -> None:
    """Fill the first row of every pair from the second."""
    widths = [len(batch.samples[target].request.prompt_ids) - 1 for target, _ in pairs]
    for start, stop in _portions(widths):
        batch.cache.reserve(len(batch), widths[start])
        targets_m, sources_m = torch.tensor(pairs[start:stop], device=batch.device).unbind(1)
        batch.cache.copy(targets_m, sources_m, widths[start])


def _portions(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut falling lengths into runs of at most `PREFILL_TOKENS` once padded, each of at least one."""
    start = 0
    while start < len(lengths):
        stop = min(start + max(1, PREFILL_TOKENS // lengths[start]), len(lengths))
        yield start, stop
        start = stop
